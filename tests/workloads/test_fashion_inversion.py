"""Inversion of photographs by what a network is told: where the sampler begins, and what training makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.plugins.data import data_folder, is_present
from workloads.frontier.fashion.fashion_concept import trained_network
from workloads.frontier.fashion.fashion_inversion import (
    COURSE,
    PHOTOGRAPHS,
    STEPS,
    FashionInversion,
    ToldInSteps,
    run_backwards,
)
from workloads.frontier.fashion.level_u_net import LEVEL_WIDTH

WORKLOAD = FashionInversion()
pytestmark = pytest.mark.skipif(
    not is_present(WORKLOAD, data_folder()), reason="the data are not here: make data WORKLOAD=fashion_inversion"
)


def batch_of(count: int) -> dict[str, Tensor]:
    return WORKLOAD.load("train", data_folder()).gather(torch.arange(count))


def sampler() -> ToldInSteps:
    torch.manual_seed(0)
    model = WORKLOAD.build_model()
    assert isinstance(model, ToldInSteps)
    return model.eval()


def told_nothing(model: ToldInSteps, batch: dict[str, Tensor]) -> Tensor:
    return model.edited(batch["starts"], model.none.expand(len(batch["starts"]), STEPS, LEVEL_WIDTH))


class Shrinks(nn.Module):
    """Takes any image for half of what it sees, told anything."""

    none = 0

    def forward(self, noisy: Tensor, *_: Tensor) -> Tensor:
        return 0.5 * noisy


def test_a_sampler_that_is_run_backwards_goes_along_what_images_are_taken_for():
    # Half of an image is left over, and grows with the level: by (1 + after / before) / 2 in each step.
    images = torch.ones(2, 1, 3, 3)
    course = COURSE.flip(0)
    grown = ((1 + course[1:] / course[:-1]) / 2).prod()
    torch.testing.assert_close(run_backwards(Shrinks(), images), grown / COURSE[0] * images)


@torch.no_grad()
def test_starts_told_nothing_come_back_to_about_the_photographs_and_guided_by_a_kind_they_do_not():
    model, batch = sampler(), batch_of(PHOTOGRAPHS)
    network = trained_network()
    plain = (told_nothing(model, batch) - batch["targets"]).square().mean().sqrt().item()
    kind = network.kinds.weight[1].expand(PHOTOGRAPHS, STEPS, LEVEL_WIDTH)
    guided = (model.edited(batch["starts"], kind) - batch["targets"]).square().mean().sqrt().item()
    assert plain < 0.5 * guided


@torch.no_grad()
def test_the_numbers_of_a_step_matter_from_that_step_on_and_for_their_photograph_alone():
    model, batch = sampler(), batch_of(3)
    before = model(batch["which"], batch["starts"])
    model.numbers[1, STEPS - 1] += 1.0
    after = model(batch["which"], batch["starts"])
    assert torch.allclose(before[[0, 2]], after[[0, 2]], atol=1e-5)
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_half_of_the_photographs_validate_and_the_others_test():
    whole, *parts = (WORKLOAD.load(split, data_folder()).tensors() for split in ("train", "validation", "test"))
    assert torch.equal(torch.cat([part["targets"] for part in parts]), whole["targets"])
    assert torch.equal(torch.cat([part["which"] for part in parts]), torch.arange(PHOTOGRAPHS))


@pytest.mark.slow
def test_training_makes_photographs_nearer_than_telling_nothing_does():
    model, batch = sampler(), batch_of(4)
    with torch.no_grad():
        plain = (told_nothing(model, batch) - batch["targets"]).square().mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = WORKLOAD.losses(WORKLOAD.outputs(model, batch), batch, 0.0)[0].mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * plain
