"""A small vision transformer on Fashion-MNIST."""

from __future__ import annotations

from workloads.data.fashion_mnist import FashionMnist
from workloads.models.vision_transformer_classifier import VisionTransformerClassifier


class FashionMnistVit(VisionTransformerClassifier, FashionMnist):
    """Vision transformer of the given sizes; see VisionTransformer."""
