"""Submissions that choose the examples of a batch compute what their sheets write, and hold what they promise."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from harness.api import Hyperparameters
from harness.plugins.conformance.problems import StripeStream
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.trial.conversation import Go, TrialOver
from submissions.volume_sampler.submission import Pool, orthonormal, projection_process, volume_sample
from submissions.volume_sampler.submission import train as train_on_volumes
from tests.trial.test_trial import make_trial

LINE = torch.linspace(-1, 1, 5, dtype=torch.float64)
FEATURES = torch.stack([torch.ones(5, dtype=torch.float64), LINE], dim=1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(rows: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Weighted least squares of labels on (1, x) at these points."""
    root = weights.sqrt()[:, None]
    return torch.linalg.lstsq(root * FEATURES[rows], root * labels[rows, None]).solution[:, 0]


def test_leverage_scores_of_five_points_are_those_of_the_sheet():
    made = orthonormal(FEATURES)
    torch.testing.assert_close(made.T @ made / 5, torch.eye(2, dtype=torch.float64))
    scores = made.square().sum(dim=1) / 5
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.3, 0.2, 0.3, 0.6]).double())


def test_features_of_which_some_repeat_others_span_what_they_span():
    assert orthonormal(torch.cat([FEATURES, FEATURES.sum(dim=1, keepdim=True)], dim=1)).shape == (5, 2)


def test_pairs_are_drawn_in_proportion_to_their_squared_determinants_and_their_fits_are_right_on_average():
    made, labels = orthonormal(FEATURES), torch.tensor([1.0, 0.0, 2.0, -1.0, 3.0]).double()
    pairs = list(itertools.combinations(range(5), 2))
    volumes = torch.stack([torch.linalg.det(made[list(pair)]).square() for pair in pairs]) / 25
    assert volumes.sum().item() == pytest.approx(1.0)
    fits = torch.stack([fitted(torch.tensor(pair), torch.ones(2).double(), labels) for pair in pairs])
    torch.testing.assert_close(volumes @ fits, torch.tensor([1.0, 0.6]).double())
    stream = generator(0)
    drawn = [tuple(projection_process(made, stream).sort().values.tolist()) for _ in range(2_000)]
    counts = [drawn.count(pair) for pair in pairs]
    assert chisquare(counts, (2_000 * volumes).numpy()).pvalue > 0.01


@pytest.mark.parametrize("count", [3, 6])
def test_weighted_least_squares_on_a_sample_are_unbiased(count: int):
    made, labels = orthonormal(FEATURES), torch.tensor([1.0, 0.0, 2.0, -1.0, 3.0]).double()
    stream = generator(1)
    fits = torch.stack([fitted(*volume_sample(made, count, stream), labels) for _ in range(2_000)])
    errors = (fits.mean(dim=0) - torch.tensor([1.0, 0.6]).double()) / (fits.std(dim=0) / 2_000**0.5)
    assert errors.abs().max() < 4


def test_blocks_of_the_process_fit_better_than_independent_points():
    # Ten Legendre polynomials and twenty points on the line, for a function that none of them is.
    line = torch.linspace(-1, 1, 1_000, dtype=torch.float64)
    made = orthonormal(torch.stack([torch.special.legendre_polynomial_p(line, k) for k in range(10)], dim=1))
    wanted = 1 / (1 + 25 * line.square())
    lengths = made.square().sum(dim=1)

    def error(rows: Tensor) -> float:
        root = (10 / lengths[rows]).sqrt()[:, None]
        found = torch.linalg.lstsq(root * made[rows], root * wanted[rows, None]).solution
        return float((made @ found - wanted[:, None]).square().mean())

    stream = generator(2)
    blocks = [error(torch.cat([projection_process(made, stream) for _ in range(2)])) for _ in range(100)]
    independent = [error(torch.multinomial(lengths, 20, replacement=True, generator=stream)) for _ in range(100)]
    assert torch.tensor(blocks).median() < 0.8 * torch.tensor(independent).median()


POINT = {"learning_rate": 0.01, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.0, "warmup_fraction": 0.1}


def test_training_counts_the_examples_that_it_chooses_and_learns():
    trial, told = make_trial([None], every=90)
    with pytest.raises(TrialOver):
        train_on_volumes(
            trial, Hyperparameters({**POINT, "label_smoothing": 0.0, "pool_examples": 256, "pool_steps": 20})
        )
    assert told[0].examples == 90 * 32
    batch = trial.train_set.gather(torch.arange(512))
    assert trial.loss(batch).item() < 0.3


def test_with_weights_that_stand_still_the_loss_of_chosen_examples_is_that_of_all_on_average():
    made, values = orthonormal(FEATURES), torch.tensor([1.0, 4.0, 2.0, 0.0, 3.0]).double()
    stream = generator(3)
    means = []
    for _ in range(2_000):
        # Fewer than a block: independent draws.
        rows, weights = volume_sample(made, 1, stream)
        means.append((weights * values[rows]).mean())
    found = torch.stack(means)
    assert found.mean().item() == pytest.approx(2.0, abs=4 * found.std().item() / 2_000**0.5)


def test_where_a_stage_begins_the_pool_is_taken_from_its_examples():
    trial = Rehearsal(StripeStream()).trial
    trial.go(Go(0.0))
    pool = Pool(trial, size=64, steps=1000)
    pool.draw(32)
    before = pool.state_dict()
    trial.next_stage()
    trial.end_step()
    chosen, _ = pool.draw(32)
    after = pool.state_dict()
    assert (before["stage"], after["stage"]) == (0, 1)
    assert not torch.equal(before["chosen"], after["chosen"])
    assert set(chosen.tolist()) <= set(after["chosen"].tolist())
    pool.draw(32)
    assert torch.equal(pool.state_dict()["chosen"], after["chosen"])
