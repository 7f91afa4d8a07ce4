"""make repeatability: how much each unit moves, turns of the disturbance, what the page says."""

from __future__ import annotations

import os

import pandas as pd
import psutil
import pytest

from benchmarks.repeatability import __main__ as command
from benchmarks.repeatability import boards, page
from benchmarks.repeatability.thief import stolen_halves
from benchmarks.repeatability.trials import Run, table_of, variation
from harness.api import ConfigError


def run_of(number, seconds, *, pace=1.0, is_disturbed=False, condition="quiet", cpu_seconds=None):
    return Run(
        "w", "muon", condition, number, is_disturbed, 1, 100, seconds, cpu_seconds, 0.01 * pace, 0.01 * pace,
        "a machine", "huge pages", "2026-01-01",
    )  # fmt: skip


def moved(runs):
    return variation(table_of(runs)).set_index("unit")["variation"].to_dict()


def test_a_unit_moves_by_its_standard_deviation_over_its_mean():
    assert moved([run_of(0, 9.0), run_of(1, 11.0)])["seconds"] == pytest.approx(2**0.5 / 10.0)


def test_reference_steps_stand_still_where_the_machine_slows_the_reference_as_much():
    runs = [run_of(0, 10.0, cpu_seconds=10.0), run_of(1, 20.0, pace=2.0, is_disturbed=True, cpu_seconds=10.0)]
    found = moved(runs)
    assert (found["reference_steps"], found["cpu_seconds"]) == (0.0, 0.0)
    assert found["seconds"] == pytest.approx(0.4714, abs=1e-4)
    ratios = variation(table_of(runs)).set_index("unit")["disturbed"]
    assert ratios.to_dict() == pytest.approx({"seconds": 2.0, "cpu_seconds": 1.0, "reference_steps": 1.0})


def test_a_unit_that_is_not_known_of_every_run_has_no_number():
    assert set(moved([run_of(0, 9.0), run_of(1, 11.0, cpu_seconds=4.0)])) == {"seconds", "reference_steps"}


def test_every_second_trial_is_disturbed_and_each_submission_on_every_second_workload():
    turns = [is_stolen for _, is_stolen in boards.with_turns(range(8), 4)]
    assert turns == [False, True, False, True, True, False, True, False]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pins processes to cores, as on Linux")
def test_a_thief_sits_on_every_core_and_goes():
    def pinned():
        return sorted(core for child in psutil.Process().children() for core in child.cpu_affinity())

    before = pinned()
    with stolen_halves():
        assert pinned() == sorted([*before, *os.sched_getaffinity(0)])
    assert pinned() == before


def test_the_page_has_a_line_for_each_workload_and_condition_and_says_on_what(tmp_path):
    runs = table_of([run_of(0, 9.0, cpu_seconds=8.0), run_of(1, 11.0, cpu_seconds=8.0, is_disturbed=True)])
    runs.to_csv(tmp_path / "runs.csv", index=False)
    variation(runs).to_csv(tmp_path / "units.csv", index=False)
    text = page.page(tmp_path)
    assert "| `w` | muon | quiet | 2 | 100 | 10 | 14.1% | 0.0% | 14.1% | 1.22 |" in text
    assert "Measured on a machine, malloc: huge pages, 2026-01-01" in text
    assert text.count("Not measured yet.") == 1, "the boards"


def test_the_page_is_the_one_that_the_tables_make():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("mode=board", r"Did you mean 'boards'"),
        ("conditions=quite", r"Did you mean 'quiet'"),
        ("repetitions=1", r"at least 2"),
        ("share=2", r"above 0, at most 1"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, argument, words):
    with pytest.raises(ConfigError, match=words):
        command.main([argument, f"folder={tmp_path}", f"results={tmp_path}"])


@pytest.mark.slow
def test_the_same_trial_is_run_again_and_again_and_earlier_runs_of_others_stay(tmp_path):
    table_of([run_of(0, 9.0), run_of(1, 11.0)]).to_csv(tmp_path / "runs.csv", index=False)
    arguments = ["workload=digits_mlp", "share=0.2", "repetitions=2", "conditions=quiet,disturbed"]
    assert command.main([*arguments, f"folder={tmp_path}", f"results={tmp_path}"]) == 0
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert runs.groupby(["workload", "condition"]).size().to_dict() == {
        ("digits_mlp", "disturbed"): 2, ("digits_mlp", "quiet"): 2, ("w", "quiet"): 2,
    }  # fmt: skip
    mine = runs[runs["workload"] == "digits_mlp"]
    assert mine["steps"].unique().tolist() == [480]
    assert mine["is_disturbed"].sum() == 1
    assert (mine["reference_steps"] > 0).all()
    assert "`digits_mlp`" in (tmp_path / "repeatability.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_boards_are_raced_twice_and_agree_in_some_measure(tmp_path):
    arguments = ["mode=boards", "workload=digits_mlp", "submission=adamw,nesterov"]
    assert command.main([*arguments, f"folder={tmp_path}", f"results={tmp_path}"]) == 0
    found = pd.read_csv(tmp_path / "boards.csv")
    assert found["unit"].tolist() == ["seconds", "cpu_seconds", "reference_steps"]
    assert found["tau"].between(-1.0, 1.0).all()
    assert "Kendall's tau |" in (tmp_path / "repeatability.md").read_text(encoding="utf-8")
