"""Recorded trials as the table of docs/workloads.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import workload_times
from harness import config
from harness.api import ConfigError, DataError
from harness.config import WorkloadConfig
from harness.study.identity import workload_hash
from tests.scoring.scoring_tables import Row, trial_rows, write

DIGITS = config.load("workload", "digits_mlp", WorkloadConfig)


def trial(seconds: float, **changes: object) -> tuple[Row, list[Row]]:
    facts = {"workload_hash": workload_hash(DIGITS), "median_step_seconds": 0.002, "peak_host_bytes": 300 * 2**20}
    return trial_rows("digits_mlp", "nadamw", seconds, **{**facts, **changes})


def test_a_row_has_the_medians_over_the_trials_that_reach_the_target(tmp_path: Path):
    missed = float("inf")
    write(tmp_path / "runs", [trial(1.0, seed=0), trial(3.0, seed=1), trial(missed, seed=2)])
    [row] = workload_times.rows_of(tmp_path, "nadamw").to_dict("records")
    assert (row["workload"], row["trials"], row["reached"], row["seconds"]) == ("digits_mlp", 3, 2, 2.0)
    assert (row["examples_per_second"], row["peak_mebibytes"]) == (DIGITS.batch_size / 0.002, 300.0)
    assert 0 < row["data_share"] < 1


def test_trials_of_a_workload_as_it_was_and_of_others_are_left_out(tmp_path: Path):
    write(tmp_path / "runs", [trial(1.0, seed=0, workload_hash="older")])
    with pytest.raises(DataError, match="no trials of nadamw on the workloads as they are"):
        workload_times.rows_of(tmp_path, "nadamw")


def test_without_a_submission_there_is_a_clear_answer():
    with pytest.raises(ConfigError, match="say whose trials"):
        workload_times.main([])
