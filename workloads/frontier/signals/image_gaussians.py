"""A photograph as a sum of Gaussians in the plane, from a start that is spread over it or crowds at a few places.

After Kotovenko, Grebenkova, Ommer, "EDGS: eliminating densification for efficient convergence of 3DGS", arXiv
2504.13204, in two dimensions: nothing is hidden by anything, and no Gaussian is added on the way.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    ConfigError,
    DataSource,
    Examples,
    ParameterKind,
    SplitName,
    TensorExamples,
)
from workloads.data.scikit_learn_files import photograph_file, read_photograph
from workloads.losses.regression import Regression
from workloads.networks.stored_weights import read_weights

ROWS, COLUMNS = 64, 96
BLOCK = 6
STARTS = ("dense", "sparse")
GRID = (12, 18)
CROWD = 9
"""How many Gaussians begin at one place of the sparse start."""
START = Path(__file__).parents[2] / "weights" / "image_gaussians.npz"
"""The colours of the training pixels, which a start begins with: where training runs, no photograph is seen."""
_PHOTOGRAPH = "china.jpg"  # by Yann Forget
_SEED_OF_SPLIT = 2504
_SIZES: dict[SplitName, int] = {"train": 4_096, "validation": 1_024, "test": 1_024}
_LEVELS = 255 * BLOCK**2


class ImageGaussians(Regression):
    """Squared error of colours of a photograph's pixels, two thirds of which train; metric `rmse`.

    Beside it `psnr` in decibels. Colours are between 0 and 1. `start`: `dense` has a Gaussian with the colour of its
    place on a grid over all of the picture; `sparse` has nine at each of 24 places. Raises ConfigError for another.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """The parameters are those of Gaussians."""

    def __init__(self, *, start: str) -> None:
        if start not in STARTS:
            raise ConfigError(f"start is {start!r}. Use one of {', '.join(STARTS)}.")
        self.start = start

    def sources(self) -> list[DataSource]:
        """None: the photograph arrives with scikit-learn."""
        return []

    def packaged_data(self) -> list[Path]:
        """The photograph in scikit-learn, which has the pixels of all three splits."""
        return [photograph_file(_PHOTOGRAPH)]

    def weights(self) -> Path:
        """The colours of the training pixels: `python -m benchmarks.start_colours` wrote them."""
        return START

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - the photograph arrives with scikit-learn
        """`inputs` float32 [n, 2], place as row and column in units of the picture's height, `targets` [n, 3]."""
        return _pixels(photograph(), split)

    def build_model(self) -> nn.Module:
        """New Gaussians, with colours of training pixels near their places. Shapes: [batch, 2] -> [batch, 3].

        Raises DataError where these colours cannot be read.
        """
        return Gaussians(read_weights(START)["colours"], start=self.start)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over the colours of each pixel. Shape: [batch]."""
        return {"squares": (outputs - batch["targets"]).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`rmse` and `psnr`."""
        mean = statistics["squares"].double().mean().item()
        return {"rmse": mean**0.5, "psnr": -10 * math.log10(max(mean, 1e-30))}


class Pixels(TensorExamples):
    """Pixels held as whole numbers: `rows`, `columns`, and `sums` of the levels of each colour over a block."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, 2] and `targets` float32 [batch, 3]."""
        held = super().gather(index)
        return {"inputs": _in_heights(held["rows"], held["columns"]), "targets": held["sums"] / _LEVELS}


class Gaussians(nn.Module):
    """Sum of colour times exp(-|S R (p - m)|^2 / 2): middle m, rotation R, and S one over the two deviations.

    `given`: the colours of all training pixels. Shapes: [batch, 2] -> [batch, 3].
    """

    parameter_kinds: ClassVar = dict.fromkeys(("middles", "log_deviations", "angles", "colours"), ParameterKind.WEIGHT)

    def __init__(self, given: Tensor, *, start: str) -> None:
        super().__init__()
        rows, columns = GRID
        spacing = 1 / rows
        deviation = spacing / 2
        if start == "dense":
            grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
            middles = (grid + 0.5) * spacing
            overlapping = 2 * math.pi * deviation**2 / spacing**2
        else:
            places = torch.rand(rows * columns // CROWD, 2) * torch.tensor([1.0, COLUMNS / ROWS])
            middles = places.repeat_interleave(CROWD, dim=0)
            overlapping = CROWD
        middles = middles + 0.25 * spacing * torch.randn(rows * columns, 2)
        nearest = torch.cdist(middles, _in_heights(*_places("train"))).argmin(dim=1)
        self.middles = nn.Parameter(middles)
        self.log_deviations = nn.Parameter(torch.full((rows * columns, 2), math.log(deviation)))
        self.angles = nn.Parameter(0.1 * torch.randn(rows * columns))
        # So many lie over each other that their sum has about the colour of the place.
        self.colours = nn.Parameter(given[nearest] / overlapping)

    def forward(self, places: Tensor) -> Tensor:
        """Colours at these places."""
        down, right = (places[:, None] - self.middles).unbind(dim=2)
        cosine, sine = self.angles.cos(), self.angles.sin()
        first, second = (-2 * self.log_deviations).exp().unbind(dim=1)
        # Entries of the matrix of the quadratic form: products for each place and Gaussian are what a step costs.
        of_down = -0.5 * (cosine**2 * first + sine**2 * second)
        of_right = -0.5 * (sine**2 * first + cosine**2 * second)
        of_both = cosine * sine * (first - second)
        heights = (down * (of_down * down + of_both * right) + of_right * right.square()).exp()
        return heights @ self.colours


def photograph() -> numpy.ndarray:
    """The middle of the photograph, as sums of levels over blocks of 6x6 pixels. Shape: int32 [64, 96, 3]."""
    levels = read_photograph(_PHOTOGRAPH).astype(numpy.int32)
    top, left = ((size - BLOCK * kept) // 2 for size, kept in zip(levels.shape, (ROWS, COLUMNS), strict=False))
    cut = levels[top : top + BLOCK * ROWS, left : left + BLOCK * COLUMNS]
    sums: numpy.ndarray = cut.reshape(ROWS, BLOCK, COLUMNS, BLOCK, 3).sum(axis=(1, 3))
    return sums


def _places(split: SplitName) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels of a split. Shapes: int64 [n] twice."""
    order = numpy.random.RandomState(_SEED_OF_SPLIT).permutation(ROWS * COLUMNS)
    begin = sum(_SIZES[each] for each in SPLITS[: SPLITS.index(split)])
    chosen = torch.from_numpy(order[begin : begin + _SIZES[split]])
    return chosen // COLUMNS, chosen % COLUMNS


def _in_heights(rows: Tensor, columns: Tensor) -> Tensor:
    """Places in units of the picture's height. Shapes: [n] twice -> float32 [n, 2]."""
    return (torch.stack([rows, columns], dim=1) + 0.5) / ROWS


def _pixels(sums: numpy.ndarray, split: SplitName) -> Pixels:
    rows, columns = _places(split)
    return Pixels({"rows": rows, "columns": columns, "sums": torch.from_numpy(sums)[rows, columns]})
