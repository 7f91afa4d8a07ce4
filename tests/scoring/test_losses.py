"""To whom a submission loses on each workload."""

from __future__ import annotations

import math

import pytest

from harness.scoring.comparison import compare, losses
from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from tests.scoring.scoring_tables import tables, trial_rows

SECONDS = {"fast": (5.0, 20.0), "middle": (10.0, 10.0), "slow": (20.0, math.inf)}


def scored():
    rows = [
        trial_rows(workload, name, seconds * (1.0 + 0.02 * study), study=study, seed=study)
        for name, of_each in SECONDS.items()
        for workload, seconds in zip(("w", "v"), of_each, strict=True)
        for study in range(3)
    ]
    return score_tables(*tables(rows), ScoringRules("plain"))


def test_every_workload_names_those_that_are_faster_there_and_by_how_much():
    found = losses(scored(), most=5).set_index(["submission", "workload", "other"])["factor"]
    assert found.to_dict() == pytest.approx(
        {
            ("fast", "v", "middle"): 2.0,
            ("middle", "w", "fast"): 2.0,
            ("slow", "w", "fast"): 4.0,
            ("slow", "w", "middle"): 2.0,
            ("slow", "v", "middle"): 9.8039,  # a miss takes the budget of 100 s: geometric mean of 10, 10.2, 10.4 below
            ("slow", "v", "fast"): 4.9020,
        },
        rel=1e-3,
    )


def test_no_more_than_asked_for_are_looked_at_and_all_are_counted():
    found = losses(scored(), most=1)
    of_slow = found[(found["submission"] == "slow") & (found["workload"] == "w")]
    assert of_slow[["other", "faster"]].to_records(index=False).tolist() == [("fast", 2)]


def test_on_a_single_workload_it_says_what_the_comparison_of_the_two_says():
    rows = [
        trial_rows("w", name, seconds * (1.0 + 0.05 * study * step), study=study, seed=study)
        for name, seconds, step in (("a", 10.0, 1.0), ("b", 14.0, -0.5))
        for study in range(3)
    ]
    scoring = score_tables(*tables(rows), ScoringRules("plain"))
    (row,) = losses(scoring, most=3).to_dict("records")
    pair = compare(scoring, "a", "b")
    assert (row["submission"], row["other"]) == ("b", "a")
    assert (row["factor"], row["low"], row["high"]) == pytest.approx((pair.speedup, pair.low, pair.high))
    assert row["p_value"] == row["adjusted_p_value"] == pytest.approx(pair.p_value)


def test_what_was_not_looked_at_is_a_chance_too():
    scoring = scored()
    found = losses(scoring, most=1)
    (row,) = found[found["submission"] == "fast"].to_dict("records")
    # Two others on two workloads.
    assert row["adjusted_p_value"] == pytest.approx(min(1.0, 4 * row["p_value"]))


def test_who_is_faster_is_said_by_what_the_factor_is_made_of():
    of_each = {"often": (1.0, 20.0, 20.0), "always": (19.0, 19.0, 19.0)}  # the lower mean has the higher median
    rows = [
        trial_rows("w", name, seconds, study=study, seed=study)
        for name, times in of_each.items()
        for study, seconds in enumerate(times)
    ]
    (row,) = losses(score_tables(*tables(rows), ScoringRules("plain")), most=5).to_dict("records")
    assert (row["submission"], row["other"]) == ("always", "often")
    assert row["factor"] == pytest.approx((19.0**3 / (1.0 * 20.0 * 20.0)) ** (1 / 3))
