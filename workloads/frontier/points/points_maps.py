"""points_diffusion whose points are maps between functions on a sphere: half of one is to be told from the other half.

After Pierson, Li, Dai, Ovsjanikov, "DiffuMatch: category-agnostic spectral diffusion priors for robust non-rigid shape
matching", ICCV 2025, arXiv 2507.23715, in little: maps are rotations', and nothing is matched.
"""

from __future__ import annotations

import math

import numpy
import torch
from torch import Tensor, nn

from harness.api import Examples, Signed, Symmetry
from workloads.frontier.made import rotations, rounded
from workloads.frontier.points.points_diffusion import ATOMS, Denoiser, PointsDiffusion, level_of

SIDE = 8
"""Functions: the three harmonics of degree one on a sphere, and the five of degree two."""
SHOWN_ROWS = 4
"""Of a map that is to be completed: what it says of the first functions."""
_SEED_OF_ROTATIONS = 2507
_COMPLETED = 128
_LEVELS, _COPIES = 16, 4


class MapsDiffusion(PointsDiffusion):
    """As PointsDiffusion, of 512 maps, 8x8, of functions that are turned with a sphere.

    Beside `excess`, `completion_error`: the squared error of the hidden half of 128 maps, over its square, when it is
    distilled from the network while the other half stays as it should be (see `completed`). 0 is exact, zeros have 1.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__(augmented_dimensions=None, width=width)

    def points(self) -> numpy.ndarray:
        """All maps, row after row. Shape: float64 [512, 64]."""
        return maps()

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 64], [batch] -> [batch, 64]."""
        return Denoiser(self.width, size=SIDE * SIDE)

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`completion_error`, of the first maps of the split, from their stored noise."""
        batch = examples.gather(torch.arange(min(_COMPLETED, len(examples)), device=examples.device))
        noise = (batch["inputs"] - batch["targets"]) / batch["levels"][:, None]
        found = completed(model, batch["targets"], noise)
        wrong, hidden = (found - batch["targets"])[:, _hidden()], batch["targets"][:, _hidden()]
        return {"completion_error": (wrong.double().square().sum() / hidden.double().square().sum()).item()}

    def symmetries(self) -> list[Symmetry]:
        """Numbers of either sign. In another order, other rows would be hidden."""
        return [Signed({"targets": 1, "inputs": 1, "optimum": 1})]


def maps() -> numpy.ndarray:
    """Maps of 512 rotations of the sphere, of root mean square 1/2. Shape: float64 [512, 64]."""
    turned = rotations(numpy.random.RandomState(_SEED_OF_ROTATIONS).standard_normal((ATOMS, 3, 3)))
    turned = turned * numpy.sign(numpy.linalg.det(turned))[:, None, None]
    found = numpy.zeros((ATOMS, SIDE, SIDE))
    found[:, :3, :3] = turned
    forms = quadratic_forms()
    found[:, 3:, 3:] = numpy.einsum("iab,nac,jcd,nbd->nij", forms, turned, forms, turned, optimize=True)
    # Eight of the 64 squares of an orthogonal matrix are one together.
    return rounded(found.reshape(ATOMS, SIDE * SIDE) * math.sqrt(2.0))


def quadratic_forms() -> numpy.ndarray:
    """Symmetric matrices without a trace, orthonormal: the harmonics of degree two. Shape: float64 [5, 3, 3]."""
    forms = numpy.zeros((5, 3, 3))
    for number, (one, other) in enumerate([(0, 1), (0, 2), (1, 2)]):
        forms[number, one, other] = forms[number, other, one] = math.sqrt(0.5)
    forms[3] = numpy.diag([1.0, -1.0, 0.0]) / math.sqrt(2.0)
    forms[4] = numpy.diag([1.0, 1.0, -2.0]) / math.sqrt(6.0)
    return forms


def completed(model: nn.Module, targets: Tensor, noise: Tensor) -> Tensor:
    """Maps whose first rows are those of `targets`, and the rest what the model distils from zeros.

    Along sixteen levels, falling, the rest becomes the mean of what is denoised of four noisy copies of the map. The
    noise is that of the maps, each next one's in turn. Shapes: [n, 64] each -> [n, 64].
    """
    largest, smallest = level_of(torch.tensor([1.0, -2.0], dtype=torch.float64)).tolist()
    shown = torch.where(_hidden(), 0.0, 1.0).to(targets)
    found = shown * targets
    for number in range(_LEVELS):
        level = largest * (smallest / largest) ** (number / (_LEVELS - 1))
        copies = [found + level * noise.roll(_COPIES * number + copy, dims=0) for copy in range(_COPIES)]
        many = torch.cat(copies)
        clean = model(many, many.new_full((len(many),), level)).view(_COPIES, *targets.shape).mean(dim=0)
        found = torch.lerp(clean, targets, shown.expand_as(targets))
    return found


def _hidden() -> Tensor:
    """Which of the 64 numbers are to be completed. Shape: bool [64]."""
    return torch.arange(SIDE * SIDE) >= SHOWN_ROWS * SIDE
