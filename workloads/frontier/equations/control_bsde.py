"""A control problem in ten dimensions, solved along random paths: the value today and its gradient on the way.

Hamilton-Jacobi-Bellman's equation as a backward stochastic differential equation: Han, Jentzen, E, "Solving
high-dimensional partial differential equations using deep learning", PNAS 115 (2018).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    Workload,
)
from workloads.frontier.equations.brownian import drawn_increments, increments_of
from workloads.frontier.made import KnownExamples

DIMENSIONS = 10
STEPS = 20
_SEED_OF_DATA = 2018
_SIZES: dict[SplitName, int] = {"train": 32_768, "validation": 1_024, "test": 1_024}
_NODES = 64


class ControlBsde(Workload):
    """(Y - g(X))^2 at time 1, where Y follows from y(0) and a network's gradients along a path X of Brownian motion.

    u_t + laplace(u) - |grad u|^2 = 0 with u = g = ln((1 + |x|^2) / 2) at time 1; X = sqrt(2) W from 0 in STEPS steps,
    and dY = |Z|^2 dt + sqrt(2) Z dW, Z for grad u. Metric `gradient_error`: relative L2 of Z against the exact gradient
    at all times of all paths. `width` of the network.
    """

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Paths; those for validation and test with the exact gradient of u along them."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        drawn = drawn_increments(stream, paths=_SIZES[split], steps=STEPS, dimensions=DIMENSIONS)
        paths = Paths({"increments": drawn}, {})
        if split == "train":
            return paths
        along = places(paths.gather(torch.arange(len(paths)))["inputs"]).unbind(dim=1)
        exact = torch.stack([exact_gradient(k / STEPS, each) for k, each in enumerate(along)], dim=1)
        return Paths(paths.tensors(), {"gradient": exact.float()})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, STEPS, DIMENSIONS] -> [batch], [batch, STEPS, DIMENSIONS]."""
        return Backward(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Y at time 1, and Z at the beginning of each step. Shape: [batch, 1 + STEPS * DIMENSIONS]."""
        ends, gradients = model(batch["inputs"])
        return torch.cat([ends[:, None], gradients.flatten(1)], dim=1)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squared error of Y at the end of each path. Shape: [batch]."""
        return (outputs[:, 0] - batch["targets"]).square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`error` of Z and `power` of the exact gradient, squared and summed along each path. Shapes: [batch]."""
        exact = batch["gradient"].flatten(1)
        return {"error": (outputs[:, 1:] - exact).square().sum(dim=1), "power": exact.square().sum(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`gradient_error`: norm of the error over all paths and times over that of the gradient; 1 for Z = 0."""
        error, power = (statistics[name].double().sum() for name in ("error", "power"))
        return {"gradient_error": (error / power).sqrt().item()}

    def symmetries(self) -> list[Symmetry]:
        """Dimensions in any order, each of either sign."""
        return [Reordered({"inputs": 2, "gradient": 2}), Signed({"inputs": 2, "gradient": 2})]

    def resized(self) -> dict[str, Any]:
        """Layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


class Paths(KnownExamples):
    """Increments of Brownian motion as whole multiples of 1/1024, int16 [n, STEPS, DIMENSIONS]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, increments, float32 [batch, STEPS, DIMENSIONS], `targets`, g where they end, [batch], and the rest.

        Held out that is `gradient`, of u at the beginning of each step, float32 [batch, STEPS, DIMENSIONS].
        """
        batch = super().gather(index)
        increments = increments_of(batch.pop("increments"))
        squares = 2 * increments.sum(dim=1).square().sum(dim=1)
        return {"inputs": increments, "targets": ((1 + squares) / 2).log(), **batch}


class Backward(nn.Module):
    """A number y(0), and a network of two hidden layers with SiLU for Z at a place and a time.

    Shapes: increments [batch, STEPS, DIMENSIONS] -> Y at the end, [batch], and Z, [batch, STEPS, DIMENSIONS].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # g at the root mean square of |X| at the end. From 0 it takes most of a training to come up, and Z goes astray.
        self.start = nn.Parameter(torch.tensor([math.log((1 + 2 * DIMENSIONS) / 2)]))
        self.network = nn.Sequential(
            nn.Linear(DIMENSIONS + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, DIMENSIONS),
        )

    def forward(self, increments: Tensor) -> tuple[Tensor, Tensor]:
        """Y and Z along the paths."""
        times = torch.arange(STEPS, dtype=increments.dtype, device=increments.device) / STEPS
        seen = torch.cat([places(increments), times[:, None].expand(len(increments), STEPS, 1)], dim=2)
        gradients = self.network(seen)
        gains = (gradients.square() / STEPS + math.sqrt(2) * gradients * increments).sum(dim=(1, 2))
        return self.start + gains, gradients


def places(increments: Tensor) -> Tensor:
    """X at the beginning of each step. Shapes: [batch, STEPS, DIMENSIONS] -> the same."""
    ends = math.sqrt(2) * increments.cumsum(dim=1)
    return torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=1)


def exact_value(time: float, places: Tensor) -> Tensor:
    """u = -ln E[exp(-g(x + sqrt(2) W))], W of variance 1 - time. Shapes: [n, DIMENSIONS] -> float64 [n].

    Cole and Hopf's transform. 2 / (1 + r) is the integral of 2 exp(-z (1 + r)) over z > 0, and the mean of exp(-z r)
    for r = |x + sqrt(2) W|^2 is that of a noncentral chi-square number: what is left is one integral.
    """
    weights, _ = _mixture(time, places)
    return -(2 * weights.sum(dim=1)).log()


def exact_gradient(time: float, places: Tensor) -> Tensor:
    """The gradient of u at each place. Shapes: [n, DIMENSIONS] -> float64 [n, DIMENSIONS]."""
    weights, rates = _mixture(time, places)
    return 2 * ((weights * rates).sum(dim=1) / weights.sum(dim=1))[:, None] * places.double()


def _mixture(time: float, places: Tensor) -> tuple[Tensor, Tensor]:
    """E[1 / (1 + |x + sqrt(2) W|^2)] as a sum of c_i exp(-b_i |x|^2): terms, and b_i. Shapes: [n, NODES] twice."""
    left = 1 - time
    squares = places.double().square().sum(dim=1, keepdim=True)
    ends, weights = (torch.from_numpy(each).to(places.device) for each in numpy.polynomial.legendre.leggauss(_NODES))
    along = (1 + ends) / 2
    # From (0, 1) to z > 0, with half of the nodes below the scale on which the integrand falls.
    scale = 1 / (1 + 2 * DIMENSIONS * left + squares)
    z = scale * along / (1 - along)
    stretched = weights / 2 * scale / (1 - along).square()
    spread = 1 + 4 * left * z
    rates = z / spread
    return stretched * (-z - rates * squares).exp() * spread ** (-DIMENSIONS / 2), rates
