"""Where a sampler must have begun: the true starts, a rule that finds them without gradients, and training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.points.points_diffusion import pinwheel
from workloads.frontier.points.points_inversion import Starts, sampled, true_starts

TRUE = torch.from_numpy(true_starts())


def test_the_true_starts_make_no_error():
    model = Starts()
    with torch.no_grad():
        model.starts.copy_(TRUE)
    found = validated(made("points_inversion"), model)
    assert found["start_error"] == 0.0
    assert found["loss"] < 1e-6


def test_half_of_the_starts_validate_and_the_others_test():
    workload = made("points_inversion")
    validation, test = (whole(workload, split) for split in ("validation", "test"))
    assert torch.equal(torch.cat([validation["starts"], test["starts"]]).double(), TRUE)
    assert set(whole(workload, "train")) == {"which", "targets"}


def test_across_the_plane_of_the_points_an_end_is_its_start():
    # All points lie in a plane, so that the sampler only makes smaller what is across it.
    _, axes = pinwheel()
    across = torch.eye(8).double() - torch.from_numpy(axes @ axes.T)
    torch.testing.assert_close(sampled(TRUE) @ across, TRUE @ across)
    within = (sampled(TRUE) - TRUE) @ torch.from_numpy(axes)
    assert within.square().mean() > 1.0


def without_gradients(*, rate: float, steps: int) -> Tensor:
    """Starts moved by the error of their ends, as if the sampler changed nothing: the rule of FlowOpt."""
    torch.manual_seed(0)
    starts, ends = torch.randn(64, 8).double(), sampled(TRUE)
    for _ in range(steps):
        starts = starts - rate * (sampled(starts) - ends)
    return starts


def test_moving_starts_by_the_errors_of_their_ends_finds_them_all():
    found = without_gradients(rate=0.02, steps=300)
    assert (found - TRUE).square().mean().sqrt() < 0.01  # 0.003


def test_the_same_in_larger_steps_does_not_settle():
    found = without_gradients(rate=0.3, steps=100)
    assert (found - TRUE).square().mean().sqrt() > 0.5


@pytest.mark.slow
def test_descent_through_the_sampler_is_behind_the_rule_without_gradients():
    found = validated(made("points_inversion"), trained(made("points_inversion"), adam(0.2), steps=300, batch_size=64))
    assert 0.05 < found["start_error"] < 0.4  # 0.2
