"""Poisson's equation on a square, solved by a network that is trained to leave no residual: a solution with two peaks.

A physics-informed network: Raissi, Perdikaris, Karniadakis, "Physics-informed neural networks", Journal of
Computational Physics 378 (2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    ConfigError,
    DataSource,
    Examples,
    LossKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    Workload,
)
from workloads.frontier.equations.jets import Jet, JetPerceptron, product
from workloads.frontier.equations.poisson import edge_factor, points_of, solution
from workloads.frontier.equations.poisson_experts import Experts
from workloads.frontier.made import KnownExamples


class PoissonPinn(Workload):
    """((laplace(u) + f) / K)^2 at points of the square, K = `peak`; metric `relative_l2` of u. `width` of the network.

    See workloads/frontier/equations/poisson.py for the equation. u is (1 - x^2)(1 - y^2) times what the network gives;
    with `experts`, so many squared, it is a combination of what it gives that fits the equation. Raises ConfigError
    where there is no expert.
    """

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR

    def __init__(self, *, peak: float, width: int, experts: int | None) -> None:
        if experts is not None and experts < 1:
            raise ConfigError(f"experts is {experts}. Use at least 1 along each axis, or null for none.")
        self.experts = experts
        self.peak = peak
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, points, float32 [n, 2], and `targets`, f / K there, [n]; held out also the `solution`, u, [n]."""
        points = points_of(split)
        exact = solution(points.double(), peak=self.peak)
        known = {"targets": (-exact.laplacian / self.peak).squeeze(1).float()}
        if split != "train":
            known["solution"] = exact.value.squeeze(1).float()
        return KnownExamples({"inputs": points}, known)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 2] -> a Jet of width 1."""
        if self.experts is None:
            return ZeroOnTheEdge(self.width)
        return Experts(self.width, experts=self.experts, peak=self.peak)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """-laplace(u) / K, and u. Shape: [batch, 2]."""
        jet: Jet = model(batch["inputs"])
        return torch.cat([-jet.laplacian / self.peak, jet.value], dim=1)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squared residual of each point. Shape: [batch]."""
        return (outputs[:, 0] - batch["targets"]).square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`error`, squared, and `power`, of the solution squared. Shapes: [batch]."""
        return {"error": (outputs[:, 1] - batch["solution"]).square(), "power": batch["solution"].square()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`relative_l2`: norm of the error over all points over that of u; 1 for u = 0."""
        error, power = (statistics[name].double().sum() for name in ("error", "power"))
        return {"relative_l2": (error / power).sqrt().item()}

    def symmetries(self) -> list[Symmetry]:
        """Axes in the other order, each in either direction; f and u of the other sign. None where experts know f."""
        if self.experts is not None:
            return []
        return [Reordered({"inputs": 1}), Signed({"inputs": 1}), Signed({"targets": None, "solution": None})]

    def resized(self) -> dict[str, Any]:
        """Layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


class ZeroOnTheEdge(nn.Module):
    """(1 - x^2)(1 - y^2) times a network of three hidden layers. Shapes: [batch, 2] -> a Jet of width 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = JetPerceptron([2, width, width, width, 1])

    def forward(self, points: Tensor) -> Jet:
        """u at each point."""
        return product(edge_factor(points), self.network(points))
