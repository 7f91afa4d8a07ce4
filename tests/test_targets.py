"""How a target follows from runs, and the page that shows targets. The runs themselves are not repeated here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import targets, workload_tables


def runs(*values: float, submission: str = "adamw"):
    return [
        targets.Run(
            workload="w",
            submission=submission,
            hyperparameters={},
            seed=seed,
            validation=value,
            loss=value,
            test=value + 0.01,
            step=10,
            seconds=1.0,
            diverged=False,
        )
        for seed, value in enumerate(values)
    ]


def test_the_target_is_the_median_of_the_best_method_where_two_reach_it_often_enough():
    best = runs(0.10, 0.10, 0.12, 0.12, 0.15)
    second = runs(0.11, 0.11, 0.12, 0.12, 0.2, submission="nadamw")
    assert targets.validation_target([best, second], "min") == (0.12, ["adamw", "nadamw"])


def test_the_target_is_eased_to_what_two_methods_reach_on_four_seeds_of_five():
    best = runs(0.1, 0.1, 0.1, 0.1, 0.1)
    second = runs(0.11, 0.12, 0.13, 0.14, 0.9, submission="nadamw")
    third = runs(0.5, 0.5, 0.5, 0.5, 0.5, submission="nesterov")
    assert targets.validation_target([best, second, third], "min") == (0.14, ["adamw", "nadamw"])


def test_a_third_method_that_misses_by_a_hair_is_let_in():
    best, second = runs(0.1, 0.1, 0.1, 0.1, 0.1), runs(0.1, 0.1, 0.1, 0.1, 0.1, submission="nadamw")
    near = runs(0.1, 0.1, 0.1, 0.104, 0.2, submission="nesterov")
    far = runs(0.1, 0.1, 0.1, 0.106, 0.2, submission="nesterov")
    assert targets.validation_target([best, second, near], "min") == (0.104, ["adamw", "nadamw", "nesterov"])
    assert targets.validation_target([best, second, far], "min") == (0.1, ["adamw", "nadamw"])


def test_a_metric_that_should_be_large_is_eased_downwards():
    best, second = runs(0.9, 0.9, 0.9, 0.9, 0.9), runs(0.8, 0.85, 0.86, 0.87, 0.1, submission="nadamw")
    assert targets.validation_target([best, second], "max") == (0.8, ["adamw", "nadamw"])


@pytest.mark.parametrize(
    ("value", "goal", "expected"),
    [(1.5712, "min", 1.58), (0.10031, "min", 0.101), (0.022, "min", 0.022), (0.8768, "max", 0.876), (0.0, "min", 0.0)],
)
def test_a_value_is_rounded_to_the_easier_side(value: float, goal: str, expected: float):
    assert targets.eased(value, goal) == expected


def test_runs_that_were_logged_are_found_again_and_a_line_cut_short_is_not(tmp_path: Path):
    [run] = runs(0.1)
    line = json.dumps({"key": "k", **asdict(run)})
    (tmp_path / "w.jsonl").write_text(f"{line}\n{line[:-20]}")
    assert targets._read(tmp_path / "w.jsonl") == {"k": run}


def test_the_table_of_workloads_shows_what_the_yaml_files_say():
    # Where it does not: python benchmarks/workload_tables.py
    page = workload_tables.PAGE.read_text()
    assert workload_tables.with_tables(page) == page
