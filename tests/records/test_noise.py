"""The noise floor: what sandwiches say of a machine, where it is kept, and that boards show it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rich.console import Console

from harness.api import ConfigError, DataError, visible
from harness.commands import noise
from harness.commands.leaderboard import Choice, make_board, show
from harness.records.noise_floor import keep, noise_floor
from tests.commands.test_bench import FAST
from tests.scoring.scoring_tables import trial_rows, write


def floor_of(seconds):
    return noise_floor("digits", "adamw", seconds, "2026-01-01")


def test_a_candidate_between_equal_runs_has_their_ratio():
    floor = floor_of([1.0, 1.1, 1.0, 1.1, 1.0])
    assert floor.ratio == pytest.approx(1.1)
    assert (floor.low, floor.high) == (pytest.approx(1.1), pytest.approx(1.1))
    assert floor.spread == pytest.approx(1.0)


def test_a_machine_that_slows_down_steadily_is_no_difference():
    floor = floor_of([1.05**number for number in range(11)])
    assert floor.ratio == pytest.approx(1.0)
    assert floor.spread == pytest.approx(1.0)


def test_the_interval_is_students_on_the_logarithms_of_ratios_that_share_runs():
    floor = floor_of([1.0, math.exp(0.1), 1.0, math.exp(-0.1), 1.0])
    # Two ratios, of 0.1 and -0.1: variance 0.02, of 1.25 runs; their mean has that of 0.875 runs: error 0.1183.
    # Student quantile 12.706 for one degree of freedom.
    assert math.log(floor.high) == pytest.approx(12.706 * 0.1183, abs=1e-3)
    assert math.log(floor.low) == pytest.approx(-12.706 * 0.1183, abs=1e-3)


@pytest.mark.parametrize("rounds", [2, 5])
def test_of_machines_that_are_all_noise_95_percent_of_intervals_hold_the_ratio_1(rounds):
    runs = np.exp(0.01 * np.random.default_rng(0).standard_normal((4000, 2 * rounds + 1)))
    floors = [floor_of(list(seconds)) for seconds in runs]
    assert np.mean([floor.low <= 1.0 <= floor.high for floor in floors]) == pytest.approx(0.95, abs=0.007)
    twice = np.exp(0.01 * np.random.default_rng(1).standard_normal((4000, 2)))
    within = [max(a / b, b / a) <= floor.spread for floor, (a, b) in zip(floors, twice, strict=True)]
    assert np.mean(within) == pytest.approx(0.95, abs=0.007)


def test_one_sandwich_is_too_few():
    with pytest.raises(DataError, match="rounds=2"):
        floor_of([1.0, 1.0, 1.0])


def test_a_board_shows_the_floor_of_its_own_machine_and_workloads(tmp_path):
    write(tmp_path / "runs", [trial_rows("digits", "adamw", 10.0)])
    keep(tmp_path, "0123456789abcdef", floor_of([1.0, 1.02, 1.0, 0.98, 1.0, 1.01, 1.0]))
    keep(tmp_path, "another", noise_floor("fashion", "adamw", [1.0] * 5, "2026-01-01"))
    console = Console(width=140, record=True, quiet=True)
    show(Choice(results=str(tmp_path)), console)
    board = make_board(Choice(results=str(tmp_path)))
    floors = [note for note in board.notes if "noise floor" in note]
    assert len(floors) == 1
    assert floors[0].startswith("noise floor on digits: A/A ratio 0.944 to 1.066 in 3 sandwiches")
    assert floors[0].endswith("differ by up to 11.6 %")


@pytest.mark.parametrize("content", ["{", "[]", '{"digits": {"low": 1.0}}'])
def test_a_damaged_file_is_one_line_and_not_the_end_of_the_board(tmp_path, content):
    write(tmp_path / "runs", [trial_rows("digits", "adamw", 10.0)])
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "0123456789abcdef.json").write_text(content)
    notes = make_board(Choice(results=str(tmp_path))).notes
    assert len([note for note in notes if "0123456789abcdef.json: not readable" in note]) == 1


def test_the_reference_races_itself_and_leaves_no_row(tmp_path, capsys):
    arguments = ["workload=digits_mlp", f"results={tmp_path}", "rounds=2", "seconds=1", *FAST]
    assert noise.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("ms per step") == 5
    assert "95 % interval" in said
    assert len(visible(tmp_path / "noise", "*.json")) == 1
    assert not (tmp_path / "runs" / "trials").exists()


@pytest.mark.parametrize("arguments", [["rounds=1", "workload=digits_mlp"], ["rounds=2"], ["seconds=0", "workload=a"]])
def test_a_mistake_is_said(arguments):
    with pytest.raises(ConfigError, match="Use"):
        noise.main(arguments)
