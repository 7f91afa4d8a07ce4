"""Spikes and signs: when a neuron fires, what stands in for derivatives, what spikes cost, what training comes to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.api import ConfigError
from harness.plugins.data import data_folder, is_present
from tests.workloads.plain_training import adamw, trained
from workloads.data.fashion_mnist import halved
from workloads.frontier.spikes.fashion_binary import CLIP, CORE, FashionBinary, SignConvolution, sign, stand_in
from workloads.frontier.spikes.fashion_spikes import (
    ACCUMULATE,
    MULTIPLY,
    FashionSpikes,
    SpikingAttention,
    SpikingNetwork,
    additions,
    spent,
)
from workloads.frontier.spikes.neurons import SURROGATES, Neurons

SPIKES: dict[str, Any] = {"widths": [16, 32, 64], "moments": 4, "surrogate": "atan", "attention": False}
BINARY: dict[str, Any] = {"widths": [32, 64, 128], "power": 1.0}


def network(**changes: Any) -> SpikingNetwork:
    torch.manual_seed(0)
    return SpikingNetwork(**{**SPIKES, **changes})


def images_of(count: int) -> Tensor:
    return torch.randn(count, 1, 14, 14, generator=torch.Generator().manual_seed(count))


def test_small_images_are_means_of_four_pixels_in_whole_levels():
    image = torch.tensor([[1, 2, 0, 255], [3, 4, 255, 255]], dtype=torch.uint8)[None, None]
    assert halved(image).tolist() == [[[[3, 191]]]]  # 2.5 and 191.25
    assert halved(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).item() == 255


# --- neurons ---


def fired(current: float, moments: int = 4, surrogate: str = "atan") -> list[float]:
    return Neurons(surrogate)([torch.tensor([current])] * moments).tolist()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_neuron_under_a_constant_current_fires_when_the_closed_form_says(surrogate: str):
    # From rest v = h (1 - 2^-t), so it fires at the first t with h >= 1 / (1 - 2^-t), and then begins anew.
    for least, pattern in [
        (2.0, [1, 1, 1, 1]),
        (4 / 3, [0, 1, 0, 1]),
        (8 / 7, [0, 0, 1, 0]),
        (16 / 15, [0, 0, 0, 1]),
    ]:
        assert fired(least + 1e-5, surrogate=surrogate) == pattern
    assert fired(16 / 15 - 1e-5, surrogate=surrogate) == fired(-3.0, surrogate=surrogate) == [0, 0, 0, 0]


def test_currents_of_each_moment_are_taken_one_after_another():
    currents = [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.5]), torch.tensor([0.0, 1.5])]
    assert Neurons("atan")(currents).view(3, 2).tolist() == [[1, 0], [0, 0], [0, 1]]  # 0.75, 1.125


@pytest.mark.parametrize(
    ("surrogate", "slopes"),
    [
        ("atan", [1 / (1 + (torch.pi * 0.25) ** 2), 1.0, 1 / (1 + torch.pi**2)]),
        ("rectangle", [1.0, 1.0, 0.0]),
        ("sigmoid", [4 * 0.731059 * 0.268941, 1.0, 4 * 0.982014 * 0.017986]),
    ],
)
def test_the_derivative_of_a_spike_is_that_of_its_stand_in(surrogate: str, slopes: list[float]):
    potentials = torch.tensor([1.25, 1.0, 0.0])
    currents = (2 * potentials).requires_grad_()  # of one moment: v = h / 2
    Neurons(surrogate)([currents]).sum().backward()
    torch.testing.assert_close(2 * currents.grad, torch.tensor(slopes), atol=1e-5, rtol=0)


def test_no_derivative_goes_through_a_reset():
    first = torch.tensor([3.0], requires_grad=True)
    later = torch.tensor([0.5])
    Neurons("rectangle")([first, later])[1].backward()
    assert first.grad.item() == 0.0  # it fired, so all that it left behind was taken away


def test_another_surrogate_is_refused():
    with pytest.raises(ConfigError, match="atan, rectangle, sigmoid"):
        FashionSpikes(**{**SPIKES, "surrogate": "relu"}).build_model()


# --- the network and what it spends ---


def test_all_that_convolutions_behind_the_first_read_are_spikes():
    model, read = network().train(), []
    for convolution in model.convolutions[1:]:
        convolution.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model(images_of(8))
    assert [len(each) for each in read] == [32, 32]
    for each in read:
        assert set(each.unique().tolist()) == {0.0, 1.0}


def test_attention_without_a_softmax_adds_up_what_keys_and_values_have_in_common():
    torch.manual_seed(0)
    attention = SpikingAttention(8, 1, "atan")
    hidden = (torch.rand(2, 8, 3, 3) < 0.3).float()
    seen = []
    attention.qkv_neurons.register_forward_hook(lambda *given: seen.append(given[2]))
    attention.mixed_neurons.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    attention.train()(hidden)
    queries, keys, values = seen[0].flatten(2).transpose(1, 2).chunk(3, dim=2)
    expected = torch.zeros(2, 9, 8)
    for image in range(2):
        for place in range(9):
            for other in range(9):
                common = (queries[image, place] * keys[image, other]).sum()
                expected[image, place] += common * values[image, other] / 8
    torch.testing.assert_close(seen[1].flatten(2).transpose(1, 2), expected)


def test_attention_fires_from_the_start():
    model, rates = network(attention=True).train(), []
    for neurons in (model.attention.qkv_neurons, model.attention.mixed_neurons, model.attention.out_neurons):
        neurons.register_forward_hook(lambda *given: rates.append(given[2].mean().item()))
    model(images_of(16))
    assert all(0.01 < rate < 0.9 for rate in rates), rates


def test_additions_are_counted_one_by_one():
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    spikes = (torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    count = 0
    for image, channel, row, column in spikes.nonzero().tolist():
        reached = [(y, x) for y in range(3) for x in range(3) if abs(2 * y - row) <= 1 and abs(2 * x - column) <= 1]
        count += 3 * len(reached)
        assert spikes[image, channel, row, column] == 1
    assert additions(layer, spikes) == count


def test_without_spikes_the_first_layer_alone_costs_energy_and_with_all_of_them_each_adds_at_each_moment():
    model, images = network().eval(), images_of(4)
    first, *others = (additions(layer, torch.ones(1, *shape)) for layer, shape in zip(
        model.convolutions, [(1, 14, 14), (16, 14, 14), (32, 7, 7)], strict=True,
    ))  # fmt: skip
    for bias, rate in ((-9.0, 0.0), (9.0, 1.0)):
        for norm in model.norms:
            nn.init.zeros_(norm.weight)
            nn.init.constant_(norm.bias, bias)
        found = spent(model, images)
        assert found["spike_rate"] == rate
        expected = (MULTIPLY * first + 4 * rate * ACCUMULATE * sum(others)) / (MULTIPLY * (first + sum(others)))
        assert found["energy_share"] == pytest.approx(expected)


# --- signs ---


def test_signs_are_one_and_minus_one_and_that_of_zero_is_one():
    for power in (1.0, 3.0):
        assert sign(torch.tensor([-2.0, -1e-9, 0.0, 0.3]), power=power).tolist() == [-1.0, -1.0, 1.0, 1.0]


def test_the_stand_in_is_the_power_function_between_a_straight_core_and_where_it_is_constant():
    values = torch.tensor([-2.0, -CLIP, -0.5, -CORE, 0.0, CORE, 0.7, CLIP, 3.0], dtype=torch.float64)
    for power in (1.0, 2.0, 3.0):
        expected = values.sign() * values.abs().clamp(max=CLIP) ** (1 / power)
        torch.testing.assert_close(stand_in(values, power=power), expected)
        core = torch.tensor(CORE / 2, dtype=torch.float64)
        assert stand_in(core, power=power).item() == pytest.approx(CORE ** (1 / power) / 2)


def test_the_derivative_of_a_sign_is_that_of_its_stand_in():
    values = torch.tensor([-2.0, -0.5, 0.05, 0.7], requires_grad=True)
    sign(values, power=1.0).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0]
    values.grad = None
    sign(values, power=3.0).sum().backward()
    slopes = [0.0, 0.5 ** (-2 / 3) / 3, 0.1 ** (-2 / 3), 0.7 ** (-2 / 3) / 3]
    torch.testing.assert_close(values.grad, torch.tensor(slopes))


def test_a_convolution_of_signs_is_that_of_the_signs_of_moved_weights_and_inputs():
    torch.manual_seed(0)
    layer = SignConvolution(3, 4, power=1.0)
    nn.init.uniform_(layer.weight, 0.0, 1.0)  # all positive: their own signs would all be alike
    hidden = torch.randn(2, 3, 6, 6)
    signs = torch.where(layer.weight >= layer.weight.mean(dim=(1, 2, 3), keepdim=True), 1.0, -1.0)
    inputs = torch.where(hidden >= 0, 1.0, -1.0)
    expected = nn.functional.conv2d(inputs, signs, stride=2, padding=1)
    assert torch.equal(layer(hidden), expected)
    assert torch.equal(expected, expected.round())


def test_a_power_below_one_is_refused():
    with pytest.raises(ConfigError, match="straight-through"):
        FashionBinary(**{**BINARY, "power": 0.5}).build_model()


# --- what training comes to ---

needs_images = pytest.mark.skipif(
    not is_present(FashionSpikes(**SPIKES), data_folder()),
    reason="the data are not here: make data WORKLOAD=fashion_spikes",
)


@needs_images
@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"surrogate": "rectangle"}, {"surrogate": "sigmoid"}, {"attention": True}])
def test_spikes_learn_clothes_at_a_seventh_of_the_energy(changes: dict[str, Any]):
    _, seen = trained(FashionSpikes(**{**SPIKES, **changes}), adamw(5e-3), steps=125, batch_size=64)
    assert seen[-1]["error"] < 0.25
    assert 0.03 < seen[-1]["spike_rate"] < 0.3
    assert 0.08 < seen[-1]["energy_share"] < 0.25


@needs_images
@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_signs_learn_clothes_with_either_stand_in(power: float):
    _, seen = trained(FashionBinary(**{**BINARY, "power": power}), adamw(5e-3), steps=200, batch_size=64)
    assert seen[-1]["error"] < 0.25
