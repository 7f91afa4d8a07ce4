"""What runs is what was read when the study started: each trial has a copy of the submission of its own."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from harness.api import ConfigError, visible
from harness.commands import bench
from harness.config import PruningConfig, RulesetConfig
from harness.plugins.submission import files_of, load_submission
from harness.plugins.submission_files import read_files
from harness.study.identity import describe
from harness.study.study import run_study
from tests.commands.test_bench import FAST
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission

TWO_TRIALS = RulesetConfig("quick", 1, 1, 2, "defaults", 1.0, "adamw")
# Where the copy is read-only, the note is not left at all.
LEAVES_A_NOTE = SGD.replace(
    "def train(trial, hp):",
    """import contextlib
    from pathlib import Path
    NOTE = Path(__file__).parent / "note.txt"

    def train(trial, hp):
        trial.log(found=float(NOTE.exists()))
        with contextlib.suppress(OSError):
            NOTE.write_text("what this trial learned")""",
)


class Edits(io.StringIO):
    """A terminal before which somebody edits submission.py when the first trial is over."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def write(self, text: str) -> int:
        if "trial 0" in text:
            self._path.write_text("def train(trial, hp):\n    raise ValueError('edited')\n")
        return super().write(text)


def trials_of(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "runs" / "trials").sort_values("trial")


def test_a_submission_that_writes_beside_itself_finishes_and_tells_no_other_trial(tmp_path):
    folder = write_submission(tmp_path / "notes", LEAVES_A_NOTE)
    config = study_config(tmp_path / "results", folder, ruleset=TWO_TRIALS, pruning=PruningConfig("none"))
    run(config)
    assert trials_of(tmp_path / "results")["status"].tolist() == ["reached", "reached"]
    evaluations = pd.read_parquet(tmp_path / "results" / "runs" / "evaluations")
    assert {json.loads(text)["found"] for text in evaluations["reported"]} == {0.0}
    assert sorted(path.name for path in visible(folder, "*")) == ["submission.py", "submission.yaml"]
    assert run(config) == ""
    assert visible(tmp_path / "results" / "runs" / "scratch", "*") == []


def test_an_edit_while_a_study_runs_reaches_the_next_study_and_no_trial_of_this_one(tmp_path):
    folder = write_submission(tmp_path / "edited", SGD)
    config = study_config(tmp_path / "results", folder, ruleset=TWO_TRIALS, pruning=PruningConfig("none"))
    study = describe(config)
    run_study(study, Console(file=Edits(folder / "submission.py"), width=200))
    rows = trials_of(tmp_path / "results")
    assert rows["status"].tolist() == ["reached", "reached"]
    assert set(rows["submission_hash"]) == {study.submission.content_hash}
    assert describe(config).submission.content_hash != study.submission.content_hash
    run(dataclasses.replace(config, study=1))
    assert set(trials_of(tmp_path / "results")["status"]) == {"reached", "crashed"}


def test_a_bench_counts_the_rows_of_what_ran_though_the_directory_is_another_by_then(tmp_path, capfd):
    folder = tmp_path / "restless"
    writes = f"""
        import contextlib
        from pathlib import Path

        with contextlib.suppress(OSError):
            Path({str(folder / "new.txt")!r}).write_text("new")
    """
    write_submission(folder, textwrap.dedent(writes) + textwrap.dedent(SGD))
    arguments = ["workload=digits_mlp", f"submission={folder}", f"results={tmp_path / 'results'}", *FAST]
    assert bench.main(arguments) == 0, capfd.readouterr().out


def test_a_traceback_names_the_files_as_their_author_knows_them(tmp_path):
    bad = write_submission(tmp_path / "bad", "import helper\n\ndef train(trial, hp):\n    helper.fail()\n")
    (bad / "helper.py").write_text("def fail():\n    raise ValueError('no such luck')\n")
    run(study_config(tmp_path, bad))
    row = trials_of(tmp_path).iloc[0]
    assert row["reason"] == "ValueError: no such luck (helper.py:2)"
    log = (tmp_path / "runs" / "logs" / f"{row['trial_id']}.txt").read_text()
    assert f'File "{bad / "helper.py"}", line 2, in fail\n    raise ValueError' in log
    assert "scratch" not in log


def test_linked_folders_are_part_of_a_submission_and_hidden_files_pipes_and_loops_are_not(tmp_path):
    folder = write_submission(tmp_path / "mine", SGD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rule.py").write_text("RATE = 1\n")
    before = load_submission(str(folder)).content_hash
    (folder / "helpers").symlink_to(elsewhere)
    (folder / "again.py").symlink_to(elsewhere / "rule.py")
    (elsewhere / "loop").symlink_to(folder)
    (folder / "nothing").symlink_to(tmp_path / "nowhere")
    (folder / ".notes").write_text("hidden")
    os.mkfifo(folder / "pipe")
    files = read_files(folder)
    assert list(files.content) == ["again.py", "helpers/rule.py", "submission.py", "submission.yaml"]
    linked = load_submission(str(folder)).content_hash
    assert linked != before
    (elsewhere / "rule.py").write_text("RATE = 2\n")
    assert load_submission(str(folder)).content_hash != linked


def test_a_copy_has_the_files_that_are_hashed_their_bytes_and_whether_they_can_be_run(tmp_path):
    folder = write_submission(tmp_path / "mine", SGD)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "tool.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "deep" / "er" / "tool.sh").chmod(0o755)
    files = read_files(folder)
    files.write(tmp_path / "copy")
    assert read_files(tmp_path / "copy") == files
    assert os.access(tmp_path / "copy" / "deep" / "er" / "tool.sh", os.X_OK)
    assert not (tmp_path / "copy").stat().st_mode & 0o077


def test_a_directory_that_changed_between_reading_and_starting_is_not_run(tmp_path):
    folder = write_submission(tmp_path / "mine", SGD)
    study = describe(study_config(tmp_path, folder))
    (folder / "submission.py").write_text("def train(trial, hp): pass\n")
    with pytest.raises(ConfigError, match="has changed since it was read"):
        files_of(study.submission)
