"""poisson_pinn whose network gives functions, and whose answer is the combination of them that fits the equation best.

Each of k x k experts, which look at overlapping parts of the square, solves a least squares problem of its own, through
which the network is trained. After Chalapathi, Du, Krishnapriyan, "Scaling physics-informed hard constraints with
mixture-of-experts", ICLR 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from workloads.frontier.equations.jets import Jet, JetPerceptron, product
from workloads.frontier.equations.poisson import edge_factor, solution

FUNCTIONS = 32
_RIDGE = 1e-6
_GRID = 32


class Experts(nn.Module):
    """The sum over experts of their share of a place times functions times their coefficients.

    Coefficients are the ridge regression of f / K on -laplace / K of the functions, at the points of the batch in
    training mode and at the middles of _GRID x _GRID cells otherwise, weighed by the expert's share of each.
    Shapes: [batch, 2] -> a Jet of width 1.
    """

    def __init__(self, width: int, *, experts: int, peak: float) -> None:
        super().__init__()
        self.experts = experts
        self.peak = peak
        self.network = JetPerceptron([2, width, width, width, FUNCTIONS])
        axis = (2 * torch.arange(_GRID) + 1) / _GRID - 1
        self.cells: Tensor
        self.register_buffer("cells", torch.cartesian_prod(axis, axis), persistent=False)

    def forward(self, points: Tensor) -> Jet:
        """u at each point."""
        functions, shares = self._functions(points), partition(points, self.experts)
        if self.training:
            coefficients = self._coefficients(points, functions, shares)
        else:
            fixed = self._functions(self.cells), partition(self.cells, self.experts)
            coefficients = self._coefficients(self.cells, *fixed)
        local = Jet(*(part @ coefficients for part in functions))
        return Jet(*(part.sum(dim=-1, keepdim=True) for part in product(local, shares)))

    def _functions(self, points: Tensor) -> Jet:
        return product(edge_factor(points), self.network(points))

    def _coefficients(self, points: Tensor, functions: Jet, shares: Jet) -> Tensor:
        """Of each function for each expert. Shape: [FUNCTIONS, experts^2]."""
        rows = -functions.laplacian.double() / self.peak
        wanted = -solution(points.double(), peak=self.peak).laplacian / self.peak
        weighed = shares.value.double().T[:, :, None] * rows
        ridge = _RIDGE * len(points) * torch.eye(FUNCTIONS, dtype=rows.dtype, device=rows.device)
        found: Tensor = torch.linalg.solve(weighed.mT @ rows + ridge, weighed.mT @ wanted)
        return found.squeeze(2).T.to(points.dtype)


def partition(points: Tensor, experts: int) -> Jet:
    """Shares of a place, which sum to 1: squared cosines around the centres of experts x experts parts of the square.

    Beyond the outermost centres a share stays what it is there. Shapes: [batch, 2] -> a Jet of width experts^2.
    """
    centres = (2 * torch.arange(experts, dtype=points.dtype, device=points.device) + 1) / experts - 1
    held = points.clamp(centres[0], centres[-1])
    reach = experts * (held[:, :, None] - centres)
    phase = math.pi / 4 * reach
    # Beyond its neighbours' centres an expert has no share; at a centre second derivatives jump, and one of the two
    # neighbours counts, so that they sum to 0 there, too.
    reaches = (reach >= -2.0) & (reach < 2.0)
    # Shares do not change beyond the outermost centres.
    is_between = (centres[0] < points) & (points < centres[-1])
    moves = (reaches & is_between[:, :, None]).to(points.dtype)
    speed = math.pi / 4 * experts
    value = phase.cos().square() * reaches
    slope = -speed * (2 * phase).sin() * moves
    bend = -2 * speed**2 * (2 * phase).cos() * moves
    one, two = ((value[:, k], slope[:, k], bend[:, k]) for k in (0, 1))

    def crossed(first: Tensor, second: Tensor) -> Tensor:
        return (first[:, :, None] * second[:, None, :]).flatten(1)

    return Jet(
        crossed(one[0], two[0]),
        torch.stack([crossed(one[1], two[0]), crossed(one[0], two[1])]),
        crossed(one[2], two[0]) + crossed(one[0], two[2]),
    )
