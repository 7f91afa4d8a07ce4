"""Conflicts between the terms of a loss: where the cosines are known, and where there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch, LossKind, mean_loss
from harness.diagnostics.conflicts import conflicts, term_gradients
from harness.diagnostics.probe import NotHere, Probe
from tests.blobs import Blobs
from tests.made_losses import TwoTerms

SLOPES = {"right": (1.0, 0.0), "left_and_up": (-1.0, 1.0), "up": (0.0, 0.5)}


class Slopes(TwoTerms):
    """Three terms that are linear in two weights, whatever the example, with the gradients SLOPES."""

    loss_kind = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = dict.fromkeys(SLOPES, 1.0)

    def build_model(self) -> nn.Module:
        return nn.Linear(2, 1, bias=False)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return model.get_parameter("weight").expand(len(batch["inputs"]), 2)

    def loss_terms(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> dict[str, tuple[Tensor, None]]:  # type: ignore[override]  # noqa: ARG002
        return {name: (outputs @ torch.tensor(slope), None) for name, slope in SLOPES.items()}


class Against(Slopes):
    """The last term counts the other way round."""

    term_weights: ClassVar[Mapping[str, float]] = {**Slopes.term_weights, "up": -2.0}


def probe_of(workload: Blobs) -> Probe:
    torch.manual_seed(0)
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


def found_in(workload: Blobs) -> dict[str, float]:
    return conflicts(probe_of(workload), batch_size=8, generator=torch.Generator().manual_seed(0))


def test_cosines_of_known_slopes_are_those_of_the_angles_between_them():
    root = math.sqrt(0.5)
    assert found_in(Slopes()) == pytest.approx(
        {
            "cosine/right/left_and_up": -root,
            "cosine/right/up": 0.0,
            "cosine/left_and_up/up": root,
            "mean_cosine": 0.0,
            "mean_cosine/weight": 0.0,
            "lowest_cosine": -root,
            "negative_share": 1 / 3,
            "negative_share_of_batches": 1 / 3,
        }
    )


class InLayers(Slopes):
    """Two terms pull two layers in ways of their own, and a third the first layer alone."""

    term_weights: ClassVar[Mapping[str, float]] = {"left": 1.0, "right": 5.0, "up": 1.0}

    def build_model(self) -> nn.Module:
        return nn.ModuleDict({"low": nn.Linear(2, 1, bias=False), "high": nn.Linear(2, 1)})

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        joined = torch.cat([parameter.flatten() for parameter in model.parameters()])
        return joined.expand(len(batch["inputs"]), 5)

    def loss_terms(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> dict[str, tuple[Tensor, None]]:  # type: ignore[override]  # noqa: ARG002
        ways = {"left": [3.0, 4.0, 1.0, 0.0, 1.0], "right": [-3.0, -4.0, 1.0, 1.0, 0.0], "up": [4.0, -3.0, 0, 0, 0]}
        return {name: (outputs @ torch.tensor(way), None) for name, way in ways.items()}


def test_within_a_layer_those_are_compared_that_have_a_gradient_there():
    found = found_in(InLayers())
    assert found["cosine/left/right"] == pytest.approx(-24 / 27)
    # Against each other, and the third at a right angle to both; above there are two, with half of their way in common.
    assert found["mean_cosine/low"] == pytest.approx(-1 / 3)
    assert found["mean_cosine/high"] == pytest.approx(0.5)


def test_a_term_that_counts_the_other_way_round_points_the_other_way():
    found = found_in(Against())
    assert found["cosine/left_and_up/up"] == pytest.approx(-math.sqrt(0.5))
    assert found["negative_share"] == pytest.approx(2 / 3)


def test_gradients_of_terms_are_those_of_the_units_that_count():
    workload = TwoTerms(masked=True)
    probe = probe_of(workload)
    found = term_gradients(probe, probe.batches)
    batch = probe.train_set.gather(probe.index)
    for name, (losses, weights) in workload.loss_terms(workload.outputs(probe.model, batch), batch, 0.0).items():
        alone = torch.autograd.grad(mean_loss(losses, weights), list(probe.parameters.values()), retain_graph=True)
        gradient = torch.cat([each.flatten() for each in alone]).double()
        torch.testing.assert_close(found[name] / found[name].norm(), gradient / gradient.norm(), rtol=1e-4, atol=1e-6)


def test_a_loss_of_one_term_has_no_conflicts():
    with pytest.raises(NotHere, match="no two terms"):
        found_in(Blobs())
