"""Noise of gradients, sharpness along steps, opposing examples: each where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    SplitName,
    TensorExamples,
    Workload,
)
from harness.diagnostics.gradients import (
    directional_sharpness,
    directions_of,
    draw_gradients,
    noise_scale,
    opposing,
)
from harness.diagnostics.probe import NotHere, Probe, probe_index
from tests.blobs import Blobs
from tests.made_losses import Contrastive
from tests.trial.passes.test_twice import SpokenBlobs


def probe_of(workload: Workload) -> Probe:
    torch.manual_seed(0)
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


def test_the_noise_scale_of_gaussian_gradients_is_their_variance_over_their_squared_mean():
    # Mean (1, 2, 2) of squared length 9, variances (4, 1, 4) that sum to 9: the scale is 1.
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([1.0, 2.0, 2.0]).double(), torch.tensor([2.0, 1.0, 2.0]).double()
    found = []
    for _ in range(300):
        draws = draw_gradients(
            lambda index: (
                mean + deviation * torch.randn(3, dtype=torch.float64, generator=generator) / len(index) ** 0.5
            ),
            10_000,
            batch_size=4,
            generator=torch.Generator().manual_seed(1),
        )
        found.append(noise_scale(draws))
    mean_of = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    assert mean_of["squared_gradient"] == pytest.approx(9.0, rel=0.02)
    assert mean_of["trace_of_covariance"] == pytest.approx(9.0, rel=0.06)
    spread = float(torch.tensor([each["noise_scale"] for each in found]).std())
    assert mean_of["error"] == pytest.approx(spread, rel=0.15)
    assert 0.9 < sum(each["low"] < 1.0 < each["high"] for each in found) / len(found) < 0.99


def test_the_second_moment_of_draws_is_of_small_batches():
    draws = draw_gradients(
        lambda index: torch.full((2,), float(len(index)), dtype=torch.float64),
        100,
        batch_size=3,
        generator=torch.Generator().manual_seed(0),
    )
    assert draws.second_moment.tolist() == [9.0, 9.0]
    assert (len(draws.small), len(draws.large)) == (64, 16)
    assert draws.large.unique().tolist() == [2 * 24.0**2]


def test_along_an_eigenvector_the_sharpness_is_its_eigenvalue_and_else_the_mean_that_the_squares_weigh():
    diagonal = torch.tensor([4.0, 1.0, -2.0]).double()
    found = directional_sharpness(
        lambda v: diagonal * v,
        {
            "gradient": torch.tensor([1.0, 1.0, 0.0]).double(),
            "sign": torch.tensor([0.0, 0.0, 3.0]).double(),
            "polar": torch.zeros(3).double(),
        },
    )
    assert found == {"gradient": 2.5, "sign": -2.0, "sign_over_gradient": -0.8}


def test_directions_are_the_steps_that_methods_take():
    probe = probe_of(Blobs(hidden=4))
    kinds = {name: ParameterKind.WEIGHT if p.ndim > 1 else ParameterKind.BIAS for name, p in probe.parameters.items()}
    kinds["3.weight"] = ParameterKind.OUTPUT
    gradient = probe.gradient()
    found = directions_of(probe, gradient, 4.0 * gradient.square(), kinds)
    assert torch.equal(found["gradient"], -gradient)
    assert torch.equal(found["sign"], -gradient.sign())
    torch.testing.assert_close(found["adam"], -gradient.sign() / 2, rtol=1e-3, atol=1e-3)
    parts = dict(zip(probe.parameters, probe.apart(found["polar"]), strict=True))
    torch.testing.assert_close(torch.linalg.svdvals(parts["1.weight"]), torch.ones(4), rtol=1e-5, atol=1e-5)
    assert not any(bool(part.any()) for name, part in parts.items() if name != "1.weight")


class Opposed(Workload):
    """Logistic regression without a bias; `strength` of one coordinate says opposite labels in two groups of eight."""

    loss_kind = LossKind.SIGMOID_CROSS_ENTROPY

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002
        generator = torch.Generator().manual_seed(0)
        targets = (torch.arange(800) % 2).float()
        inputs = torch.randn(800, 5, generator=generator) / 4
        inputs[:, 1] += 2 * targets - 1
        # Both groups have the strong feature; their labels disagree on what it means.
        inputs[:16, 0] = 20.0
        targets[:16] = (torch.arange(16) < 8).float()
        return TensorExamples({"inputs": inputs, "targets": targets})

    def build_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 1, bias=False), nn.Flatten(0))
        nn.init.zeros_(model[0].weight)
        with torch.no_grad():
            model[0].weight[0, 0] = 0.05
        return model

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        return F.binary_cross_entropy_with_logits(outputs, batch["targets"], reduction="none"), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"wrong": (outputs > 0) != (batch["targets"] > 0)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"error": float(statistics["wrong"].double().mean())}


def test_two_planted_groups_that_pull_against_each_other_are_found():
    probe = probe_of(Opposed())
    found = opposing(probe, probe.gradient(), top=0.5)
    assert found["cosine"] < -0.95
    assert found["share_of_class_rise"] == found["share_of_class_fall"] == 1.0
    assert found["share_of_change_rise"] > 0.05


def test_a_probe_stands_where_it_stood_after_a_step_was_tried():
    probe = probe_of(Opposed())
    before = probe.weights()
    opposing(probe, probe.gradient(), top=0.5)
    assert torch.equal(probe.weights(), before)


# --- the probe itself ---


def test_the_probe_loss_is_the_mean_over_the_units_that_count_and_its_gradient_that_of_this():
    probe = probe_of(Blobs(hidden=4, masked=True))
    batch = probe.train_set.gather(probe.index)
    losses, weights = probe.workload.losses(probe.model(batch["inputs"]), batch, 0.0)
    expected = (losses * weights).sum() / weights.sum()
    assert probe.loss() == pytest.approx(expected.item(), rel=1e-6)
    of_all = torch.autograd.grad(expected, list(probe.model.parameters()))
    torch.testing.assert_close(probe.gradient().float(), torch.cat([g.flatten() for g in of_all]))
    counted = weights > 0
    torch.testing.assert_close(probe.example_losses()[counted].float(), losses.detach()[counted])


def test_where_examples_are_coupled_none_has_a_loss_of_its_own():
    probe = probe_of(Contrastive())
    assert probe.gradient().any()
    with pytest.raises(NotHere, match="couples the examples"):
        probe.example_losses()


def test_products_at_the_same_weights_agree_and_those_after_a_change_are_of_the_new_weights():
    probe, anew = probe_of(Blobs(hidden=4, masked=True)), probe_of(Blobs(hidden=4, masked=True))
    vector = torch.randn(probe.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = probe.product(vector)
    assert torch.equal(probe.product(vector), first)
    torch.testing.assert_close(probe.product(2.0 * vector), 2.0 * first)
    for each in (probe, anew):
        each.load(3.0 * each.weights())
    after = probe.product(vector)
    assert not torch.equal(after, first)
    assert torch.equal(after, anew.product(vector))
    probe.release()
    assert torch.equal(probe.product(vector), after)


def test_the_probe_set_is_the_first_part_of_one_permutation_and_smaller_where_examples_have_many_units():
    whole, few = probe_index(60_000, 1), probe_index(60_000, 64)
    assert (len(whole), len(few)) == (2048, 128)
    assert torch.equal(whole[:128], few)
    assert len(whole.unique()) == 2048
    assert (len(probe_index(500, 1)), len(probe_index(60_000, 10**6))) == (500, 64)
    assert whole[:4].tolist() == [3048, 19563, 58303, 8870]


def test_where_the_loss_has_no_second_derivative_products_are_differences():
    probe = probe_of(SpokenBlobs(hidden=4))
    assert not probe.is_exact
    vector = torch.randn(probe.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = torch.randn(probe.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # A Hessian is symmetric.
    forward, backward = float(other @ probe.product(vector)), float(vector @ probe.product(other))
    assert forward == pytest.approx(backward, rel=0.02, abs=1e-3)


class Detached(Blobs):
    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs: Tensor = model(batch["inputs"])
        return outputs if model.training else outputs.detach()


def test_a_loss_without_a_gradient_in_eval_mode_says_so():
    with pytest.raises(NotHere, match="in eval mode the loss of this workload has no gradient"):
        probe_of(Detached()).gradient()
