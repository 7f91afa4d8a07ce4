"""How much the learning rate matters, from trials."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from harness.diagnostics.probe import NotHere
from harness.diagnostics.rates import decades, rate_readouts, rate_sensitivity

# loss = (log10 rate + 2)^2 on 1e-4 ... 1
LOSSES = {10.0**power: (power + 2.0) ** 2 for power in range(-4, 1)}


def tables(losses, *, reached=()):
    trials = pd.DataFrame(
        {
            "trial_id": [str(rate) for rate in losses],
            "hyperparameters": [json.dumps({"learning_rate": rate, "beta": 0.9}) for rate in losses],
            "time_to_target": [3.0 if rate in reached else math.inf for rate in losses],
        }
    )
    ends = pd.DataFrame({"trial_id": [str(rate) for rate in losses], "validation_loss": losses.values()})
    # At first each has a smaller loss, which it does not keep.
    return trials, pd.concat([ends.assign(evaluation=1), ends.assign(evaluation=0, validation_loss=-9.0)])


def test_a_rate_costs_no_more_than_never_having_begun():
    assert rate_sensitivity(LOSSES, 1.0) == pytest.approx((1 + 1 + 0 + 1 + 1) / 5)
    assert rate_sensitivity(LOSSES, 100.0) == pytest.approx((4 + 1 + 0 + 1 + 4) / 5)


def test_the_width_is_that_of_the_rates_that_reached_the_target():
    assert decades([1e-3, 1e-2, 1e-1]) == pytest.approx(2.0)
    assert decades([1e-3]) == 0.0
    assert decades([]) == 0.0


def test_readouts_come_from_the_last_loss_of_each_trial():
    found = rate_readouts(*tables(LOSSES, reached=(1e-2, 1e-1)), initial=1.0)
    assert found == pytest.approx({"sensitivity": 0.8, "decades_reached": 1.0, "rates": 5.0, "best_rate": 1e-2})


def test_a_trial_that_never_was_evaluated_counts_as_the_start():
    trials, evaluations = tables(LOSSES)
    without = evaluations[evaluations["trial_id"] != str(1e-3)]
    assert rate_readouts(trials, without, initial=2.0)["sensitivity"] == pytest.approx((2 + 2 + 0 + 1 + 2) / 5)


def test_two_rates_tell_nothing():
    with pytest.raises(NotHere, match="its trials have 2 learning rates; 3 tell something"):
        rate_readouts(*tables({1e-3: 1.0, 1e-2: 2.0}), initial=1.0)
