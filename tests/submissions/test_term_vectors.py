"""Rules on the terms of a loss compute what their sheets write: projections off one term, and off conflicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness import Hyperparameters
from submissions.conflict_projection.submission import train as train_without_conflicts
from submissions.conflict_projection.submission import without_conflicts
from submissions.orthogonal_terms.submission import orthogonal_sum
from submissions.orthogonal_terms.submission import train as train_orthogonally
from tests.made_losses import TwoTerms
from tests.trial.passes.trials import trial_on_blobs

POINT = {
    "learning_rate": 0.01,
    "one_minus_beta1": 0.1,
    "beta2": 0.99,
    "weight_decay": 0.0,
    "warmup_fraction": 0.0,
    "label_smoothing": 0.0,
}


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=drawn())


# --- orthogonal_terms ---


def test_the_combined_gradient_is_that_of_the_sheet():
    found = orthogonal_sum(tensor([1.0, 1.0], [-1.0, 2.0]))
    torch.testing.assert_close(found, tensor(-0.5, 2.5))


def test_what_is_added_to_the_first_gradient_is_orthogonal_to_it_and_other_terms_stay():
    rows = gaussian(4, 9)
    added = orthogonal_sum(rows) - rows[0] - rows[2] - rows[3]
    assert abs(added @ rows[0]) < 1e-8
    # Also where the two agree.
    rows[1] = rows[0] + 0.1 * rows[1]
    assert abs((orthogonal_sum(rows[:2]) - rows[0]) @ rows[0]) < 1e-8


def test_a_first_gradient_of_zero_takes_nothing_away():
    rows = tensor([0.0, 0.0], [3.0, 4.0])
    assert torch.equal(orthogonal_sum(rows), rows[1])


# --- conflict_projection ---


def test_two_that_conflict_each_lose_their_part_against_the_other():
    first, second = tensor(1.0, 0.0), tensor(-1.0, 1.0)
    # (1, 0) - (-1/2)(-1, 1) = (1/2, 1/2), and (-1, 1) - (-1)(1, 0) = (0, 1).
    found = without_conflicts(torch.stack([first, second]), drawn())
    torch.testing.assert_close(found, tensor(0.5, 1.5))


def test_gradients_that_agree_are_added():
    rows = tensor([1.0, 0.0], [1.0, 2.0], [0.0, 1.0])
    torch.testing.assert_close(without_conflicts(rows, drawn()), rows.sum(dim=0))
    assert torch.equal(without_conflicts(torch.zeros(2, 3), drawn()), torch.zeros(3))


def step_by_step(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The algorithm of the paper, on the rows themselves."""
    together = torch.zeros_like(rows[0])
    for number, row in enumerate(rows):
        left = row.clone()
        for other in torch.randperm(len(rows), generator=generator).tolist():
            if other != number and left @ rows[other] < 0:
                left = left - (left @ rows[other]) / (rows[other] @ rows[other]) * rows[other]
        together = together + left
    return together


@pytest.mark.parametrize("seed", range(5))
def test_projections_in_random_order_are_those_of_the_paper(seed: int):
    rows = gaussian(5, 3)
    torch.testing.assert_close(without_conflicts(rows, drawn(seed)), step_by_step(rows, drawn(seed)))


def test_the_order_matters_and_comes_from_the_generator():
    rows = gaussian(5, 3)
    found = [without_conflicts(rows, drawn(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


# --- both ---


@pytest.mark.parametrize("train", [train_orthogonally, train_without_conflicts], ids=["orthogonal", "conflicts"])
def test_a_first_step_goes_along_the_combined_gradient_of_the_terms(train):
    trial = trial_on_blobs({"masked": True}, TwoTerms, evaluate_every_steps=1)
    other = trial_on_blobs({"masked": True}, TwoTerms)
    before = [parameter.detach().clone() for parameter in trial.model.parameters()]
    train(trial, Hyperparameters(POINT))
    terms, parameters = other.loss_terms(other.next_batch()), list(other.model.parameters())
    rows = torch.stack(
        [
            torch.cat([part.flatten() for part in torch.autograd.grad(term, parameters, retain_graph=True)])
            for term in terms.values()
        ]
    )
    expected = orthogonal_sum(rows) if train is train_orthogonally else without_conflicts(rows, other.generator)
    moved = torch.cat([(now - was).flatten() for now, was in zip(trial.model.parameters(), before, strict=True)])
    # Adam's first step is by the sign of the gradient.
    is_clear = expected.abs() > 1e-6
    assert is_clear.sum() > 50
    torch.testing.assert_close(moved[is_clear].sign(), -expected[is_clear].sign())
