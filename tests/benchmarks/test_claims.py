"""What `make claims` writes down and shows: rules that stand before numbers, and a page that follows from results."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.claims import page, results
from benchmarks.claims.claim import Average, Claim, Interval, Reading, Rule, Verdict, interval_of
from benchmarks.claims.every import CLAIMS, claims_named, without_a_row
from benchmarks.claims.on_functions import minus_cosine_gradient, rosenbrock, run
from benchmarks.claims.on_steps import PeakBytes, state_bytes
from benchmarks.claims.training import course, method
from benchmarks.claims.untested import UNTESTED
from harness.api import ConfigError, DataError, visible
from harness.config import pinned_workloads
from harness.plugins.submission import SUBMISSIONS

CLAIM = Claim(
    name="made_up",
    submission="adamw",
    says="It is | short.",
    experiment="Counts seeds.",
    quantity="seeds",
    holds=Rule(low=1.0),
    measure=lambda seed: Reading(float(seed), {"double": 2.0 * seed}),
    repetitions=3,
)


def result_of(claim: Claim) -> results.Measured:
    return results.measured(claim, [claim.measure(seed) for seed in claim.seeds])


# --- what is committed ---


def test_the_page_is_what_the_committed_results_give():
    found = [(claim, results.read(claim)) for claim in CLAIMS]
    assert page.PAGE.read_text(encoding="utf-8") == page.page(found, UNTESTED), "run make claims"


def test_every_result_belongs_to_a_claim():
    names = {claim.name for claim in CLAIMS}
    assert {path.stem for path in results.FOLDER.glob("*.json")} <= names


def test_at_least_fifteen_claims_are_measured_each_once():
    measured = [claim.name for claim in CLAIMS if results.read(claim) is not None]
    assert len(measured) == len(set(measured)) >= 15


def test_a_claim_is_about_a_submission_or_a_workload_that_there_is():
    submissions = {each.submission for each in [*CLAIMS, *UNTESTED] if each.submission}
    assert [name for name in sorted(submissions) if not (SUBMISSIONS / name / "submission.yaml").is_file()] == []
    assert {claim.workload for claim in CLAIMS if claim.workload} <= set(pinned_workloads())


def test_each_submission_has_a_claim_or_a_reason_why_it_has_none():
    assert without_a_row(path.parent.name for path in visible(SUBMISSIONS, "*/submission.yaml")) == []


def test_names_of_claims_say_whose_they_are_and_are_unique():
    assert all(claim.name.startswith(f"{claim.about}_") for claim in CLAIMS)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_a_submission_without_a_row_is_noticed():
    assert without_a_row(["muon", "nobody"]) == ["nobody"]


def test_an_unknown_claim_is_named_with_what_is_near():
    with pytest.raises(ConfigError, match=r"'muon_los'\. Did you mean 'muon_loss'"):
        claims_named(["muon_los"])


# --- verdicts ---


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Rule(low=1.0), 1.0, 2.0, Verdict.HOLDS),
        (Rule(low=1.0), 0.9, 2.0, Verdict.UNDECIDED),
        (Rule(low=1.0), 0.1, 0.9, Verdict.DOES_NOT_HOLD),
        (Rule(high=0.0), -2.0, 0.0, Verdict.HOLDS),
        (Rule(high=0.0), 0.1, 0.2, Verdict.DOES_NOT_HOLD),
        (Rule(-1.0, 1.0), -2.0, 2.0, Verdict.UNDECIDED),
        (Rule(-1.0, 1.0), 1.5, 2.0, Verdict.DOES_NOT_HOLD),
    ],
)
def test_a_verdict_needs_the_whole_interval(rule: Rule, low: float, high: float, verdict: Verdict):
    assert rule.verdict(Interval((low + high) / 2, low, high)) is verdict


def test_the_interval_of_a_mean_is_students():
    # The 97.5 % quantile of t with two degrees of freedom is 4.302653.
    estimate, low, high = interval_of([1.0, 2.0, 3.0], Average.MEAN)
    assert estimate == 2.0
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_the_interval_of_a_ratio_is_that_of_its_logarithm():
    estimate, low, high = interval_of([1.0, 4.0], Average.GEOMETRIC_MEAN)
    assert estimate == pytest.approx(2.0)
    assert low * high == pytest.approx(4.0)


def test_the_interval_of_a_share_is_exact_where_all_agree():
    # Clopper and Pearson: with 30 of 30 the lower end is 0.025 to the power of one thirtieth.
    assert interval_of([1.0] * 30, Average.SHARE) == pytest.approx((1.0, 0.025 ** (1 / 30), 1.0))


def test_one_number_is_taken_as_it_is():
    assert interval_of([3.0], Average.MEAN) == (3.0, 3.0, 3.0)


def test_no_interval_is_made_of_what_is_not_finite():
    with pytest.raises(ValueError, match="no interval"):
        interval_of([1.0, math.nan], Average.MEAN)


# --- results and the page ---


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path):
    result = result_of(CLAIM)
    results.write(result, tmp_path)
    assert results.read(CLAIM, tmp_path) == result
    assert result.numbers == [1.0, 2.0, 3.0]
    assert result.beside == {"double": [2.0, 4.0, 6.0]}
    assert result.machine is None
    assert result_of(replace(CLAIM, is_timed=True)).machine


@pytest.mark.parametrize("change", [{"holds": Rule(low=0.0)}, {"experiment": "Another."}, {"repetitions": 2}])
def test_a_number_does_not_count_under_a_rule_that_came_after_it(tmp_path: Path, change: dict[str, object]):
    results.write(result_of(CLAIM), tmp_path)
    with pytest.raises(ConfigError, match="make claims CLAIM=made_up"):
        results.read(replace(CLAIM, **change), tmp_path)


def test_a_damaged_result_is_one_clear_error(tmp_path: Path):
    (tmp_path / "made_up.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"made_up\.json is damaged"):
        results.read(CLAIM, tmp_path)


def test_the_page_shows_number_rule_and_verdict_and_what_is_not_measured_yet():
    text = page.page([(CLAIM, result_of(CLAIM)), (replace(CLAIM, name="other"), None)], UNTESTED[:1])
    [row] = [line for line in text.splitlines() if "`made_up`" in line]
    assert "It is \\| short." in row
    assert "seeds: **2** (-0.484 to 4.48), n = 3<br>double: 4 | at least 1 | **undecided** |" in row
    assert "1 rows measured: 0 hold, 0 do not hold, 1 undecided; 1 not tested here." in text
    assert "`other` | It is \\| short. | Counts seeds. | at least 1 |" in text.split("## Not measured yet")[1]


# --- shapes ---


def test_a_direction_has_no_slope_along_itself():
    weights = torch.tensor([[0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    (-weights[0, 0] / weights.norm()).backward()
    torch.testing.assert_close(minus_cosine_gradient(weights.detach()), weights.grad)


def test_an_optimizer_goes_down_a_function():
    x = nn.Parameter(torch.tensor([1.0]))
    run(torch.optim.SGD([x], lr=0.25), x, lambda at: 2 * at, steps=2)
    assert x.item() == 0.25


def test_the_banana_has_its_minimum_at_one():
    assert rosenbrock(torch.tensor([1.0, 1.0])) == 0
    assert rosenbrock(torch.tensor([-2.0, 2.0])) == 409


def test_state_is_counted_in_bytes_of_tensors():
    assert state_bytes(torch.optim.Adagrad, [(3, 4), (5,)]) == 4 * 17 + 2 * 4  # sums, and two counts of steps


def test_the_peak_is_what_was_alive_at_once():
    with PeakBytes() as counted:
        first = torch.zeros(1000)
        del first
        second = torch.zeros(500)
        third = second + 1
    assert counted.peak == 4000
    assert len(third) == 500


def test_a_tuned_method_is_the_best_of_its_points_and_keeps_what_is_settled():
    here = course("digits_mlp")
    one = method("adamw", points=2, weight_decay=0.0)
    point = here.tuned(one, 20)
    assert point.weight_decay == 0.0
    assert point.label_smoothing == 0.0
    default = here.train("adamw", {"weight_decay": 0.0}, seed=1000, steps=20).loss
    assert here.train("adamw", point, seed=1000, steps=20).loss <= default


def test_runs_with_one_seed_start_and_go_alike_and_end_with_their_steps_or_examples():
    here = course("digits_mlp")
    first, again = (here.train("adamw", {}, seed=3, steps=10, stop_at=5) for _ in range(2))
    assert first.values == again.values
    assert first.steps == 5
    assert here.train("adamw", {}, seed=3, steps=10, examples=130).steps == 3
