"""poisson_pinn without a factor that is zero on the edge: what u should be there is a second term of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, Examples, LossKind, Reordered, SeveralTerms, Signed, SplitName, Symmetry
from workloads.frontier.equations.jets import Jet, JetPerceptron
from workloads.frontier.equations.poisson import edge_points
from workloads.frontier.equations.poisson_pinn import PoissonPinn
from workloads.frontier.made import KnownExamples


class SoftEdgePoisson(SeveralTerms, PoissonPinn):
    """The terms `residual`, ((laplace(u) + f) / K)^2 inside, and `boundary`, u^2 on the edge; `relative_l2` of u."""

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"residual": 1.0, "boundary": 1.0}

    def __init__(self, *, peak: float, width: int) -> None:
        super().__init__(peak=peak, width=width, experts=None)

    def load(self, split: SplitName, folder: Path) -> Examples:
        """As of poisson_pinn, and `edges`, a point on the edge for each inside, float32 [n, 2]."""
        inside = super().load(split, folder)
        known = inside.gather(torch.arange(len(inside)))
        drawn = {"inputs": known.pop("inputs"), "edges": edge_points(split, len(inside))}
        return KnownExamples(drawn, known)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 2] twice -> a Jet of width 1, and [batch, 1]."""
        return FreeOnTheEdge(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """-laplace(u) / K and u inside, and u on the edge. Shape: [batch, 3]."""
        jet, on_the_edge = model(batch["inputs"], batch["edges"])
        return torch.cat([-jet.laplacian / self.peak, jet.value, on_the_edge], dim=1)

    def loss_terms(
        self,
        outputs: Tensor,
        batch: Batch,
        label_smoothing: float,  # noqa: ARG002
    ) -> Mapping[str, tuple[Tensor, None]]:
        """Squared residual of each point inside, and u squared of each on the edge. Shapes: [batch]."""
        return {
            "residual": ((outputs[:, 0] - batch["targets"]).square(), None),
            "boundary": (outputs[:, 2].square(), None),
        }

    def symmetries(self) -> list[Symmetry]:
        """As of poisson_pinn."""
        points = {"inputs": 1, "edges": 1}
        return [Reordered(points), Signed(dict(points)), Signed({"targets": None, "solution": None})]


class FreeOnTheEdge(nn.Module):
    """A network of three hidden layers, seen inside with its derivatives and on the edge without."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = JetPerceptron([2, width, width, width, 1])

    def forward(self, points: Tensor, edges: Tensor) -> tuple[Jet, Tensor]:
        """u inside and on the edge."""
        return self.network(points), self.network.value(edges)
