"""Seconds, steps, values and memory of recorded trials, by workload, kept in results/reference/times.csv.

    make bench WORKLOAD=a,b SUBMISSION=nadamw SEED=0      # and with SEED=1, SEED=2
    make workload-times SUBMISSION=nadamw

takes these rows over and writes the tables of docs/workloads.md anew. Nothing is trained; what it costs to gather a
batch is measured here, on the same machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks import workload_tables
from benchmarks.workload_tables import TIMES
from harness import command_line, config
from harness.api import ConfigError, DataError, path_of
from harness.config import WorkloadConfig
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.records.tables import read_table
from harness.study.identity import workload_hash
from harness.study.machine.hardware import cpu_model

_GATHERS = 50


def main(arguments: Sequence[str]) -> int:
    """`make workload-times SUBMISSION=x [RESULTS=results]`. Raises ConfigError, or DataError without rows."""
    given = command_line.options(arguments, ["submission", "results"])
    submission = given.get("submission")
    if not submission:
        raise ConfigError("say whose trials: make workload-times SUBMISSION=nadamw.")
    rows = rows_of(path_of(given.get("results") or str(config.ROOT / "results")), submission)
    known = pd.read_csv(TIMES) if TIMES.exists() else rows[:0]
    kept = known[~known["workload"].isin(rows["workload"])]
    whole = (pd.concat([kept, rows]) if len(kept) else rows).sort_values("workload", ignore_index=True)
    whole.to_csv(TIMES, index=False, lineterminator="\n")
    workload_tables.PAGE.write_text(
        workload_tables.with_tables(workload_tables.PAGE.read_text(encoding="utf-8")), encoding="utf-8"
    )
    print(rows.to_string(index=False))
    return 0


def rows_of(results: Path, submission: str) -> pd.DataFrame:
    """A row for each base workload, over the trials of the workload as it is now. Raises DataError without trials."""
    trials = read_table(results / "runs", "trials")
    trials = trials[(trials["submission"] == submission) & trials["evaluate_every_steps"].isna()]
    found = []
    for name in config.base_workloads():
        settings = config.load("workload", name, WorkloadConfig)
        mine = trials[(trials["workload"] == name) & (trials["workload_hash"] == workload_hash(settings))]
        if len(mine):
            found.append(_row(settings, submission, mine))
    if not found:
        raise DataError(f"{results} has no trials of {submission} on the workloads as they are. Run: make bench")
    return pd.DataFrame(found)


def _row(settings: WorkloadConfig, submission: str, trials: pd.DataFrame) -> dict[str, object]:
    step = trials["median_step_seconds"].median()
    reached = trials[trials["status"] == "reached"]
    return {
        "workload": settings.name,
        "submission": submission,
        "machine": cpu_model(),
        "trials": len(trials),
        "reached": len(reached),
        "seconds": reached["time_to_target"].median(),
        "budget_seconds": trials["max_runtime"].median(),
        "steps": reached["steps_to_target"].median(),
        "best_validation": trials["best_validation"].median(),
        "test_at_best": trials["test_at_best"].median(),
        "examples_per_second": settings.batch_size / step,
        "data_share": _seconds_of_gathering(settings) / step,
        "peak_mebibytes": trials["peak_host_bytes"].median() / 2**20,
    }


def _seconds_of_gathering(settings: WorkloadConfig) -> float:
    """Median seconds to gather one training batch."""
    torch.set_num_threads(1)
    workload = create_workload(settings.entry, settings.options)
    examples = data.load_verified(workload, "train", data.data_folder(), settings.content["train"])
    seconds = []
    for _ in range(_GATHERS):
        index = torch.randint(len(examples), (settings.batch_size,))
        began = time.perf_counter()
        examples.gather(index)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
