"""A study from its configuration to its rows: what runs, what does not run twice, and what a cut leaves behind."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import math
import textwrap
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from harness.api import Budget, ConfigError, DataError, Target, visible
from harness.command_line import PlainConsole
from harness.config import HardwareConfig, PruningConfig, RulesetConfig, StudyConfig, TrackingConfig, WorkloadConfig
from harness.records.tables import Records
from harness.study.identity import describe, trial_key, trial_seed
from harness.study.study import run_study
from tests.blobs import Blobs
from tests.conftest import BLOBS, SGD


@pytest.fixture
def submission(tmp_path) -> Path:
    return write_submission(tmp_path / "plain_sgd", SGD)


def write_submission(folder: Path, source: str, hyperparameters: str = "{learning_rate: 0.05}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "submission.py").write_text(textwrap.dedent(source))
    (folder / "submission.yaml").write_text(
        f"title: a test\nauthors: nobody\npaper: none\nhyperparameters: {hyperparameters}\n"
    )
    return folder


def study_config(results: Path, submission: Path, **changes: Any) -> StudyConfig:
    splits = {split: Blobs().load(split, Path()).digest() for split in ("train", "validation", "test")}
    workload = WorkloadConfig(
        name="blobs",
        version=1,
        entry=BLOBS,
        options={},
        parameters=18,
        batch_size=32,
        eval_batch_size=256,
        target=Target("error", "min", 0.02),
        budget=Budget(steps=400, evaluations=8),
        data=splits,
    )
    values: dict[str, Any] = {
        "workload": workload,
        "ruleset": RulesetConfig("quick", 1, 1, 1, "defaults", 1.0, "adamw"),
        "hardware": HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.0025}),
        "tracking": TrackingConfig("off", "timetrial"),
        "pruning": PruningConfig("study"),
        "submission": str(submission),
        "study": 0,
        "seed": 0,
        "hp": {},
        "results": results,
        "evaluate_every_steps": None,
    }
    return StudyConfig(**{**values, **changes})


def run(config: StudyConfig) -> str:
    said = io.StringIO()
    run_study(describe(config), PlainConsole(said, width=200))
    return said.getvalue()


def test_a_row_says_how_many_examples_went_through_the_network_at_once(tmp_path, submission):
    rows = []
    for sizes in ({"blobs": 8}, {"another": 8}):
        hardware = HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.001}, micro_batches=sizes)
        run(study_config(tmp_path / "results", submission, hardware=hardware))
        trials = pd.read_parquet(tmp_path / "results" / "runs" / "trials")
        rows.append(len(trials))
    assert rows == [1, 2], "it is another trial"
    assert sorted(trials["micro_batch"].fillna(0)) == [0, 8]


def test_a_study_leaves_a_trial_row_and_its_evaluation_rows(tmp_path, submission):
    config = study_config(tmp_path / "results", submission)
    said = run(config)
    trials = pd.read_parquet(tmp_path / "results" / "runs" / "trials")
    evaluations = pd.read_parquet(tmp_path / "results" / "runs" / "evaluations")
    row = trials.iloc[0]
    assert (row["status"], row["workload"], row["submission"]) == ("reached", "blobs", "plain_sgd")
    assert row["max_runtime"] == pytest.approx(1.0)
    assert row["eval_period"] == pytest.approx(0.125)
    assert row["time_to_target"] == evaluations["charged_seconds"].iloc[-1] < math.inf
    assert row["steps_to_target"] == evaluations["step"].iloc[-1] == row["steps"]
    assert row["best_validation"] == evaluations["validation"].min() <= 0.02
    assert json.loads(row["hyperparameters"]) == {"learning_rate": 0.05}
    assert row["peak_host_bytes"] > 0
    assert row["frozen"]
    assert "reached" in said


def test_the_referee_evaluates_with_as_many_threads_as_the_trainer_has(tmp_path, submission):
    torch.set_num_threads(2)
    run(study_config(tmp_path / "results", submission))
    assert torch.get_num_threads() == 1


def test_what_has_a_row_is_not_run_again(tmp_path, submission):
    config = study_config(tmp_path, submission)
    run(config)
    assert run(config) == ""
    assert len(pd.read_parquet(tmp_path / "runs" / "trials")) == 1


def test_a_changed_submission_or_hyperparameter_or_seed_is_another_trial(tmp_path, submission):
    config = study_config(tmp_path, submission)
    keys = {trial_key(describe(config), 0).trial_id}
    for changes in ({"hp": {"learning_rate": 0.1}}, {"seed": 1}, {"evaluate_every_steps": 10}, {"study": 1}):
        keys.add(trial_key(describe(dataclasses.replace(config, **changes)), 0).trial_id)
    write_submission(submission, SGD + "\n    # changed\n")
    keys.add(trial_key(describe(config), 0).trial_id)
    assert len(keys) == 6


def test_the_seed_depends_on_workload_study_and_trial_and_not_on_the_submission():
    ruleset = RulesetConfig("quick", 1, 1, 1, "defaults", 1.0, "adamw")
    seeds = {
        trial_seed(ruleset, workload, study, trial, seed)
        for workload in ("a", "b") for study in (0, 1) for trial in (0, 1) for seed in (0, 1)
    }  # fmt: skip
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_crash_has_a_row_with_its_reason_and_its_log_is_kept(tmp_path):
    bad = write_submission(tmp_path / "bad", "def train(trial, hp):\n    raise ValueError('no such luck')\n")
    run(study_config(tmp_path, bad))
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert (row["status"], row["reason"]) == ("crashed", "ValueError: no such luck (submission.py:2)")
    assert math.isinf(row["time_to_target"])
    assert "Traceback" in (tmp_path / "runs" / "logs" / f"{row['trial_id']}.txt").read_text()


def test_later_trials_of_a_study_are_pruned_at_its_best_time(tmp_path):
    source = """
        import time, torch

        def train(trial, hp):
            slow = trial.seed != {fast_seed}
            optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05)
            for batch in trial.batches():
                if slow:
                    time.sleep(0.5)
                    continue
                optimizer.zero_grad()
                trial.loss(batch).backward()
                optimizer.step()
    """
    ruleset = RulesetConfig("quick", 1, 1, 3, "defaults", 1.0, "adamw")
    slow = write_submission(tmp_path / "slow", source.format(fast_seed=trial_seed(ruleset, "blobs", 0, 0, 0)))
    run(study_config(tmp_path, slow, ruleset=ruleset, hardware=HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.01})))
    trials = pd.read_parquet(tmp_path / "runs" / "trials").sort_values("trial")
    assert trials["status"].tolist() == ["reached", "pruned", "pruned"]
    best = trials["time_to_target"].iloc[0]
    assert all(best <= seconds < best + 0.5 for seconds in trials["charged_seconds"].iloc[1:])
    assert all("earlier trial" in text for text in trials["pruned_by"].iloc[1:])


def test_a_trial_that_was_over_when_its_rows_could_not_be_written_is_not_run_again(tmp_path, submission):
    config = study_config(tmp_path, submission)
    blocked = tmp_path / "runs" / "trials"
    blocked.parent.mkdir()
    blocked.write_text("a file where a folder should be")
    with pytest.raises(DataError, match="cannot write"):
        run(config)
    journal = visible(tmp_path / "runs" / "journal", "*")[0].read_text(encoding="utf-8").splitlines()
    finished = json.loads(journal[-1])["trial"]
    blocked.unlink()
    assert run(config) == ""  # nothing raced
    row = pd.read_parquet(blocked).iloc[0]
    assert row["started_at"].isoformat() == finished["started_at"]
    assert row["time_to_target"] == finished["time_to_target"]
    assert visible(tmp_path / "runs" / "journal", "*") == []


def test_a_trial_that_was_cut_off_starts_again(tmp_path, submission):
    config = study_config(tmp_path, submission)
    path = tmp_path / "runs" / "journal" / f"{trial_key(describe(config), 0).trial_id}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"kind": "start"}\n{"kind": "evaluation", "step": 999999}\n')
    run(config)
    assert 999999 not in pd.read_parquet(tmp_path / "runs" / "evaluations")["step"].tolist()
    assert len(pd.read_parquet(tmp_path / "runs" / "trials")) == 1


def test_a_split_of_other_content_ends_the_study_with_one_error(tmp_path, submission):
    config = study_config(tmp_path, submission)
    altered = dataclasses.replace(config.workload, data={**config.workload.data, "validation": "0" * 64})
    with pytest.raises(DataError, match="validation split"):
        run(dataclasses.replace(config, workload=altered))


def test_the_version_of_a_library_that_a_submission_brings_in_is_in_its_rows_and_its_ids(tmp_path, submission):
    (submission / "requirements.txt").write_text("scipy\n")
    study = describe(study_config(tmp_path, submission))
    assert study.libraries == {"scipy": importlib.metadata.version("scipy")}
    updated = dataclasses.replace(study, libraries={"scipy": "99.0"})
    assert trial_key(updated, 0) != trial_key(study, 0)
    run(study.config)
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert json.loads(row["versions"])["scipy"] == study.libraries["scipy"]
    assert (row["study_seed"], row["overrides"]) == (0, "{}")


def test_overrides_are_written_down_as_the_submission_reads_them(tmp_path, submission):
    run(study_config(tmp_path, submission, seed=3, hp={"learning_rate": 0.1}))
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    assert (row["study_seed"], json.loads(row["overrides"])) == (3, {"learning_rate": 0.1})


def test_a_row_of_which_a_cut_left_an_empty_file_is_written_from_the_journal(tmp_path, submission):
    config = study_config(tmp_path, submission)
    blocked = tmp_path / "runs" / "trials"
    blocked.parent.mkdir()
    blocked.write_text("a file where a folder should be")
    with pytest.raises(DataError, match="cannot write"):
        run(config)
    blocked.unlink()
    row = Records(tmp_path / "runs").path("trials", trial_key(describe(config), 0))
    row.parent.mkdir(parents=True)
    row.touch()
    assert run(config) == ""  # nothing raced
    assert len(pd.read_parquet(blocked)) == 1


def test_an_unknown_hyperparameter_names_the_near_one(tmp_path, submission):
    with pytest.raises(ConfigError, match="learning_rate"):
        describe(study_config(tmp_path, submission, hp={"learnin_rate": 0.1}))


def test_wandb_offline_gets_the_same_rows(tmp_path, submission):
    said = run(study_config(tmp_path, submission, tracking=TrackingConfig("offline", "timetrial")))
    assert "W&B" not in said
    row = pd.read_parquet(tmp_path / "runs" / "trials").iloc[0]
    wait_for_wandb(
        tmp_path, "blobs/plain_sgd", row["trial_id"], "by_charged_seconds/validation", "by_step/validation", "reached"
    )


def wait_for_wandb(results: Path, *wanted: str) -> None:
    """Return when the one offline run holds these texts: W&B writes in a process of its own."""
    (run,) = visible(results / "wandb", "offline-run-*/*.wandb")
    deadline = time.monotonic() + 20.0
    while missing := [text for text in wanted if text.encode() not in run.read_bytes()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)


NAN_LOSS = SGD.replace(
    "optimizer.step()",
    "optimizer.step(); trial.log(rate=float('inf'), **({'train_loss': float('nan')} if trial.step >= 150 else {}))",
)


def test_a_reported_nan_can_be_told_from_what_was_not_reported_everywhere_that_it_is_kept(tmp_path):
    config = study_config(
        tmp_path,
        write_submission(tmp_path / "diverging", NAN_LOSS),
        tracking=TrackingConfig("offline", "timetrial"),
        evaluate_every_steps=100,
    )
    said = run(
        dataclasses.replace(config, workload=dataclasses.replace(config.workload, target=Target("error", "min", -1.0)))
    )
    table = pq.ParquetDataset(tmp_path / "runs" / "evaluations").read().sort_by("evaluation")
    losses = table["train_loss"].to_pylist()
    assert losses[0] is None
    assert math.isnan(losses[1])
    # No parser of JSON reads a bare NaN.
    assert json.loads(table["reported"][0].as_py()) == {"rate": "Infinity"}
    assert json.loads(table["reported"][1].as_py()) == {"rate": "Infinity", "train_loss": "NaN"}
    assert "W&B" not in said
    wait_for_wandb(tmp_path, "by_step/train_loss", "by_step/reported/rate")


def test_wandb_that_cannot_be_reached_does_not_hurt_a_trial(tmp_path, submission, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    said = run(study_config(tmp_path, submission, tracking=TrackingConfig("online", "timetrial")))
    assert "W&B" in said
    assert pd.read_parquet(tmp_path / "runs" / "trials")["status"].tolist() == ["reached"]
