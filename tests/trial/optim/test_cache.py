"""Work that update rules spare a CPU: parts that fit its cache, copies that no product pays for. Numbers stay."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from torch import nn

from harness import (
    MultiTensorOptimizer,
    adam_scale,
    divided,
    in_cache,
    move_moments,
    orthogonalised,
    scale_invariant_rows,
    stacked,
)
from harness.trial.optim.multi_tensor import runs
from submissions.lamb.submission import Lamb
from submissions.prodigy.submission import Prodigy

MIXED = [(700, 400), (30,), (40, 50), (700, 500), (7,)]


def weights(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def test_runs_hold_no_more_entries_than_asked_for_and_a_larger_tensor_by_itself():
    tensors = [torch.zeros(size) for size in (3, 4, 20, 1, 1)]
    assert [list(range(5))[run] for run in runs(tensors, 8)] == [[0, 1], [2], [3, 4]]
    assert [list(range(5))[run] for run in runs(tensors, 100)] == [[0, 1, 2, 3, 4]]


def test_a_rule_that_moves_each_tensor_by_itself_gets_large_ones_a_few_at_a_time():
    class Counts(MultiTensorOptimizer):
        by_tensor = True
        seen: ClassVar[list[int]] = []

        def update(self, group: dict, parameters: list, gradients: list, states: list) -> None:  # noqa: ARG002
            self.seen.append(len(parameters))

    Counts(weights(MIXED), {"lr": 1.0}).step()
    assert Counts.seen == [1, 2, 1, 1]


@pytest.mark.parametrize("kind", [Lamb, Prodigy])
def test_parts_that_fit_the_cache_move_weights_as_each_tensor_would_alone_or_all_at_once(kind):
    large = weights(MIXED)
    small = weights(MIXED[1:3])
    assert len(in_cache(large)) > 1
    assert len(in_cache(small)) == 1
    at_once = copy.deepcopy(large)
    for parameter, other in zip(large, at_once, strict=True):
        other.grad = parameter.grad.clone()
    mine = kind(large, lr=0.1)
    mine.step()
    whole = kind(at_once, lr=0.1)
    states = [whole._state_of(p, whole.param_groups[0]) for p in at_once]
    with torch.no_grad():
        for part in [slice(0, 5)] if kind is Prodigy else [slice(n, n + 1) for n in range(5)]:
            whole.update(whole.param_groups[0], at_once[part], [p.grad for p in at_once[part]], states[part])
    for one, other in zip(large, at_once, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_large_matrices_are_not_copied_into_stacks_on_a_cpu_and_small_ones_are():
    tensors = [torch.zeros(200, 100) for _ in range(2)] + [torch.zeros(2, 3) for _ in range(2)]
    found = [(positions, stack) for positions, (stack,) in stacked(tensors)]
    assert [positions for positions, _ in found] == [[0], [1], [2, 3]]
    assert found[0][1].data_ptr() == tensors[0].data_ptr()


def test_a_matrix_and_its_transpose_have_transposed_polar_factors_though_they_share_a_stack():
    matrix = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide, tall, other = orthogonalised([matrix, matrix.T.contiguous(), 2 * matrix])
    torch.testing.assert_close(tall, wide.T, atol=1e-12, rtol=0)
    torch.testing.assert_close(other, wide, atol=1e-6, rtol=0)
    assert tall.is_contiguous()


def test_adams_scale_and_its_root_are_adams_denominator():
    first, second = [torch.zeros(3, dtype=torch.float64)], [torch.zeros(3, dtype=torch.float64)]
    move_moments(first, second, [torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)], 0.9, 0.99)
    scale, roots = adam_scale(second, [{"step": 1}], 0.99, 1e-3)
    expected = torch.tensor([1.001, 2.001, 0.001], dtype=torch.float64)
    torch.testing.assert_close(scale[0] / roots[0], expected, atol=1e-12, rtol=0)
    [quotient] = divided(first, scale)
    assert quotient.data_ptr() == scale[0].data_ptr()


def test_weights_are_scale_invariant_by_channel_or_as_one_or_not_at_all():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    by_channel = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # Each channel's part along the weights cancels the other's.
    as_one = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    vector = torch.ones(2)
    found = scale_invariant_rows([weight, weight, weight, vector], [by_channel, as_one, weight, vector], delta=0.1)
    assert found == [2, 1, 0, 0]
