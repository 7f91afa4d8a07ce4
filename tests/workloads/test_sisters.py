"""Workloads of the CPU tier under another loss: what it adds, what stays, and what training finds of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.api import Workload, mean_loss
from tests.workloads.short_runs import made


def loss(workload: Workload, outputs: Tensor, targets: Tensor) -> float:
    return mean_loss(*workload.losses(outputs, {"targets": targets}, 0.0)).item()


# --- kjv_char_lm_z_loss ---


def test_the_loss_is_cross_entropy_and_a_ten_thousandth_of_the_squared_logarithm_of_z():
    # Z of all 66 scores at 2 is 66 e^2.
    outputs, targets = torch.full((1, 3, 66), 2.0), torch.zeros(1, 3, dtype=torch.long)
    log_z = math.log(66) + 2
    found = loss(made("kjv_char_lm_z_loss"), outputs, targets)
    assert found == pytest.approx(math.log(66) + 1e-4 * log_z**2, rel=1e-6)


def test_scores_that_are_all_moved_change_the_loss_of_one_and_the_nats_of_none():
    sister, base = made("kjv_char_lm_z_loss"), made("kjv_char_lm")
    outputs = torch.randn(2, 4, 66, generator=torch.Generator().manual_seed(0)).double()
    batch = {"targets": torch.arange(8).view(2, 4)}
    # The loss is least where each Z is 1, and there it is that of the base.
    normal = outputs.log_softmax(dim=-1)
    losses = [loss(sister, normal + moved, batch["targets"]) for moved in (-1.0, 0.0, 1.0)]
    assert losses[0] == pytest.approx(losses[2])
    assert losses[1] == pytest.approx(losses[0] - 1e-4)
    assert losses[1] == pytest.approx(loss(base, outputs, batch["targets"]))
    for moved in (-1.0, 0.0, 1.0):
        metrics = sister.metrics(sister.statistics(normal + moved, batch))
        assert metrics["nats_per_character"] == pytest.approx(losses[1])
        assert metrics["log_z"] == pytest.approx(abs(moved), abs=1e-9)


# --- fashion_mnist_cnn_hinge ---


def test_the_hinge_loss_asks_for_a_margin_of_one_on_the_right_side_of_each_class():
    outputs = torch.full((2, 10), -1.0)
    outputs[0, 3] = 1.0  # all as they should be
    outputs[1, [3, 4]] = torch.tensor([0.5, 0.0])  # a half and 1 are lacking
    losses, weights = made("fashion_mnist_cnn_hinge").losses(outputs, {"targets": torch.tensor([3, 3])}, 0.0)
    assert losses.tolist() == [0.0, 1.25]
    assert weights is None


def test_beyond_the_margin_the_hinge_loss_has_no_slope():
    outputs = torch.tensor([[3.0, -2.0, -0.5, *[-1.5] * 7]], requires_grad=True)
    made("fashion_mnist_cnn_hinge").losses(outputs, {"targets": torch.tensor([0])}, 0.0)[0].sum().backward()
    assert outputs.grad[0].tolist() == [0.0, 0.0, 1.0, *[0.0] * 7]  # 2 (1 - 0.5)
