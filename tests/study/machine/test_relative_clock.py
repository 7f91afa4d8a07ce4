"""The reference is measured around trials, at a cost in proportion to their budget, and never at the trial's cost."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.api import DataError
from harness.config import HardwareConfig
from harness.study.machine.calibration import Sandwich
from harness.study.machine.relative_clock import RelativeClock
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission


class Machine:
    """Measures what it is told to, a second each, and remembers for how long it was asked to."""

    def __init__(self, *paces: float | Exception, budget: float = 100.0, step: float = 0.01) -> None:
        self.asked: list[float] = []
        self.said: list[str] = []
        self.time = 0.0
        self._paces = list(paces)
        self.clock = RelativeClock(
            self._measure,
            budget_seconds=budget,
            step_seconds=step,
            limit=0.1,
            say=self.said.append,
            now=lambda: self.time,
        )

    def _measure(self, seconds: float) -> float:
        self.asked.append(seconds)
        self.time += 1.0
        pace = self._paces[len(self.asked) - 1]
        if isinstance(pace, Exception):
            raise pace
        return pace

    def trial(self, *, pause: float = 0.0) -> Sandwich:
        self.time += pause
        self.clock.before()
        self.time += 30.0
        return self.clock.after()


def test_a_trial_has_what_a_step_took_before_it_and_after_it():
    around = Machine(0.010, 0.0105).trial()
    assert (around.before, around.after, around.drift) == (0.010, 0.0105, pytest.approx(1.05))


def test_the_next_trial_shares_what_was_measured_after_the_last_one_if_it_begins_at_once():
    machine = Machine(1.0, 1.02, 1.04, 1.06, 1.08)
    assert [machine.trial(), machine.trial()] == [Sandwich(1.0, 1.02), Sandwich(1.02, 1.04)]
    assert machine.trial(pause=60.0) == Sandwich(1.06, 1.08)


def test_what_was_measured_after_a_disturbed_trial_holds_for_no_other():
    machine = Machine(1.0, 2.0, 1.0, 1.01)
    assert [machine.trial(), machine.trial()] == [Sandwich(1.0, 2.0), Sandwich(1.0, 1.01)]


@pytest.mark.parametrize(
    ("budget", "step", "each"),
    [(100.0, 0.01, 2.0), (20.0, 0.01, 1.0), (5.0, 0.01, 0.25), (1000.0, 0.5, 15.0), (100.0, 0.5, 5.0)],
)
def test_both_measurements_together_take_a_tenth_of_the_budget_at_most(budget, step, each):
    machine = Machine(1.0, 1.0, budget=budget, step=step)
    machine.trial()
    assert machine.asked == [each, each]
    assert sum(machine.asked) <= 0.1 * budget


def test_a_trial_too_short_to_be_measured_around_is_not():
    machine = Machine(budget=4.9)
    assert not machine.clock.runs
    assert machine.trial() == Sandwich(None, None)
    assert machine.asked == []


def test_a_reference_that_cannot_be_measured_costs_no_trial_its_row():
    machine = Machine(DataError("too busy"), 1.0, 1.0)
    assert machine.trial() == Sandwich(None, 1.0)
    assert machine.said == ["the reference could not be measured: too busy"]
    assert machine.trial() == Sandwich(1.0, 1.0)


def test_rows_of_a_study_have_the_reference_around_each_trial_and_are_not_charged_for_it(tmp_path):
    submission = write_submission(tmp_path / "plain", SGD)
    slow = HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.0125})  # a budget of five seconds
    run(study_config(tmp_path, submission, hardware=slow))
    run(study_config(tmp_path, submission, hardware=slow, evaluate_every_steps=100))
    rows = pd.read_parquet(tmp_path / "runs" / "trials").sort_values("started_at")
    timed, by_steps = rows.to_dict("records")
    assert timed["status"] == "reached"
    assert 0.0 < timed["reference_step_seconds_before"] < 1.0
    ratio = timed["reference_step_seconds_after"] / timed["reference_step_seconds_before"]
    assert timed["reference_drift"] == pytest.approx(ratio)
    assert timed["charged_seconds"] == timed["time_to_target"]
    assert timed["malloc"] in ("huge pages", "as it comes")
    assert pd.isna(by_steps["reference_drift"])
