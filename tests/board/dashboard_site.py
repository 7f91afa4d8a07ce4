"""A dashboard that a test can open: three submissions on two workloads, two kinds of hardware. Not a test.

Of sgd all is known that a page can tell: its directory is here as it ran, and its steps were profiled.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pandas as pd

from harness.board.site import write_site
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from harness.diagnostics.table import write_readouts
from harness.plugins.submission import load_submission
from harness.records.step_profiles import StepProfile, keep
from harness.records.tables import TrialKey
from harness.study.folders import keep_folders
from tests.scoring.scoring_tables import FIRST_DAY, hyperparameters, trial_rows, write

SUBMISSIONS = {"adamw": 10.0, "muon": 6.0, "sgd": 30.0}
WORKLOADS = {"digits": 1.0, "fashion": 2.0}
TRIALS = len(SUBMISSIONS) * len(WORKLOADS) * 9
CRASHED = 3
SGD = """
title: a test
authors: nobody
paper: none
hyperparameters: {learning_rate: 0.1, momentum: 0.9, idle: 1}
search_space:
  learning_rate: {min: 0.001, max: 1.0, scaling: log}
  momentum: {min: 0.5, max: 1.0}
"""
TOOK = {
    "total_seconds": 150.0,
    "charged_seconds": 100.0,
    "evaluation_seconds": 30.0,
    "cpu_seconds": 80.0,
    "reference_step_seconds": 0.02,
    "first_step_seconds": 2.0,
    "median_step_seconds": 0.03,
    "p90_step_seconds": 0.033,
    "energy_joules": 5_000.0,
}


def record(runs: Path) -> None:
    """Three studies of three trials each; sgd misses fashion, where its second trials crash."""
    rows = []
    of_sgd = _directory(runs.parent / "sgd")
    keep_folders([of_sgd], runs)
    known = {"sgd": TOOK | {"submission_hash": load_submission(of_sgd).content_hash}}
    for submission, base in SUBMISSIONS.items():
        for workload, factor in WORKLOADS.items():
            for study in range(3):
                for trial in range(3):
                    misses = submission == "sgd" and workload == "fashion"
                    changes = {"status": "crashed", "reason": "out of memory"} if misses and trial == 1 else {}
                    rows.append(
                        trial_rows(
                            workload,
                            submission,
                            math.inf if misses else base * factor * (1 + 0.1 * study + 0.2 * trial),
                            study=study,
                            trial=trial,
                            ruleset="external",
                            hyperparameters=hyperparameters(learning_rate=10.0**-trial, momentum=0.9 + 0.01 * study),
                            peak_host_bytes=500_000_000,
                            **known.get(submission, {}),
                            **changes,
                        )
                    )
    before = FIRST_DAY - datetime.timedelta(days=9)
    rows.append(
        trial_rows("digits", "adamw", 5.0, ruleset="external", hardware="cluster", trial_id="c", started_at=before)
    )
    write(runs, rows)
    keep(runs, _profile(known["sgd"]["submission_hash"]))


def _directory(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "submission.yaml").write_text(SGD, encoding="utf-8")
    (folder / "submission.py").write_text("def train(trial, hp):\n    trial.finish()\n", encoding="utf-8")
    return str(folder)


def _profile(submission_hash: str) -> StepProfile:
    return StepProfile(
        "digits", "sgd", submission_hash, "w1", "desk", "0123456789abcdef", steps=50, warm_steps=10,
        waiting_seconds=0.001, forward_seconds=0.010, backward_seconds=0.015, harness_seconds=0.001, rest_seconds=0.003,
        parameters=1000, state_bytes=4000, unread=["idle"], date="2026-01-02",
    )  # fmt: skip


def record_readouts(results: Path) -> None:
    """What diagnostics found of one trial of each submission on digits, and of the weights that these began with."""
    trials = pd.read_parquet(results / "runs" / "trials").query("workload == 'digits' and hardware == 'desk'")
    for number, (submission, mine) in enumerate(trials.sort_values("trial_id").groupby("submission", observed=True)):
        trial_id = str(mine["trial_id"].iloc[0])
        rows = [
            {"trial_id": trial_id, "weights": weights, "diagnostic": diagnostic, "name": name, "value": value}
            | {"examples": 2048, "seconds": 1.0}
            for weights, factor in (("initial", 1.0), ("last", 2.0 + number))
            for diagnostic, name, value in (
                ("probe", "loss", 2.3 / factor),
                ("sharpness", "eigenvalue_1", 7.5 * factor),
                ("weights", "change_stable_rank/all", factor - 1.0),
                ("weights", "norm/all", None if number == 0 else 3.0),
                ("logits", "log_z_mean", 1.0),
            )
        ]
        write_readouts(results, TrialKey("digits", str(submission), trial_id), rows)


def build(results: Path) -> Path:
    """Record the rows, write the site, return its folder."""
    record(results / "runs")
    record_readouts(results)
    return write_site(build_boards(Choice(results=str(results))), results / "board").parent
