"""What must hold for any times: properties of scores, checked on generated tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.scoring.profiles import exact_area, profile, trapezoid_area
from harness.scoring.rules import ScoringRules
from harness.scoring.score import area, frozen_score, gated_ratios, leave_one_out, rank, score_tables
from harness.scoring.tuning import best_of_weights
from tests.scoring.scoring_tables import tables, trial_rows

# A busy machine must not fail a property by its clock.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")

RULES = ScoringRules("plain")
GATED = ScoringRules("gated", held_out={"w1": "w0", "w3": "w2"})
WORKLOADS = [f"w{n}" for n in range(4)]

a_time = st.one_of(st.floats(0.01, 1e5), st.just(math.inf))
a_ratio = st.one_of(st.floats(1.0, 6.0), st.just(math.inf))


@st.composite
def matrices(draw, *, at_least=2):
    count = draw(st.integers(at_least, 5))
    values = draw(arrays(float, (count, len(WORKLOADS)), elements=a_time))
    return pd.DataFrame(values, [f"s{n}" for n in range(count)], WORKLOADS)


references = arrays(float, len(WORKLOADS), elements=st.floats(0.01, 1e5)).map(lambda row: pd.Series(row, WORKLOADS))


def scores(matrix, rules=RULES):
    return area(gated_ratios(matrix, rules), rules)


@given(matrices(), references)
def test_removing_a_submission_never_changes_a_frozen_score(matrix, reference):
    everyone = frozen_score(matrix, reference)
    for absent in matrix.index:
        rest = frozen_score(matrix.drop(index=absent), reference)
        pd.testing.assert_series_equal(rest, everyone.drop(absent), check_exact=True)


@given(matrices(), st.sampled_from([RULES, GATED]), st.data())
def test_faster_times_never_lower_ones_score(matrix, rules, data):
    name = data.draw(st.sampled_from(list(matrix.index)))
    shares = data.draw(arrays(float, len(WORKLOADS), elements=st.floats(0.01, 1.0)))
    faster = matrix.copy()
    faster.loc[name] = np.minimum(matrix.loc[name], 1e6) * shares  # a miss may become a hit
    assert scores(faster, rules)[name] >= scores(matrix, rules)[name] - 1e-12


@given(matrices(), references, st.data())
def test_faster_times_never_lower_ones_frozen_score(matrix, reference, data):
    shares = data.draw(arrays(float, len(WORKLOADS), elements=st.floats(0.01, 1.0)))
    faster = matrix * shares
    assert (frozen_score(faster, reference) >= frozen_score(matrix, reference) - 1e-12).all()


@given(matrices(), st.data())
def test_permuting_submissions_and_workloads_changes_nothing(matrix, data):
    rows = data.draw(st.permutations(list(matrix.index)))
    columns = data.draw(st.permutations(WORKLOADS))
    pd.testing.assert_series_equal(scores(matrix.loc[rows, columns]).loc[matrix.index], scores(matrix))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_permuting_the_rows_of_both_tables_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    rows = [
        trial_rows(workload, submission, float(time), study=study, trial=trial)
        for workload in "uv"
        for submission in "abc"
        for study in range(3)
        for trial, time in enumerate(np.where(rng.random(2) < 0.2, np.inf, rng.uniform(1.0, 9.0, 2)))
    ]
    trials, evaluations = tables(rows)
    plain = score_tables(trials, evaluations, RULES)
    shuffled = score_tables(
        trials.sample(frac=1.0, random_state=seed), evaluations.sample(frac=1.0, random_state=seed), RULES
    )
    pd.testing.assert_frame_equal(plain.scores, shuffled.scores)
    pd.testing.assert_frame_equal(plain.cells, shuffled.cells)
    pd.testing.assert_frame_equal(plain.studies, shuffled.studies)


@given(arrays(float, 8, elements=a_ratio))
def test_the_exact_area_is_the_limit_of_the_trapezoid(ratio):
    for points in (100, 10_000, 1_000_000):
        step = 3.0 / (points - 1)
        assert abs(trapezoid_area(ratio, points=points) - exact_area(ratio)) <= step / 3.0 + 1e-9


@given(arrays(float, 8, elements=a_ratio))
def test_the_trapezoid_is_the_integral_of_the_profile_on_its_grid(ratio):
    taus = np.linspace(1.0, 4.0, 100)
    shares = profile(pd.DataFrame(ratio[None]), taus).to_numpy()[0]
    assert abs(trapezoid_area(ratio) - np.trapezoid(shares, taus) / 3.0) < 1e-9


@given(matrices())
def test_a_score_lies_between_0_and_1_and_the_fastest_everywhere_has_1(matrix):
    found = scores(matrix)
    assert found.between(0.0, 1.0).all()
    matrix.loc["winner"] = np.minimum(matrix.min(axis=0), 1e6)
    assert scores(matrix)["winner"] == 1.0


@given(matrices())
def test_slowing_everyone_down_alike_changes_no_score(matrix):
    pd.testing.assert_series_equal(scores(matrix * 7.0), scores(matrix), check_exact=False, atol=1e-9)


@given(matrices(at_least=3))
def test_leaving_one_out_is_scoring_the_rest(matrix):
    table = leave_one_out(matrix, RULES)
    for absent, rest in table.groupby("absent"):
        expected = rank(scores(matrix.drop(index=absent)))
        found = rest.set_index("submission").loc[expected.index]
        assert found["score"].tolist() == expected["score"].tolist()
        assert found["rank"].tolist() == expected["rank"].tolist()


@given(matrices())
def test_gating_never_raises_the_number_of_finite_ratios(matrix):
    free = ScoringRules("free", workloads=("w0", "w2"))
    assert np.isfinite(gated_ratios(matrix, GATED)).sum().sum() <= np.isfinite(gated_ratios(matrix, free)).sum().sum()


@given(st.integers(1, 60), st.data())
def test_best_of_k_weights_are_a_distribution(count, data):
    k = data.draw(st.integers(1, count))
    weights = best_of_weights(count, k)
    assert abs(weights.sum() - 1.0) < 1e-9
    assert (weights >= 0).all()
