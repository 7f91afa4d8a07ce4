"""Sizes and ranks of weights, and of their change."""

from __future__ import annotations

import pytest
import torch

from harness.api import ParameterKind
from harness.diagnostics.weights import effective_rank, stable_rank, weight_readouts

ONE = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]))


def test_ranks_of_a_matrix_of_rank_one_are_one_and_those_of_the_identity_its_size():
    assert (stable_rank(ONE), effective_rank(ONE)) == pytest.approx((1.0, 1.0))
    assert (stable_rank(torch.eye(7)), effective_rank(torch.eye(7))) == pytest.approx((7.0, 7.0))
    assert (stable_rank(torch.zeros(3, 3)), effective_rank(torch.zeros(3, 3))) == (0.0, 0.0)


def test_readouts_are_of_each_kind_and_of_all():
    now = {"a": 2 * torch.eye(3), "b": torch.eye(3), "c": torch.tensor([3.0, 4.0])}
    initial = {"a": torch.eye(3), "b": torch.eye(3) + torch.ones(3, 3), "c": torch.zeros(2)}
    kinds = {"a": ParameterKind.WEIGHT, "b": ParameterKind.WEIGHT, "c": ParameterKind.BIAS}
    found = weight_readouts(now, initial, kinds)
    assert found["norm/weight"] == pytest.approx((12 + 3) ** 0.5)
    assert found["norm/bias"] == pytest.approx(5.0)
    assert found["norm/all"] == pytest.approx(40**0.5)
    assert found["norm_over_initial/weight"] == pytest.approx((15 / (3 + 18)) ** 0.5)
    assert found["change_norm/all"] == pytest.approx((3 + 9 + 25) ** 0.5)
    assert found["spectral_norm/weight"] == pytest.approx(1.5)
    assert found["stable_rank/weight"] == pytest.approx(3.0)
    assert found["change_stable_rank/weight"] == pytest.approx((3 + 1) / 2)  # of the identity, and of ones
    assert found["change_effective_rank/all"] == pytest.approx(2.0)
    assert found["small/weight"] == pytest.approx(12 / 18)  # what is off the diagonals
    assert "spectral_norm/bias" not in found


def test_kernels_count_as_matrices_of_outputs_by_the_rest_and_single_rows_do_not():
    kernel = torch.randn(6, 2, 3, 3)
    kinds = {"k": ParameterKind.CONV, "row": ParameterKind.OUTPUT}
    found = weight_readouts({"k": kernel, "row": torch.ones(1, 5)}, {"k": kernel, "row": torch.ones(1, 5)}, kinds)
    assert found["spectral_norm/conv"] == pytest.approx(float(torch.linalg.matrix_norm(kernel.flatten(1), 2)), rel=1e-5)
    assert found["change_stable_rank/conv"] == 0.0
    assert "spectral_norm/output" not in found
