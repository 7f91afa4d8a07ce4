"""A dashboard that a test can open: three submissions on two workloads, two kinds of hardware. Not a test."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pandas as pd

from harness.board.site import write_site
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from harness.diagnostics.table import write_readouts
from harness.records.tables import TrialKey
from tests.scoring.scoring_tables import FIRST_DAY, hyperparameters, trial_rows, write

SUBMISSIONS = {"adamw": 10.0, "muon": 6.0, "sgd": 30.0}
WORKLOADS = {"digits": 1.0, "fashion": 2.0}
TRIALS = len(SUBMISSIONS) * len(WORKLOADS) * 9
CRASHED = 3


def record(runs: Path) -> None:
    """Three studies of three trials each; sgd misses fashion, where its second trials crash."""
    rows = []
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
                            **changes,
                        )
                    )
    before = FIRST_DAY - datetime.timedelta(days=9)
    rows.append(
        trial_rows("digits", "adamw", 5.0, ruleset="external", hardware="cluster", trial_id="c", started_at=before)
    )
    write(runs, rows)


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
