"""A network that makes 512 points from noise in one step, taught by the exact denoiser which way its samples should go.

After Xu, Nie, Vahdat, "One-step diffusion models with f-divergence distribution matching" (f-distill), arXiv
2502.15681. Densities and scores of the student are those of its batch under noise; the paper trains networks for them.
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
    LossKind,
    SplitName,
    TensorExamples,
    Workload,
)
from workloads.frontier.made import as_float32, rounded
from workloads.frontier.points.points_diffusion import DIMENSIONS, atoms, level_of

Divergence = Literal["reverse", "forward", "jensen_shannon"]

_SEED_OF_DATA = 2502
_SIZES: dict[SplitName, int] = {"train": 8_192, "validation": 2_048, "test": 2_048}
_BLOCK = 512
_MOST = 1e3


class PointsOneStep(Workload):
    """Samples G(z) go where a divergence from the points falls, when both are seen under noise of one level.

    The way is h (D_p - D_q), of the denoisers of points and batch: h is 1 for the divergence `reverse` (Kullback,
    Leibler, mean over the samples), the ratio r of the points' density to the batch's for `forward`, r / (1 + r) for
    `jensen_shannon`, over its mean. Metric `energy_distance` of all samples to the points; 0 where they are alike.
    Raises ConfigError for another divergence.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    couples_examples: ClassVar[bool] = True
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """The loss is the length of a way, of which outputs of zero have none."""

    def __init__(self, *, divergence: Divergence, width: int) -> None:
        if divergence not in get_args(Divergence):
            raise ConfigError(f"divergence is {divergence!r}. Use one of {', '.join(get_args(Divergence))}.")
        self.divergence = divergence
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` and `noise` float32 [n, 8], `log_levels` [n]. Steps of training draw their own instead."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        shape = (_SIZES[split], DIMENSIONS)
        return TensorExamples(
            {
                "inputs": as_float32(rounded(stream.standard_normal(shape))),
                "noise": as_float32(rounded(stream.standard_normal(shape))),
                "log_levels": as_float32(rounded(stream.standard_normal(shape[0]))),
            }
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 8] -> [batch, 8]."""
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(DIMENSIONS if not layers else self.width, self.width), nn.SiLU()]
        return nn.Sequential(*layers, nn.Linear(self.width, DIMENSIONS))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Samples, and beside each the noise and the (logarithm of the) level it is seen under. Shape: [batch, 17]."""
        inputs, noise, log_levels = batch["inputs"], batch["noise"], batch["log_levels"]
        if model.training:
            inputs, noise, log_levels = (torch.randn_like(each) for each in (inputs, noise, log_levels))
        return torch.cat([model(inputs), noise, log_levels[:, None]], dim=1)

    def ways(self, samples: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """h (D_p - D_q) of each sample under its noise, q the other samples. Shapes: [n, 8] twice, [n] -> [n, 8].

        Of a single sample nothing is known, so that it goes nowhere.
        """
        if len(samples) < 2:
            return torch.zeros_like(samples)
        noisy = samples + levels[:, None] * noise
        points = torch.from_numpy(atoms()).to(samples)
        # With its own place among them, a sample seen under little noise would be all that there is.
        of_points, log_points = _denoised(noisy, points, levels)
        of_batch, log_batch = _denoised(noisy, samples, levels, is_left_out=torch.eye(len(samples)).bool())
        if self.divergence == "reverse":
            return of_points - of_batch
        ratios = (log_points - log_batch).clamp(-math.log(_MOST), math.log(_MOST)).exp()
        weights = ratios if self.divergence == "forward" else ratios / (1 + ratios)
        return (weights / weights.mean())[:, None] * (of_points - of_batch)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Half the squared way of each number, whose gradient is minus that way. Shape: [batch, 8]."""
        samples = outputs[:, :DIMENSIONS]
        return (samples - (samples + self._ways_of(outputs)).detach()).square() / 2, None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """`seen`, the outputs. Shape: [batch, 17]."""
        return {"seen": outputs}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`energy_distance` of all samples; `loss`, in blocks of 512 in the order of the split."""
        seen = statistics["seen"]
        ways = torch.cat([self._ways_of(block) for block in seen.split(_BLOCK)])
        samples = seen[:, :DIMENSIONS].double()
        distance = energy_distance(samples, torch.from_numpy(atoms()).to(samples.device))
        return {"energy_distance": distance, "loss": ways.double().square().mean().item() / 2}

    def _ways_of(self, outputs: Tensor) -> Tensor:
        samples, noise, log_levels = outputs.detach().split([DIMENSIONS, DIMENSIONS, 1], dim=1)
        return self.ways(samples, noise, level_of(log_levels.squeeze(1)))

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"width": self.width + self.width // 32}


def energy_distance(samples: Tensor, points: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, zero where samples x and points y are alike. Shapes: [n, d], [m, d].

    Pairs of samples are of different ones, so that it is of the distribution they are from. Source: Szekely, Rizzo,
    "Energy statistics", Journal of Statistical Planning and Inference 143 (2013).
    """
    count = len(samples)
    within = torch.cdist(samples, samples).sum() / (count * (count - 1))
    return (2 * torch.cdist(samples, points).mean() - within - torch.cdist(points, points).mean()).item()


def _denoised(
    noisy: Tensor, centres: Tensor, levels: Tensor, *, is_left_out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of the centres given each noisy place, and the logarithm of the density there up to what all centres share.

    Shapes: [n, d], [m, d], [n], bool [n, m] -> [n, d], [n].
    """
    nearness = -torch.cdist(noisy, centres).square() / (2 * levels.square()[:, None])
    count = len(centres)
    if is_left_out is not None:
        nearness = nearness.masked_fill(is_left_out.to(nearness.device), -math.inf)
        count -= 1
    return nearness.softmax(dim=1) @ centres, nearness.logsumexp(dim=1) - math.log(count)
