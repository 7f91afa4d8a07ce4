"""Diffusion on 512 points: a network takes noise of all strengths off them, and the best denoiser is a sum over points.

Preconditioning and weights of Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative
models", NeurIPS 2022, whose network gives a velocity; what else a network may give after Lai, Song, Kim, Mitsufuji,
Ermon, "The principles of diffusion models", arXiv 2510.21890; augmented dimensions of Xu et al., "PFGM++: unlocking the
potential of physics-inspired generative models", ICML 2023.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    ConfigError,
    DataSource,
    Examples,
    KnownDenoiser,
    LossKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
    Workload,
)
from workloads.frontier.made import as_float32, orthogonal, rounded

Parametrisation = Literal["velocity", "noise", "data"]

ATOMS = 512
DIMENSIONS = 8
DEVIATION = 0.5
"""Of the points, root mean square over the coordinates."""
LOG_LEVEL_MEAN, LOG_LEVEL_DEVIATION = -1.2, 1.2
_ARMS = 5
_SEED_OF_DATA = 2022
_HELD_OUT = 4_000
_SAMPLED = 256
_FREQUENCIES = 8


class PointsDiffusion(Workload):
    """w (D(x) - y)^2 for x = y + sigma n: y one of 512 points, ln sigma ~ N(-1.2, 1.2^2), w = 1 / s^2 + 1 / sigma^2.

    Metric `excess`, the mean of w (D - D*)^2, D* the mean of y given x and sigma. While the model is in training mode
    levels and noise are drawn anew; otherwise they are those that lie beside the points. `augmented_dimensions`: the
    noise is what such a number of further dimensions makes of it, instead of Gaussian (none): n sqrt(dimensions / c), c
    chi-squared with as many degrees of freedom. `parametrisation`: what the network gives, see Denoiser. Raises
    ConfigError for another.
    """

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Noise is drawn in every step. What is given out are errors, so that outputs of zero have no loss."""

    def __init__(
        self, *, augmented_dimensions: int | None, width: int, parametrisation: Parametrisation = "velocity"
    ) -> None:
        if parametrisation not in get_args(Parametrisation):
            raise ConfigError(
                f"parametrisation is {parametrisation!r}. Use one of {', '.join(get_args(Parametrisation))}."
            )
        self.augmented_dimensions = augmented_dimensions
        self.width = width
        self.parametrisation = parametrisation

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`targets`, points, with one `level` and one noisy view, `inputs`, of each; held out with `optimum`.

        The training split has each point once, held-out splits draw from all of them: they are all that there is.
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = ATOMS if split == "train" else _HELD_OUT
        chosen = numpy.arange(ATOMS) if split == "train" else stream.randint(ATOMS, size=count)
        points = self.points()[chosen]
        drawn = {
            "targets": as_float32(points),
            "log_levels": as_float32(rounded(stream.standard_normal(count))),
            "noise": as_float32(rounded(stream.standard_normal(points.shape))),
            # Between zero and one, without the ends.
            "quantiles": as_float32((stream.randint(1024, size=count) + 0.5) / 1024),
        }
        return Views(drawn, self._known(drawn, has_optimum=split != "train"))

    def points(self) -> numpy.ndarray:
        """All points that there are. Shape: float64 [512, size]."""
        return atoms()

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 8], [batch] -> [batch, 8]."""
        return Denoiser(self.width, parametrisation=self.parametrisation)

    def known_denoiser(self, model: nn.Module) -> KnownDenoiser:
        """The network, and the mean of the points, from two deviations of the level above its middle to two below."""
        stream = numpy.random.RandomState([_SEED_OF_DATA, len(SPLITS)])
        gaussian = torch.from_numpy(rounded(stream.standard_normal((_SAMPLED, self.points().shape[1]))))
        noise = self._stretched(gaussian, torch.from_numpy((stream.randint(1024, size=_SAMPLED) + 0.5) / 1024))
        largest, smallest = level_of(torch.tensor([2.0, -2.0], dtype=torch.float64)).tolist()
        return KnownDenoiser(
            learned=lambda noisy, levels: model(noisy.float(), levels.float()).double(),
            best=self._best_denoised,
            noise=noise,
            levels=(largest, smallest),
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Errors sqrt(w) (D - y) of the network on noisy points. Shape: [batch, 8]."""
        clean, levels, noisy = batch["targets"], batch["levels"], batch["inputs"]
        if model.training:
            levels = level_of(torch.randn_like(levels))
            noisy = clean + levels[:, None] * self._noise(torch.randn_like(clean))
        errors: Tensor = (model(noisy, levels) - clean) * root_weight(levels)[:, None]
        return errors

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Squares of the errors. Shape: [batch, 8]."""
        return outputs.square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess`: mean over the coordinates of w (D - D*)^2, of examples with their own noise. Shape: [batch]."""
        root = root_weight(batch["levels"])[:, None]
        return {"excess": (outputs + root * (batch["targets"] - batch["optimum"])).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`: mean over all examples."""
        return {"excess": statistics["excess"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Another of the rotations: coordinates in any order, each of either sign."""
        fields = {"targets": 1, "inputs": 1, "optimum": 1}
        return [Reordered(fields), Signed(dict[str, int | None](fields))]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"width": self.width + self.width // 32}

    def _noise(self, gaussian: Tensor) -> Tensor:
        """Noise of level 1, from Gaussian noise and, with augmented dimensions, torch's own stream."""
        if self.augmented_dimensions is None:
            return gaussian
        degrees = torch.full((len(gaussian), 1), float(self.augmented_dimensions), device=gaussian.device)
        return gaussian * (degrees / torch.distributions.Chi2(degrees).sample()).sqrt()

    def _stretched(self, gaussian: Tensor, quantiles: Tensor) -> Tensor:
        """The same from quantiles of the lengths. Shapes: float64 [n, size], [n] -> [n, size]."""
        from scipy.stats import chi2

        if self.augmented_dimensions is None:
            return gaussian
        lengths = torch.from_numpy(chi2.ppf(quantiles.numpy(), self.augmented_dimensions))
        return gaussian * (self.augmented_dimensions / lengths).sqrt()[:, None]

    def _best_denoised(self, noisy: Tensor, levels: Tensor) -> Tensor:
        points = torch.from_numpy(self.points())
        return best_denoised(noisy, levels, augmented_dimensions=self.augmented_dimensions, points=points)

    def _known(self, drawn: dict[str, Tensor], *, has_optimum: bool) -> dict[str, Tensor]:
        """`levels` and `inputs` of the numbers that were drawn, and `optimum`."""
        levels = level_of(drawn["log_levels"].double())
        noise = self._stretched(drawn["noise"].double(), drawn["quantiles"])
        # What is judged is what the network is given: in float32.
        noisy, levels = (drawn["targets"].double() + levels[:, None] * noise).float(), levels.float()
        known = {"inputs": noisy, "levels": levels}
        if has_optimum:
            known["optimum"] = self._best_denoised(noisy.double(), levels.double()).float()
        return known


class Views(TensorExamples):
    """Points, and what is known of one noisy view of each; the numbers behind that count for the content hash alone."""

    def __init__(self, drawn: dict[str, Tensor], known: dict[str, Tensor]) -> None:
        super().__init__(drawn)
        self._given = {"targets": drawn["targets"], **known}

    def gather(self, index: Tensor) -> Batch:
        """`targets` and `inputs` float32 [batch, 8], `levels` float32 [batch], held out also `optimum` [batch, 8]."""
        return {name: values.index_select(0, index) for name, values in self._given.items()}

    def to(self, device: torch.device) -> Views:
        """The same points on another device."""
        drawn, known = (
            {name: values.to(device) for name, values in each.items()} for each in (self.tensors(), self._given)
        )
        return Views(drawn, known)


class Denoiser(nn.Module):
    """c_skip x + c_out F(c_in x, ln sigma / 4): F is a network of three hidden layers that sees waves of the level.

    Factors are such that what F is given, and what it should give, has variance 1 at any level. Up to signs that is the
    noise n (`noise`), the point in units of its deviation (`data`), or the `velocity` of the way from one to the other
    along a circle. `size`: of a point. Shapes: [batch, size], [batch] -> [batch, size].
    """

    def __init__(self, width: int, *, parametrisation: Parametrisation = "velocity", size: int = DIMENSIONS) -> None:
        super().__init__()
        self.parametrisation = parametrisation
        self.layers = nn.Sequential(
            nn.Linear(size + 2 * _FREQUENCIES, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, size),
        )
        self.frequencies: Tensor
        self.register_buffer("frequencies", 1.0 + torch.arange(_FREQUENCIES), persistent=False)

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """The clean points."""
        total = levels.square() + DEVIATION**2
        angles = levels.log()[:, None] / 4 * self.frequencies
        seen = torch.cat([noisy / total.sqrt()[:, None], angles.sin(), angles.cos()], dim=1)
        if self.parametrisation == "velocity":
            skip, out = DEVIATION**2 / total, levels * DEVIATION / total.sqrt()
        elif self.parametrisation == "noise":
            skip, out = torch.ones_like(levels), -levels
        else:
            skip, out = torch.zeros_like(levels), torch.full_like(levels, DEVIATION)
        clean: Tensor = skip[:, None] * noisy + out[:, None] * self.layers(seen)
        return clean


def atoms() -> numpy.ndarray:
    """All points: a pinwheel of five arms in a plane, turned into eight dimensions. Shape: float64 [512, 8]."""
    plane, axes = pinwheel()
    points: numpy.ndarray = plane @ axes.T
    return points


def pinwheel() -> tuple[numpy.ndarray, numpy.ndarray]:
    """The points within their plane, and its two axes. Shapes: float64 [512, 2], [8, 2]."""
    stream = numpy.random.RandomState(_SEED_OF_DATA)
    along, across = 1 + 0.3 * stream.standard_normal(ATOMS), 0.1 * stream.standard_normal(ATOMS)
    angles = 2 * math.pi / _ARMS * (numpy.arange(ATOMS) % _ARMS) + 0.25 * numpy.exp(along)
    cosine, sine = numpy.cos(angles), numpy.sin(angles)
    plane = numpy.stack([cosine * along - sine * across, sine * along + cosine * across], axis=1)
    plane = plane - plane.mean(axis=0)
    # The eight coordinates have so much variance together.
    plane = rounded(plane * (DIMENSIONS * DEVIATION**2 / (plane**2).sum(axis=1).mean()) ** 0.5)
    return plane, orthogonal(DIMENSIONS, stream)[:, :2]


def level_of(standard: Tensor) -> Tensor:
    """Noise levels from standard Gaussian numbers."""
    return (LOG_LEVEL_MEAN + LOG_LEVEL_DEVIATION * standard).exp()


def root_weight(levels: Tensor) -> Tensor:
    """sqrt(w): one over the deviation of what F should give, in units of what the network gives."""
    return (levels.square() + DEVIATION**2).sqrt() / (levels * DEVIATION)


def best_denoised(
    noisy: Tensor, levels: Tensor, *, augmented_dimensions: int | None, points: Tensor | None = None
) -> Tensor:
    """The mean of the points given where they are with their noise. Shapes: float64 [n, size], [n] -> [n, size].

    `points`: all that there are, [m, size]; None: those of the pinwheel. With D further dimensions the density of x
    around y is that of Student's t with D degrees of freedom, proportional to
    (|x - y|^2 + sigma^2 D)^-((size + D) / 2); without, it is the Gaussian one.
    """
    points = (torch.from_numpy(atoms()) if points is None else points).to(noisy.device)
    # Differences one by one: sums of products would lose what is left of them at low levels.
    squares = torch.cdist(noisy, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    variances = levels.square()[:, None]
    if augmented_dimensions is None:
        logs = -squares / (2 * variances)
    else:
        logs = -(points.shape[1] + augmented_dimensions) / 2 * (squares + variances * augmented_dimensions).log()
    return torch.softmax(logs, dim=1) @ points
