"""The vision transformer and its variants: first scores, positions, what is refused. See full/ for AlgoPerf's sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.api import ConfigError
from workloads.networks.vision_transformer import VisionTransformer

SMALL: dict[str, Any] = {
    "channels": 1, "classes": 10, "image": 8, "patch": 2, "width": 16, "layers": 2, "heads": 2, "hidden": 32,
    "gated": False, "post_norm": False, "pooling": "mean", "dropout": 0.0,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {}, "glu": {"gated": True}, "post_ln": {"post_norm": True}, "map": {"pooling": "attention"},
}  # fmt: skip


def network(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{**SMALL, **changes})


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
