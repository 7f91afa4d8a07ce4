"""The champion's parts: each is the rule that it is taken from, or the formula that it states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness import Hyperparameters
from harness.plugins.conformance.rehearsal import STEPS, Rehearsal
from harness.plugins.submission import load_submission
from submissions.cautious_nadamw.submission import CautiousNAdamW
from submissions.champion.submission import (
    NAdamW,
    PolarMomentum,
    averaging,
    groups_by_rate,
    matrices_that_pay,
    rows_of_weights,
    train,
)
from tests.submissions.test_optimizer_vectors import gradient, start

BATCH = 32
PLACES = 16  # where a kernel is put with a stride of two on an image of 8 x 8


def hyperparameters(**changes: object) -> Hyperparameters:
    return Hyperparameters({**load_submission("champion").hyperparameters, **changes})


def names_of(rehearsal: Rehearsal, parameters: list[nn.Parameter]) -> list[str]:
    wanted = set(map(id, parameters))
    return [name for name, p in rehearsal.model.named_parameters() if id(p) in wanted]


def test_cautious_steps_are_those_of_the_submission_that_is_nothing_else():
    ours, theirs = nn.Parameter(start(4, 3)), nn.Parameter(start(4, 3))
    options = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.01}
    optimizers = [(ours, NAdamW([ours], **options, cautious=True)), (theirs, CautiousNAdamW([theirs], **options))]
    for step in range(1, 4):
        for parameter, optimizer in optimizers:
            parameter.grad = gradient(step, 4, 3)
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (16, 16), (8, 4, 3, 3)])
def test_a_matrix_moves_by_a_fifth_of_the_rate_in_any_shape(shape: tuple[int, ...]):
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    PolarMomentum([parameter], lr=0.1).step()
    # Five iterations leave singular values between 0.68 and 1.14.
    assert parameter.square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)


def test_a_kernel_has_a_row_for_each_place_and_a_linear_layer_for_each_example():
    rehearsal = Rehearsal()
    rows = rows_of_weights(rehearsal.trial)
    found = {name: rows[id(p)] for name, p in rehearsal.model.named_parameters() if id(p) in rows}
    assert found == {"0.weight": BATCH * PLACES, "4.weight": BATCH, "6.weight": BATCH}
    assert rehearsal.model.training


@pytest.mark.parametrize(("cost", "names"), [(0.0, []), (0.3, ["0.weight"]), (1000.0, ["0.weight", "4.weight"])])
def test_matrices_are_orthogonalised_where_their_passes_cost_more(cost: float, names: list[str]):
    """Five iterations on 6 x 9 against 512 rows: 0.06; on 12 x 96 against 32 rows: 1.9."""
    rehearsal = Rehearsal()
    assert names_of(rehearsal, matrices_that_pay(rehearsal.trial, hyperparameters(matrix_cost=cost))) == names


def test_output_embeddings_and_vectors_have_rates_of_their_own():
    rehearsal = Rehearsal()
    hp = hyperparameters(learning_rate=0.01, output_factor=0.5, vector_factor=3.0)
    groups = groups_by_rate(rehearsal.trial, hp, without=[])
    assert {group["lr"]: names_of(rehearsal, group["params"]) for group in groups} == {
        0.01: ["0.weight", "4.weight"],
        0.03: ["0.bias", "1.weight", "1.bias", "4.bias", "6.bias"],
        0.005: ["6.weight"],
    }


def test_the_average_reaches_back_over_a_share_of_the_steps():
    """Of half of those so far: weights of step s count like s - 1, and their mean step is 2 (steps + 1) / 3."""
    hp = hyperparameters(averaged_fraction=0.5, average_every=1)
    seen: list[float] = []

    def counts(trial, hp):
        first = next(iter(trial.model.parameters()))
        take_in = averaging(trial, hp)
        assert take_in is not None
        trial.before_evaluation(lambda: seen.append(first.flatten()[0].item()))
        for _ in trial.batches():
            with torch.no_grad():
                first.fill_(float(trial.step + 1))
            take_in()

    Rehearsal().run(counts, hp)
    assert seen[-1] == pytest.approx(2 * (STEPS + 1) / 3)


def test_an_average_that_is_turned_off_is_not_there():
    rehearsal = Rehearsal().run(train, hyperparameters(averaged_share=0.0))
    assert "average" not in rehearsal.resumable
