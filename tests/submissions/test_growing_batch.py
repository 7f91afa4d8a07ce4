"""Batches that grow by the norm test: the numbers of the sheet, what never happens, and the optimizers in between."""

from __future__ import annotations

from math import inf, isinf, sqrt

import pytest
import torch
from torch import Tensor, nn

from harness import ConfigError, GrowingBatch, Hyperparameters, passing_size
from harness.plugins.conformance.rehearsal import Rehearsal
from submissions.adadagrad_norm.submission import AdaGradNorm
from tests.submissions.test_optimizer_vectors import gaussian, gradient, start

EXAMPLE = [[1.0, 0.0, 2.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [2.0, -1.0, 3.0]]


def in_parts(rows: Tensor) -> list[list[Tensor]]:
    """Gradients of a vector and a number."""
    return [[row[:2], row[2:]] for row in rows]


def test_the_batch_that_passes_is_that_of_the_sheet():
    """A variance of 2.25 over a quarter of 5.0625."""
    assert passing_size(in_parts(torch.tensor(EXAMPLE)), 1, 0.5) == pytest.approx(2.25 / (0.25 * 5.0625))


def test_parts_tell_the_variance_of_single_examples():
    examples = gaussian(4096, 3) + torch.tensor([1.0, 0.0, 0.0])
    singly = passing_size(in_parts(examples), 1, 0.5)
    by_parts = passing_size(in_parts(examples.view(64, 64, 3).mean(dim=1)), 64, 0.5)
    assert singly == pytest.approx(12.0, rel=0.1)
    assert by_parts == pytest.approx(singly, rel=0.3)


def test_equal_examples_pass_in_any_batch_and_a_mean_of_zero_in_none():
    assert passing_size(in_parts(torch.ones(4, 3)), 1, 0.1) == 0.0
    assert passing_size(in_parts(torch.zeros(4, 3)), 1, 0.1) == 0.0
    assert isinf(passing_size(in_parts(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])), 1, 0.1))


def sizes_of(*, tolerance: float, first: float = 8, largest: float = 64) -> tuple[list[int], GrowingBatch]:
    """Sizes after each step of a race that does not move the weights."""
    seen: list[int] = []
    batches: list[GrowingBatch] = []

    def train(trial, hp):  # noqa: ARG001
        batch = GrowingBatch(trial, first=first, largest=largest, tolerance=tolerance, parts=4, test_interval=3)
        batches.append(batch)
        while True:
            batch.gradients()
            seen.append(batch.size)
            trial.end_step()

    Rehearsal().run(train, Hyperparameters({}))
    return seen, batches[0]


def test_a_batch_never_shrinks_and_ends_at_the_largest():
    sizes, batch = sizes_of(tolerance=0.8)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 64
    assert batch.examples == 8 + sum(sizes[:-1])


def test_a_batch_that_passes_stays():
    assert sizes_of(tolerance=inf)[0] == [8] * 120


def test_parts_hold_a_power_of_two_of_examples():
    sizes, _ = sizes_of(tolerance=0.5, first=5, largest=61)
    assert sizes[-1] == 64
    assert set(sizes) <= {8, 16, 32, 64}


def test_the_gradient_of_a_tested_batch_is_that_of_the_batch():
    found: list[Tensor] = []

    def train(trial, hp):
        trial.model[1].eval()  # batch norm would see parts
        batch = GrowingBatch(trial, first=32, largest=64, tolerance=inf, parts=4, test_interval=hp.interval)
        batch.gradients()
        batch.gradients()
        found.append(torch.cat([p.grad.flatten() for p in trial.model.parameters()]))
        for _ in trial.batches():
            pass

    for interval in (1, 100):
        Rehearsal().run(train, Hyperparameters({"interval": interval}))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def test_a_test_of_one_part_is_refused():
    with pytest.raises(ConfigError, match="the norm test got 1 parts"):
        Rehearsal().run(
            lambda trial, hp: GrowingBatch(trial, first=8, largest=64, tolerance=1.0, parts=1, test_interval=1),  # noqa: ARG005
            Hyperparameters({}),
        )


def test_adagrad_norm_divides_by_the_root_of_all_squared_norms():
    parameters = [nn.Parameter(start()), nn.Parameter(start()[0].clone())]
    optimizer = AdaGradNorm(parameters, lr=0.1, initial=2.0)
    expected, total = [p.detach().clone() for p in parameters], 4.0
    for step in range(1, 4):
        slopes = [gradient(step), gradient(step + 1)[0]]
        total += sum(slope.square().sum().item() for slope in slopes)
        for parameter, slope, place in zip(parameters, slopes, expected, strict=True):
            parameter.grad = slope
            place -= 0.1 * slope / sqrt(total)
        optimizer.step()
    for parameter, place in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), place, atol=1e-12, rtol=0)
