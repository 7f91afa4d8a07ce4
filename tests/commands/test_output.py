"""What commands say, whatever the text, wherever it goes, and what it leaves behind where it cannot go there."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.table import Table

from harness.api import DataError, visible
from harness.command_line import PlainConsole
from harness.commands import bench, dashboard
from harness.commands.leaderboard import Choice, show
from tests.board.dashboard_site import record
from tests.commands.test_bench import FAST, write
from tests.conftest import ISO, environment
from tests.records.imported.test_algoperf_import import write_trial
from tests.scoring.scoring_tables import trial_rows
from tests.scoring.scoring_tables import write as write_rows

MARKUP = "[/x] [red]state[/red] :smile: ≤"
FIVE_STEPS = """
    def train(trial, hp):
        for step, batch in enumerate(trial.batches()):
            if step == 5:
                trial.finish()
"""


def run(*arguments: object, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(**changes), capture_output=True, encoding="utf-8", check=False
    )


def into_closed_pipe(*arguments: object, folder: Path, listener: str = "true") -> tuple[int, str]:
    """Exit code of a command whose listener goes away early, and what it says on stderr."""
    pipe = f'"$@" | {listener}; exit "${{PIPESTATUS[0]}}"'
    command = ["bash", "-c", pipe, "bash", sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", check=False)
    return done.returncode, done.stderr


# --- any text ---


def test_text_is_shown_as_it_is_in_lines_and_tables():
    shown = io.StringIO()
    console = PlainConsole(shown, width=80)
    console.print(MARKUP)
    table = Table(MARKUP, title=MARKUP)
    table.add_row(MARKUP)
    console.print(table)
    assert shown.getvalue().count(MARKUP) == 4


def test_what_an_encoding_does_not_have_becomes_an_escape():
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PlainConsole(written).print("≤ 0.1 \udcff")
    assert written.detach().getvalue() == rb"\u2264 0.1 \udcff" + b"\n"


def test_names_that_are_markup_stay_names_on_the_terminal_and_in_markdown(tmp_path):
    write_rows(tmp_path / "runs", [trial_rows("_w_", "[x]*|", 5.0), trial_rows("_w_", "<b>", 6.0)])
    shown = io.StringIO()
    show(Choice(results=str(tmp_path)), PlainConsole(shown, width=100))
    assert shown.getvalue().count("[x]*|") == 4  # three tables, and the note that it is not here
    page = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert r"| \_w\_ |" in page
    assert r"| 1 | \[x\]\*\| |" in page
    assert r"| 2 | \<b> |" in page


def test_an_error_message_of_any_characters_is_a_row_and_costs_no_other_study(tmp_path, capfd):
    bad = write(tmp_path / "bad", f"def train(trial, hp):\n    raise ValueError('\\udcff\\x1b[2J {MARKUP}')\n")
    assert bench.main(["workload=digits_mlp", f"submission={bad},adamw", f"results={tmp_path}", *FAST]) == 1
    trials = pd.read_parquet(tmp_path / "runs" / "trials").set_index("submission")
    assert trials.loc["bad", "reason"] == rf"ValueError: \udcff\x1b[2J {MARKUP} (submission.py:2)"
    assert trials.loc["adamw", "status"] in ("reached", "out_of_budget")
    assert rf"\udcff\x1b[2J {MARKUP}" in capfd.readouterr().out


def test_a_study_that_fails_in_an_unforeseen_way_costs_no_other_study(tmp_path, capfd):
    good = write(tmp_path / "good", FIVE_STEPS)
    arguments = ["workload=digits_mlp", f"results={tmp_path}", *FAST]
    assert bench.main([*arguments, f"submission={good}"]) == 0
    [row] = visible(tmp_path / "runs" / "trials", "**/*.parquet")
    row.unlink()
    journal = tmp_path / "runs" / "journal" / f"{row.stem}.jsonl"
    journal.write_text(json.dumps({"kind": "end"}) + "\n", encoding="utf-8")  # as no version of this project writes it
    assert bench.main([*arguments, f"submission={good},adamw"]) == 2
    captured = capfd.readouterr()
    assert "study 0: error: " in captured.out
    assert "1 trials have no row" in captured.err
    assert pd.read_parquet(tmp_path / "runs" / "trials")["submission"].tolist() == ["adamw"]


# --- any locale ---

_imports_torch = pytest.mark.skipif(
    not sys.prefix.isascii(),
    reason="torch itself cannot be imported from this path in that locale; make sets PYTHONUTF8, so that it never is",
)


@_imports_torch
def test_a_locale_without_utf_8_costs_no_row_no_log_and_no_page(tmp_path):
    prints = write(tmp_path / "prints", 'print("≤ 0.1")\n' + textwrap.dedent(FIVE_STEPS))
    arguments = ["workload=digits_mlp", f"submission={prints}", f"results={tmp_path}", *FAST]
    done = run("harness.commands.bench", *arguments, folder=tmp_path, **ISO)
    assert done.returncode == 0, done.stderr
    trials = pd.read_parquet(tmp_path / "runs" / "trials").set_index("submission")
    assert trials.loc["prints", "status"] == "finished"
    log = tmp_path / "runs" / "logs" / f"{trials.loc['prints', 'trial_id']}.txt"
    assert log.read_text(encoding="utf-8") == "≤ 0.1\n"
    done = run("harness.commands.dashboard", f"results={tmp_path}", "tracking=off", folder=tmp_path, **ISO)
    assert done.returncode == 0, done.stderr
    assert "τ" in (tmp_path / "board" / "assets" / "figures.js").read_text(encoding="utf-8")


@pytest.mark.slow
@_imports_torch
def test_jobs_in_a_locale_without_utf_8_have_rows(tmp_path):
    pytest.importorskip("joblib", reason="joblib is not installed: .venv/bin/pip install joblib")
    arguments = ["workload=digits_mlp", "submission=adamw,muon", "hydra/launcher=joblib", f"results={tmp_path}", *FAST]
    done = run("harness.commands.bench", *arguments, folder=tmp_path, **ISO)
    assert done.returncode == 0, done.stderr
    assert sorted(pd.read_parquet(tmp_path / "runs" / "trials")["submission"]) == ["adamw", "muon"]


# --- any output ---


def test_a_bench_goes_on_when_nobody_listens_any_more_and_its_exit_code_is_that_of_the_rows(tmp_path):
    bad = write(tmp_path / "bad", "def train(trial, hp):\n    raise ValueError('no')\n")
    arguments = ["workload=digits_mlp", f"submission=adamw,{bad}", f"results={tmp_path / 'results'}", *FAST]
    code, said = into_closed_pipe("harness.commands.bench", *arguments, folder=tmp_path, listener="head -n 1")
    assert (code, said) == (1, "")
    assert sorted(pd.read_parquet(tmp_path / "results" / "runs" / "trials")["submission"]) == ["adamw", "bad"]
    for folder in ("jobs", "runs/journal"):
        assert visible(tmp_path / "results" / folder, "*") == []
    assert (tmp_path / "results" / "board" / "leaderboard.md").exists()


def test_small_commands_say_nothing_of_a_closed_pipe(tmp_path):
    record(tmp_path / "runs")
    write_trial(tmp_path / "logs", "s/study_0/mnist_jax/trial_1", ["1.0,10,0.1,2.0,0.1,0.1,0.1"])
    targets = {"mnist": {"target_metric_name": "wer", "validation_target_value": 0.1, "step_hint": 1}}
    content = json.dumps({"benchmark_version": "0.5", "workloads": targets})
    (tmp_path / "targets.json").write_text(content, encoding="utf-8")
    imported = [f"logs={tmp_path / 'logs'}", f"targets={tmp_path / 'targets.json'}", f"results={tmp_path / 'imported'}"]
    for command in (
        ["harness.commands.data", "workload=digits_mlp"],
        ["harness.commands.dashboard", f"results={tmp_path}", "tracking=off"],
        ["harness.commands.imports.import_algoperf", *imported, "workers=1"],
    ):
        assert into_closed_pipe(*command, folder=tmp_path) == (0, ""), command
    assert (tmp_path / "board" / "index.html").exists()
    assert (tmp_path / "imported" / "runs" / "trials").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_no_reason_to_stop():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        console = PlainConsole(full)
        console.print("a line that nobody will read")
        console.print("and another one")


# --- a full disk ---


def test_a_full_disk_is_one_line_however_little_is_free(tmp_path, small_disk, capfd):
    bench_of = ["workload=digits_mlp", f"results={small_disk}", *FAST]
    kept = write(tmp_path / "kept", FIVE_STEPS)
    assert bench.main([*bench_of, f"submission={kept}"]) == 0
    recorded = {path: path.read_bytes() for path in visible(small_disk, "**/*.parquet")}
    assert len(recorded) == 2
    filler = small_disk / "filler"
    for kibibytes in (0, 16, 20, 32):
        new = write(tmp_path / f"new{kibibytes}", FIVE_STEPS)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - (kibibytes << 10)))
        capfd.readouterr()
        code = bench.main([*bench_of, f"submission={kept},{new}"])
        captured = capfd.readouterr()
        said = captured.out + captured.err
        filler.unlink()
        assert code in (0, 2)
        assert code == 0 or said.count("No space left on device") >= 1, said
        assert "Traceback" not in said
        assert bench.main([*bench_of, f"submission={new}"]) == 0
        assert {path: path.read_bytes() for path in recorded} == recorded
        shutil.rmtree(small_disk / "runs" / "trials" / "workload=digits_mlp" / f"submission={new.name}")
        shutil.rmtree(small_disk / "runs" / "evaluations" / "workload=digits_mlp" / f"submission={new.name}")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: no file may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in visible(folder, "**/*") if path.is_file()
    }


def test_a_site_stays_as_it_is_where_a_new_one_does_not_fit(tmp_path):
    record(tmp_path / "runs")
    assert dashboard.main([f"results={tmp_path}", "tracking=off"]) == 0
    before = contents(tmp_path / "board")
    assert len(before) > 30
    with files_of_at_most(1 << 20), pytest.raises(DataError, match="cannot write"):
        dashboard.main([f"results={tmp_path}", "tracking=off", "submission=adamw"])
    assert contents(tmp_path / "board") == before


def test_a_board_is_shown_where_its_page_cannot_be_written(tmp_path):
    record(tmp_path / "runs")
    (tmp_path / "board").write_text("a file where a folder should be", encoding="utf-8")
    shown = io.StringIO()
    show(Choice(results=str(tmp_path)), PlainConsole(shown, width=100))
    assert "muon" in shown.getvalue()
    assert "not written: " in shown.getvalue()
