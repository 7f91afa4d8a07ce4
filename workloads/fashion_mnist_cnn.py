"""A small residual network with batch norm on Fashion-MNIST."""

from __future__ import annotations

from harness.api import Scaled, Symmetry
from workloads.data.fashion_mnist import FashionMnist
from workloads.models.residual_classifier import ResidualClassifier


class FashionMnistCnn(ResidualClassifier, FashionMnist):
    """Residual network of the given sizes; see ResidualNetwork."""

    def symmetries(self) -> list[Symmetry]:
        """Also images of any contrast: the batch norm behind the first convolution takes it away."""
        return [*super().symmetries(), Scaled("inputs")]
