"""The three lowest states of an electron around a proton, found as the functions that leave the least energy.

-u''/2 - u / r = E u with u(0) = 0, whose energies are -1 / (2 n^2). Functions have a factor with the known behaviour at
both ends, as in Certik et al., "High-order finite element method for atomic structure calculations", Computer Physics
Communications 297 (2024).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, LossKind, SplitName, Workload
from workloads.frontier.equations.jets import JetPerceptron
from workloads.frontier.made import KnownExamples, as_float32

STATES = 3
EXACT_ENERGY = -(1 + 1 / 4 + 1 / 9) / 2
RADIUS = 30.0
"""Where functions end."""
_DECAY = 6.0
_NODES: dict[SplitName, int] = {"train": 96, "validation": 500, "test": 600}


class HydrogenRadial(Workload):
    """The sum of the energies that the span of three functions allows, tr(S^-1 H); metric `excess_energy` over it.

    Integrals are sums over Gauss-Legendre nodes in t, r = RADIUS t^2, and a batch is the whole split: fewer nodes are
    another problem. What outputs allow is never below the true energy, but for the error of these sums (Ritz). `width`
    of the network.
    """

    loss_kind: ClassVar[LossKind] = LossKind.ENERGY
    couples_examples: ClassVar[bool] = True
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Functions that are zero everywhere have no energy."""

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, the nodes t, float32 [n, 1], with their `targets`, weights in r; counted by `nodes`, int64 [n]."""
        count = _NODES[split]
        ends, weights = numpy.polynomial.legendre.leggauss(count)
        nodes = as_float32((1 + ends) / 2)
        # dr = 2 RADIUS t dt
        lengths = as_float32(weights / 2 * RADIUS * (1 + ends))
        return KnownExamples({"nodes": torch.arange(count)}, {"inputs": nodes[:, None], "targets": lengths})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1] -> twice [batch, STATES]."""
        return RadialFunctions(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The functions, and their derivatives in r. Shape: [batch, 2, STATES]."""
        return torch.stack(model(batch["inputs"]), dim=1)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """The share of each node in the energy, whose mean over the batch is the whole. Shape: [batch]."""
        shares, overlaps = _at_nodes(outputs, batch["inputs"], batch["targets"])
        inverse = _inverse(overlaps.sum(dim=0))
        return len(outputs) * (inverse * shares).sum(dim=(1, 2)).to(outputs.dtype), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Shares of `energies` and `overlaps`. Shapes: float64 [batch, STATES, STATES]."""
        energies, overlaps = _at_nodes(outputs, batch["inputs"], batch["targets"])
        return {"energies": energies, "overlaps": overlaps}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`loss`, the energy, and `excess_energy` over that of the three lowest states."""
        energies, overlaps = (statistics[name].sum(dim=0) for name in ("energies", "overlaps"))
        energy = (_inverse(overlaps) * energies).sum().item()
        return {"loss": energy, "excess_energy": energy - EXACT_ENERGY}

    def resized(self) -> dict[str, Any]:
        """Layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


class RadialFunctions(nn.Module):
    """r exp(-r / 6) (1 - t^4) times each output of a network of two hidden layers, which sees 4 (t - 1/2).

    Shapes: [batch, 1] -> functions and their derivatives in r, [batch, STATES] each.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Three odd functions are nearly of one span: with biases of zero the gradient's norm began at hundreds, and one
        # unit in the last place of the weights moved the energy by a thousandth.
        self.network = JetPerceptron([1, width, width, STATES], bias=1.0)

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Functions that are zero at both ends."""
        jet = self.network(4 * (nodes - 0.5))
        radii = RADIUS * nodes.square()
        ends, falls = 1 - nodes**4, (-radii / _DECAY).exp()
        factor = radii * falls * ends
        # dt / dr = 1 / (2 RADIUS t), so that no quotient is left where r is zero.
        slope = falls * ((1 - radii / _DECAY) * ends - 2 * nodes**4)
        along = 4 * (nodes / 2) * falls * ends
        return factor * jet.value, slope * jet.value + along * jet.gradient[0]


def _at_nodes(outputs: Tensor, nodes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What each node adds to H and to S: of |u'|^2 / 2 - |u|^2 / r, and of |u|^2. In float64."""
    values, slopes = outputs.double().unbind(dim=1)
    radii = RADIUS * nodes.double().square()
    weights = lengths.double()[:, None, None]
    squares = values[:, :, None] * values[:, None, :]
    kinetic = slopes[:, :, None] * slopes[:, None, :] / 2
    return weights * (kinetic - squares / radii[:, :, None]), weights * squares


def _inverse(overlaps: Tensor) -> Tensor:
    # Functions that depend on each other have no inverse: the loss is then no number, which ends a trial as diverged.
    lower = torch.linalg.cholesky_ex(overlaps).L
    root: Tensor = torch.linalg.solve_triangular(lower, torch.eye(STATES).to(lower), upper=False)
    return root.T @ root
