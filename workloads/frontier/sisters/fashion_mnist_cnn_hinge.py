"""The residual network on Fashion-MNIST under the squared hinge loss of a support vector machine for each class.

After Agarap, "An architecture combining convolutional neural network (CNN) and support vector machine (SVM) for image
classification", arXiv 1712.03541.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from harness.api import Batch, LossKind
from workloads.fashion_mnist_cnn import FashionMnistCnn


class FashionMnistCnnHinge(FashionMnistCnn):
    """Sum over the classes of relu(1 - t z)^2, t = 1 for the true class and -1 for the others; metric `error`.

    Label smoothing has no effect: there are no probabilities. Source of the squared form: Tang, arXiv 1306.0239.
    """

    loss_kind: ClassVar[LossKind] = LossKind.HINGE

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Loss of each example. Shapes: outputs float [batch, classes], `targets` int64 [batch] -> [batch]."""
        signs = 2.0 * F.one_hot(batch["targets"], self.classes) - 1.0
        return (1 - signs * outputs).relu().square().sum(dim=1), None
