"""AlgoPerf's vision transformer and its variants: counts, shapes, outputs, dropout, initial weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from harness.config import values_of
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.parity import check_outputs, made, noise, shapes_of

COUNTS = [
    ("imagenet_vit", 22_122_472, 200),
    ("imagenet_vit_glu", 50_452_456, 224),
    ("imagenet_vit_post_ln", 22_121_704, 198),
    ("imagenet_vit_map", 23_896_552, 213),
]
SMALL: dict[str, Any] = {"width": 48, "heads": 6, "layers": 2, "hidden": 96}


def linear(out: int, into: int) -> list[tuple[int, ...]]:
    return [(out, into), (out,)]


def algoperfs_shapes(name: str) -> list[tuple[int, ...]]:
    """Written down from AlgoPerf's list of parameters."""
    norm = [(384,), (384,)]
    mlp = linear(1536, 384) + (linear(1536, 1536) if name == "imagenet_vit_glu" else []) + linear(384, 1536)
    shapes = [*linear(384, 384), (384, 3, 16, 16), (384,)]
    shapes += 12 * [*norm, *(4 * linear(384, 384)), *norm, *mlp]
    shapes += ([] if name == "imagenet_vit_post_ln" else norm) + linear(1000, 384)
    if name == "imagenet_vit_map":
        pooling = [(1, 1, 384), *linear(384, 384), *linear(768, 384), *linear(384, 384), *norm, *mlp]
        shapes += pooling
    return shapes


@pytest.mark.parametrize(("name", "parameters", "tensors"), COUNTS)
def test_it_has_algoperfs_parameters_in_number_shape_and_order(name: str, parameters: int, tensors: int):
    shapes = shapes_of(name)
    assert shapes == algoperfs_shapes(name)
    assert (len(shapes), sum(map(math.prod, shapes))) == (tensors, parameters)
    assert values_of("workload", name)["parameters"] == parameters


REFERENCES = [
    ("imagenet_vit", -0.005277, 0.609931, [-0.25065, 0.41473, 0.85171, -0.36989], -0.55734),
    ("imagenet_vit_glu", 0.019753, 0.574327, [-0.16056, -0.0781, -0.55077, -0.04085], 0.74161),
    ("imagenet_vit_post_ln", 0.030837, 0.617845, [-0.35444, 0.22161, -0.07011, 0.30969], -0.77173),
    ("imagenet_vit_map", 0.010832, 0.683794, [-0.40873, 0.40263, -0.40401, -0.53089], -1.82797),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mean", "deviation", "first", "last"), REFERENCES)
def test_it_computes_what_algoperf_computes(name: str, mean: float, deviation: float, first: list[float], last: float):
    model = made(name).build_model().eval()
    set_parity_weights(model)
    check_outputs(model, noise(2, 3, 224, 224), mean, deviation, first, last)


def test_the_initial_loss_is_that_of_a_guess_to_all_digits():
    workload = made("imagenet_vit", **SMALL)
    batch = {"inputs": noise(2, 3, 224, 224), "targets": torch.tensor([3, 999])}
    losses, _ = workload.losses(workload.outputs(workload.build_model(), batch), batch, 0.0)
    assert losses.tolist() == pytest.approx([6.907755] * 2, abs=1e-6)


def test_initial_weights_are_algoperfs():
    torch.manual_seed(0)
    model = made("imagenet_vit", layers=1).build_model()
    block = model.blocks[0]
    for weight in (block.attention.query.weight, block.feed_forward.first.weight, block.feed_forward.second.weight):
        limit = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max().item() == pytest.approx(limit, rel=1e-3)
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    for weight, fan_in in [(model.patches.weight, 768), (model.last_hidden.weight, 384)]:
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert block.feed_forward.first.bias.std().item() == pytest.approx(1e-6, rel=0.1)
    zeros = [block.attention.query.bias, block.attention.out.bias, model.last_hidden.bias, model.output.weight]
    assert all(parameter.abs().sum() == 0 for parameter in zeros)


@pytest.mark.parametrize("name", [name for name, _, _ in COUNTS])
def test_every_dropout_of_algoperf_has_the_one_rate_and_works_in_training_alone(name: str):
    torch.manual_seed(0)
    model = made(name, dropout=0.25, **SMALL).build_model()
    nn.init.normal_(model.output.weight)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    # Behind the positions; in each block on attention probabilities, hidden layer and both residual branches, the
    # latter two of one module; on probabilities and hidden layer of the pooling.
    assert len(found) == 1 + 3 * SMALL["layers"] + (2 if name == "imagenet_vit_map" else 0)
    assert {module.p for module in found} == {0.25}
    images = noise(2, 3, 224, 224)
    for module in found:
        module.p = 0.0
    plain = model(images)
    for module in found:
        module.p = 0.5
        assert not torch.allclose(model.train()(images), plain, atol=1e-4)
        torch.testing.assert_close(model.eval()(images), plain)
        module.p = 0.0


@pytest.mark.parametrize("name", ["imagenet_vit", "imagenet_vit_post_ln"])
@pytest.mark.parametrize("branch", ["attention", "feed_forward"])
def test_dropout_is_on_both_residual_branches(name: str, branch: str):
    model = made(name, **SMALL).build_model().train()
    block = model.blocks[0]
    tokens = torch.randn(2, 196, 48, generator=torch.Generator().manual_seed(0))
    other = block.feed_forward.second if branch == "attention" else block.attention.out
    nn.init.zeros_(other.weight)
    nn.init.zeros_(other.bias)
    # With all of the branch dropped nothing is added.
    nothing = block.feed_forward_norm(block.attention_norm(tokens)) if name == "imagenet_vit_post_ln" else tokens
    block.dropout.p = 1.0
    assert torch.equal(block(tokens), nothing)
    block.dropout.p = 0.0
    assert not torch.allclose(block(tokens), nothing)
