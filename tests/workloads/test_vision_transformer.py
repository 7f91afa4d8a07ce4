"""The vision transformer: AlgoPerf's sizes and variants, weight for weight; positions, pooling, what is refused."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from harness.api import ConfigError
from tests.workloads.algoperf_weights import set_parity_weights
from workloads.networks.vision_transformer import VisionTransformer

SMALL: dict[str, Any] = {
    "channels": 1, "classes": 10, "image": 8, "patch": 2, "width": 16, "layers": 2, "heads": 2, "hidden": 32,
    "gated": False, "post_norm": False, "pooling": "mean", "dropout": 0.0,
}  # fmt: skip
IMAGENET: dict[str, Any] = {
    **SMALL, "channels": 3, "classes": 1000, "image": 224, "patch": 16, "width": 384, "layers": 12, "heads": 6,
    "hidden": 1536,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "imagenet_vit": {}, "glu": {"gated": True}, "post_ln": {"post_norm": True}, "map": {"pooling": "attention"},
}  # fmt: skip


def network(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [
        ("imagenet_vit", 22_122_472, 200),
        ("glu", 50_452_456, 224),
        ("post_ln", 22_121_704, 198),
        ("map", 23_896_552, 213),
    ],
)
def test_it_has_the_parameters_of_algoperfs_imagenet_vit_and_its_variants(variant: str, parameters: int, tensors: int):
    with torch.device("meta"):
        model = VisionTransformer(**{**IMAGENET, **VARIANTS[variant]})
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "mean", "deviation", "first", "last"),
    [
        ("imagenet_vit", -0.005277, 0.609931, [-0.25065, 0.41473, 0.85171, -0.36989], -0.55734),
        ("glu", 0.019753, 0.574327, [-0.16056, -0.0781, -0.55077, -0.04085], 0.74161),
        ("post_ln", 0.030837, 0.617845, [-0.35444, 0.22161, -0.07011, 0.30969], -0.77173),
        ("map", 0.010832, 0.683794, [-0.40873, 0.40263, -0.40401, -0.53089], -1.82797),
    ],
)
def test_it_computes_what_algoperfs_imagenet_vit_and_its_variants_compute(
    variant: str, mean: float, deviation: float, first: list[float], last: float
):
    model = VisionTransformer(**{**IMAGENET, **VARIANTS[variant]}).eval()
    # Values of AlgoPerf's own code on these images, at the weights that set_parity_weights draws.
    set_parity_weights(model)
    images = torch.tensor(numpy.random.RandomState(7).standard_normal((2, 3, 224, 224)), dtype=torch.float32)
    with torch.no_grad():
        found = model(images)
    assert found.mean().item() == pytest.approx(mean, abs=1e-4)
    assert found.std(correction=0).item() == pytest.approx(deviation, rel=1e-4)
    assert found.flatten()[:4].tolist() == pytest.approx(first, abs=1e-3)
    assert found[-1, -1].item() == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_first_scores_are_zero(changes: dict[str, Any]):
    scores = network(**changes)(torch.randn(3, 1, 8, 8))
    assert torch.equal(scores, torch.zeros(3, 10))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_patches_in_other_places_give_other_scores(changes: dict[str, Any]):
    model = network(**changes)
    torch.nn.init.normal_(model.output.weight)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(model(images), model(images.transpose(2, 3)), atol=1e-3)
    assert not torch.allclose(model(images), model(images.roll(2, dims=3)), atol=1e-3)


@pytest.mark.parametrize("changes", [{"width": 18}, {"heads": 3}, {"patch": 3}, {"pooling": "max"}])
def test_impossible_sizes_are_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match="Use"):
        network(**changes)
