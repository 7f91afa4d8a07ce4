"""poisson_pinn whose points are chosen by an adversary, who is trained in the same steps to find large residuals.

After Tang, Zhai, Wan, Yang, "Adversarial adaptive sampling: unify PINN and optimal transport for the approximation of
PDEs", ICLR 2024, with a histogram in the place of their flow and a penalty on its differences for their H1 norm.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.api import Batch, Symmetry
from workloads.frontier.equations.jets import Jet
from workloads.frontier.equations.poisson import solution
from workloads.frontier.equations.poisson_pinn import PoissonPinn, ZeroOnTheEdge

CELLS = 32
"""Along each axis."""
_ROUGHNESS_WEIGHT = 0.5


class AdversarialPoisson(PoissonPinn):
    """In training mode half of a batch's points are drawn from a learned density on 32 x 32 cells, half evenly.

    The gradient for the density is that of minus the mean squared residual under it, in units of itself, plus a penalty
    on its roughness; the value of the loss is the mean squared residual alone. Points of the batch count in evaluation.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Points are drawn in every step. What is given out are residuals, so that outputs of zero have no loss."""

    def __init__(self, *, peak: float, width: int) -> None:
        super().__init__(peak=peak, width=width, experts=None)

    def build_model(self) -> nn.Module:
        """A new network and an even density. Shapes: [batch, 2] -> Drawn."""
        return Players(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """-(laplace(u) + f) / K, u, and what has the gradient for the density and a value of 0. Shape: [batch, 3]."""
        drawn: Drawn = model(batch["inputs"])
        if drawn.shares is None:
            residual = -drawn.jet.laplacian.squeeze(1) / self.peak - batch["targets"]
            return torch.stack([residual, drawn.jet.value.squeeze(1), torch.zeros_like(residual)], dim=1)
        exact = solution(drawn.points, peak=self.peak)
        residual = ((exact.laplacian - drawn.jet.laplacian) / self.peak).squeeze(1)
        squares = residual.detach().square()
        # A residual of zero everywhere has no unit.
        gain = squares / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny) * drawn.shares.density_ratio
        play = _ROUGHNESS_WEIGHT * drawn.shares.roughness - gain
        return torch.stack([residual, drawn.jet.value.squeeze(1), play - play.detach()], dim=1)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squared residual of each point. Shape: [batch]."""
        return outputs[:, 0].square() + outputs[:, 2], None

    def symmetries(self) -> list[Symmetry]:
        """None: the points and the equation at them are not in the data."""
        return []


class Shares(NamedTuple):
    """`density_ratio` [batch], of value 1, has the gradient of the log density that points were drawn with.

    `roughness` []: mean squared difference of the density, relative to the even one, between neighbouring cells.
    """

    density_ratio: Tensor
    roughness: Tensor


class Drawn(NamedTuple):
    """u at `points` [batch, 2]: those that were given, without `shares`, or as many that were drawn."""

    points: Tensor
    jet: Jet
    shares: Shares | None


class Players(nn.Module):
    """A network that is zero on the edge, and the logits of a density on CELLS x CELLS cells, even at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.solver = ZeroOnTheEdge(width)
        self.logits = nn.Parameter(torch.zeros(CELLS**2))

    def forward(self, points: Tensor) -> Drawn:
        """u at points that are drawn in training mode, at those given otherwise."""
        if not self.training:
            return Drawn(points, self.solver(points), None)
        shares = self.logits.softmax(dim=0)
        # Of each cell, when half of the points are drawn evenly.
        mixed = shares / 2 + 1 / (2 * CELLS**2)
        cells = torch.cat(
            [
                torch.multinomial(shares.detach(), len(points) // 2, replacement=True),
                torch.randint(CELLS**2, (len(points) - len(points) // 2,), device=points.device),
            ]
        )
        corners = torch.stack([cells // CELLS, cells % CELLS], dim=1)
        drawn = 2 / CELLS * (corners + torch.rand_like(points)) - 1
        table = CELLS**2 * shares.view(CELLS, CELLS)
        roughness = (table.diff(dim=0).square().mean() + table.diff(dim=1).square().mean()) / 2
        return Drawn(drawn, self.solver(drawn), Shares(mixed[cells] / mixed[cells].detach(), roughness))
