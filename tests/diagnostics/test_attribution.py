"""Attribution methods, their linear models, DiffROAR and level sets, each where the answer is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, SplitName, TensorExamples
from harness.diagnostics.attribution.fidelity import NEIGHBOURHOODS, OWN, explained, fidelity
from harness.diagnostics.attribution.levels import level_sets, traverse
from harness.diagnostics.attribution.maps import (
    METHODS,
    attribute,
    cam_weights,
    last_maps,
    panel,
    share_in_signal,
    spatial_contribution,
)
from harness.diagnostics.attribution.pictures import Pictures, Scorer, input_gradient, pictures_of, scorer_of
from harness.diagnostics.attribution.retrained import difference_retrained, kept
from harness.diagnostics.probe import NotHere, Probe
from tests.blobs import Blobs
from workloads.losses.classification import Classification

SIDE = 8


class Halves(Classification):
    """Pictures of 8x8 in two classes that the sign of the upper half tells apart; the lower half is noise."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(2, (3000,), generator=generator)
        inputs = torch.randn(3000, 1, SIDE, SIDE, generator=generator)
        inputs[:, :, : SIDE // 2] += (2.0 * labels - 1.0)[:, None, None, None]
        return TensorExamples({"inputs": inputs, "targets": labels})

    def build_model(self) -> nn.Module:
        return self.build()

    def known_signal(self, batch: Batch) -> Tensor:
        signal = torch.zeros_like(batch["inputs"], dtype=torch.bool)
        signal[:, :, : SIDE // 2] = True
        return signal


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))


def looking_at(upper: float, lower: float) -> nn.Module:
    """A linear network whose second score is the sum of the pixels, weighted by half."""
    model = linear()
    weight = torch.zeros(2, SIDE * SIDE)
    weight[1, : SIDE * SIDE // 2], weight[1, SIDE * SIDE // 2 :] = upper, lower
    model[1].weight.data.copy_(weight)
    model[1].bias.data.zero_()
    return model


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


class Squares(nn.Module):
    """The second score is the sum of the squares of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(1, 2)
        self.output.weight.data.copy_(torch.tensor([[0.0], [1.0]]))
        self.output.bias.data.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.output(inputs.flatten(1).square().sum(dim=1, keepdim=True))
        return scores


def look(build: Callable[[], nn.Module], count: int = 40) -> tuple[Scorer, Pictures, Probe]:
    torch.manual_seed(0)
    workload = Halves(build)
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()))
    scorer = scorer_of(probe)
    return scorer, pictures_of(probe, scorer, probe.index[:count]), probe


@pytest.fixture
def attribution() -> Callable[..., Tensor]:
    """What a method makes of pictures, in float64; tests that use it need captum."""
    pytest.importorskip("captum")
    return lambda name, scorer, pictures: attribute(METHODS[name], scorer, pictures).double()


# --- maps ---


def test_of_a_linear_network_gradients_are_the_weights_and_the_rest_is_weights_times_pixels(attribution):
    scorer, pictures, probe = look(linear)
    weights = probe.model[1].weight.detach()[pictures.chosen].view_as(pictures.inputs).double()
    for name in ("gradient", "smooth_gradient", "guided_backpropagation"):
        assert torch.allclose(attribution(name, scorer, pictures), weights, atol=1e-6), name
    parts = weights * pictures.inputs
    for name in ("gradient_x_input", "integrated_gradients", "deep_lift"):
        assert torch.allclose(attribution(name, scorer, pictures), parts, atol=1e-5), name
    windows = F.avg_pool2d(parts, 4, divisor_override=1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(attribution("occlusion", scorer, pictures), windows, atol=1e-5)


@pytest.mark.parametrize(("name", "within"), [("deep_lift", 1e-4), ("integrated_gradients", 0.02)])
def test_what_is_handed_out_sums_to_the_score_less_that_of_zeros(attribution, name, within):
    scorer, pictures, _ = look(convolutions)
    with torch.no_grad():
        scores = scorer(pictures.inputs) - scorer(torch.zeros_like(pictures.inputs))
    wanted = scores.gather(1, pictures.chosen[:, None]).squeeze(1).double()
    sums = attribution(name, scorer, pictures).sum(dim=(1, 2, 3))
    assert (sums - wanted).norm() < within * wanted.norm()


def test_guided_backpropagation_lets_nothing_negative_pass_a_relu(attribution):
    def build() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), *looking_at(1.0, -1.0))
        model[0].weight.data.fill_(3.0)
        return model

    scorer, pictures, _ = look(build)
    is_second = pictures.chosen == 1
    assert is_second.any()
    found = attribution("guided_backpropagation", scorer, pictures)[is_second]
    positive = pictures.inputs[is_second] > 0
    assert torch.equal(found, 3.0 * (positive & pictures.signal[is_second]).double())


def test_grad_cam_weighs_the_last_maps_by_their_mean_gradients(attribution):
    scorer, pictures, probe = look(convolutions)
    maps = probe.model[:5](pictures.inputs)
    # A mean over sixteen places is all that comes behind.
    weights = probe.model[7].weight[pictures.chosen] / 16
    wanted = F.relu((weights[:, :, None, None] * maps).sum(dim=1, keepdim=True)).double()
    assert wanted.max() > 0
    assert torch.allclose(attribution("grad_cam", scorer, pictures), wanted, atol=1e-6)


def test_weights_of_maps_are_those_worked_out_by_hand():
    maps = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    gradients = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).view(2, 1, 1, 1, 2)
    # One sample: 1 / (2 + 4) of a gradient of 1. Two: means 2, 5 and 14, so 5 / (10 + 4 * 14) of 2.
    assert cam_weights(maps, gradients[:1]).item() == pytest.approx(1 / 6)
    assert cam_weights(maps, gradients).item() == pytest.approx(10 / 66)
    assert cam_weights(maps, -gradients).item() == 0.0


def test_a_place_contributes_the_norm_of_what_it_adds_to_the_gradient_of_a_1x1_convolution():
    maps = torch.tensor([[3.0, 4.0]]).view(1, 2, 1, 1)
    convolution = nn.Conv2d(2, 3, 1, bias=False)
    convolution(maps).mul(torch.tensor([1.0, -2.0, 2.0]).view(1, 3, 1, 1)).sum().backward()
    gradients = torch.tensor([[1.0, -2.0, 2.0]]).view(1, 3, 1, 1)
    found = spatial_contribution(maps, gradients).item()
    assert found == pytest.approx(15.0)
    assert convolution.weight.grad is not None
    assert found == pytest.approx(float(convolution.weight.grad.norm()))


def test_the_last_maps_are_those_of_several_places():
    scorer, pictures, _ = look(convolutions)
    assert last_maps(scorer, pictures.inputs) is scorer.model[4]
    with pytest.raises(NotHere, match="no layer gives maps"):
        last_maps(look(linear)[0], pictures.inputs)


def test_gradients_at_a_layer_are_averaged_over_the_same_noise_each_time(attribution):
    scorer, pictures, _ = look(convolutions)
    for name in ("smooth_gradient", "smooth_grad_cam"):
        one = attribution(name, scorer, pictures)
        torch.randn(3)
        assert torch.equal(one, attribution(name, scorer, pictures)), name
        assert one.abs().max() > 0


# --- the panel ---


def test_the_share_on_the_signal_is_that_of_sizes_and_coarse_maps_are_drawn_out():
    signal = torch.zeros(1, 1, 4, 2, dtype=torch.bool)
    signal[:, :, :2] = True
    values = torch.tensor([[-3.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).view(1, 1, 4, 2)
    assert share_in_signal(values, signal).item() == 0.75
    assert share_in_signal(torch.zeros(1, 5, 4, 2), signal).item() == 0.5
    coarse = torch.tensor([[1.0], [0.0]]).view(1, 1, 2, 1)
    # Rows at 1, 0.75, 0.25 and 0.
    assert share_in_signal(coarse, signal).item() == pytest.approx(0.875)


def test_a_network_that_looks_at_one_half_has_all_of_its_attributions_there(attribution):  # noqa: ARG001
    of_pixels = set(METHODS) - {"grad_cam", "smooth_grad_cam", "norm_grad"}
    for upper, lower, share in ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0)):
        # An identity, for the methods that want maps.
        scorer, pictures, _ = look(lambda up=upper, low=lower: nn.Sequential(nn.Identity(), *looking_at(up, low)))
        is_second = pictures.chosen == 1
        seen = Pictures(
            *(each[is_second] for each in (pictures.inputs, pictures.signal, pictures.labels, pictures.chosen))
        )
        found = panel(scorer, seen)
        assert {name: found[name] for name in of_pixels} == pytest.approx(dict.fromkeys(of_pixels, share))
        assert found["norm_grad"] == pytest.approx(share)
        assert found["chance"] == 0.5
        assert found["inputs"] > 0.55


def test_the_probes_network_stays_as_it_is():
    scorer, pictures, probe = look(convolutions)
    input_gradient(scorer, pictures.inputs, pictures.chosen)
    assert all(p.requires_grad and p.grad is None for p in probe.model.parameters())
    assert probe.model[2].inplace
    with torch.no_grad():
        assert torch.equal(probe.model(pictures.inputs), scorer(pictures.inputs))


def test_where_the_signal_is_not_known_there_is_no_panel():
    workload = Blobs()
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()))
    with pytest.raises(NotHere, match="which numbers of the inputs say anything of the target is not known"):
        scorer_of(probe)


def test_without_captum_the_panel_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    scorer, pictures, _ = look(convolutions)
    for diagnostic in (panel, fidelity):
        with pytest.raises(
            NotHere, match=r"captum is not installed: .*pip install -c constraints.txt '.\[diagnostics\]'"
        ):
            diagnostic(scorer, pictures)


# --- linear models ---


def test_a_linear_model_of_a_square_explains_what_it_does_by_hand():
    faded = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[:, None]
    # Of a^2 under a uniform a: variance 4/45, less a 1/180, less 2 a as much as before.
    assert explained(faded**2, faded).item() == pytest.approx(15 / 16, abs=1e-3)
    assert explained(faded**2, 2 * faded).item() == pytest.approx(0.0, abs=1e-3)
    assert explained(torch.ones(5, 1), torch.ones(5, 1)).isnan().all()


def test_of_a_linear_network_every_method_is_the_network_itself_in_every_neighbourhood(attribution):  # noqa: ARG001
    scorer, pictures, _ = look(linear)
    found = fidelity(scorer, pictures)
    assert len(found) == 2 * 2 + 3 * 3
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-3)


def test_of_squares_each_method_is_best_in_its_own_neighbourhood(attribution):  # noqa: ARG001
    scorer, pictures, _ = look(Squares)
    found = fidelity(scorer, pictures)
    shares = {where for where, each in NEIGHBOURHOODS.items() if each.of_shares}
    for where in shares:
        methods = {name: found[f"{name}/{where}"] for name, own in OWN.items() if own in shares}
        best = max(methods.values())
        assert all(value == pytest.approx(best, abs=1e-6) for name, value in methods.items() if OWN[name] == where)
    # The chord of a square has half of the slope that it has at its end.
    assert found["integrated_gradients/nearly_whole"] == pytest.approx(0.75, abs=0.02)
    assert found["gradient_x_input/nearly_whole"] == pytest.approx(1.0, abs=1e-3)
    assert found["integrated_gradients/faded"] > 0.9 > 0.3 > found["gradient_x_input/faded"]


# --- DiffROAR ---


def test_a_tenth_of_the_pixels_is_kept():
    scores = torch.arange(20.0).view(1, 1, 4, 5)
    assert kept(scores).flatten().nonzero().flatten().tolist() == [18, 19]
    assert kept(-scores).flatten().nonzero().flatten().tolist() == [0, 1]


def test_pixels_with_large_gradients_teach_a_new_network_where_they_hold_the_signal_alone():
    scorer, _, probe = look(lambda: looking_at(1.0, 0.1))
    # A first score without a gradient would say nothing of its pixels.
    scorer.model[1].weight[0] = -scorer.model[1].weight[1]
    found = difference_retrained(probe, scorer, linear, batch_size=32)
    assert found["largest"] > 0.9
    assert found["smallest"] == pytest.approx(0.5, abs=0.06)
    assert found["difference"] == found["largest"] - found["smallest"]


# --- level sets ---


def of_first(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: -model(inputs).log_softmax(dim=1)[:, 1]


def test_on_the_level_of_a_linear_score_one_goes_all_the_way_but_what_is_along_its_weights():
    generator = torch.Generator().manual_seed(1)
    sources, targets = (torch.randn(5, 1, SIDE, SIDE, generator=generator) for _ in range(2))
    ends = traverse(of_first(looking_at(0.02, 0.01)), sources, targets, pull=0.0)
    weights = torch.full((SIDE, SIDE), 0.01)
    weights[: SIDE // 2] = 0.02
    along = weights / weights.norm()
    whole = targets - sources
    wanted = whole - (whole * along).sum(dim=(2, 3), keepdim=True) * along
    assert (ends - sources - wanted).norm() < 0.018 * wanted.norm()  # 0.98^200 is left to go


def test_what_is_told_apart_by_nothing_arrives_and_what_would_leave_its_level_stops():
    generator = torch.Generator().manual_seed(1)
    sources, targets = (torch.randn(5, 1, SIDE, SIDE, generator=generator) for _ in range(2))
    ends = traverse(of_first(looking_at(0.0, 0.0)), sources, targets)
    assert (ends - targets).norm() < 0.018 * (targets - sources).norm()
    torch.manual_seed(0)
    losses = of_first(convolutions().eval())
    with torch.no_grad():
        stopped = traverse(losses, sources, targets, fall=-1.0)
        assert torch.equal(stopped, sources)
        before, after = ((-losses(each)).exp() for each in (sources, traverse(losses, sources, targets, fall=0.01)))
        assert (after >= before - 0.01001).all()


def test_pictures_go_towards_others_of_another_class():
    scorer, pictures, _ = look(convolutions)
    found = level_sets(scorer, pictures)
    assert 0 < found["travelled"] < 1.1
    assert found["remaining"] < 1
    assert found["confidence_after"] >= found["confidence_before"] - 0.05001
    alike = Pictures(pictures.inputs, pictures.signal, torch.zeros_like(pictures.labels), pictures.chosen)
    with pytest.raises(NotHere, match="all pictures are of one class"):
        level_sets(scorer, alike)
