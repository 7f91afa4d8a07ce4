"""What four antennas should send so that four users hear as much as can be, learned without answers.

The network sees users and antennas as the two sides of a graph with an edge for each channel. After Guo, Yang,
"Recursive GNNs for learning precoding policies with size-generalizability", arXiv 2402.18332.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
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
from workloads.frontier.made import KnownExamples, as_float32, rounded

USERS = 4
ANTENNAS = 4
POWER = 10.0
_SEED_OF_DATA = 2021
_SIZES: dict[SplitName, int] = {"train": 20_000, "validation": 1_000, "test": 1_000}
_LAYERS = 4
_WMMSE_ITERATIONS = 100


class WirelessPrecoding(Workload):
    """The rates at which users hear, log2(1 + SINR) each, when antennas send by the network's weights of all channels.

    The loss is the negative mean over the users; there are no answers to learn from. Metric `rate_gap`, 1 - sum of the
    rates over that of WMMSE, an iteration that ends where no small change helps: it may be below zero. `width` of the
    network's edges.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, users, antennas, 2], channels as real and imaginary parts, each of variance 1/2.

        They are `targets` too: what outputs are judged by. Those for validation and test come with the sums of rates of
        WMMSE, `reference` [n].
        """
        channels = made_channels(split, users=USERS, antennas=ANTENNAS)
        inputs = as_float32(channels)
        if split == "train":
            return KnownExamples({"inputs": inputs}, {"targets": inputs})
        exact = torch.view_as_complex(torch.from_numpy(channels))
        reached = rates(exact, wmmse(exact, iterations=_WMMSE_ITERATIONS)).sum(dim=1)
        return KnownExamples({"inputs": inputs}, {"targets": inputs, "reference": reached.float()})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, users, antennas, 2] -> [batch, antennas, users, 2]."""
        return EdgeNetwork(self.width)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Minus the rate of each user in bits. Shape: [batch, users]."""
        return -_rates_of(outputs, batch), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`rate`, the sum over the users, and `reference`, that of WMMSE. Shapes: [batch]."""
        return {"rate": _rates_of(outputs, batch).sum(dim=1), "reference": batch["reference"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`rate_gap`: the share of the reference's sum of rates that is missing, over all examples."""
        rate, reference = (statistics[name].double().mean().item() for name in ("rate", "reference"))
        return {"rate_gap": 1 - rate / reference}

    def symmetries(self) -> list[Symmetry]:
        """Users and antennas in any order; real or imaginary parts of either sign."""
        return [
            Reordered({"inputs": 1, "targets": 1}),
            Reordered({"inputs": 2, "targets": 2}),
            Signed({"inputs": 3, "targets": 3}),
        ]

    def resized(self) -> dict[str, Any]:
        """Edges wider by one number."""
        return {"width": self.width + 1}


class EdgeNetwork(nn.Module):
    """A vector for each channel, from its own, the means over users and over antennas; then two numbers for each user.

    These, positive and scaled to the power, are q and p: what user k gets is sent in the direction of column k of
    (1 + sum_j q_j h_j h_j^H)^-1 H^H, with power p_k. All optimal precoders have this form (Bjornson, Bengtsson,
    Ottersten, "Optimal multiuser transmit beamforming", IEEE Signal Processing Magazine 31, 2014). Another order of
    users or antennas gives the same in that order; there may be any number of both.
    Shapes: [batch, users, antennas, 2] -> [batch, antennas, users, 2].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(2, width)
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(_LAYERS))
        self.output = nn.Linear(width, 2)

    def forward(self, channels: Tensor) -> Tensor:
        """Precoders whose power is POWER."""
        edges = self.embedding(channels)
        for layer in self.layers:
            means = [edges.mean(dim=side, keepdim=True).expand_as(edges) for side in (1, 2)]
            edges = edges + F.silu(layer(torch.cat([edges, *means], dim=3)))
        uplink, downlink = F.softplus(self.output(edges.mean(dim=2))).unbind(dim=2)
        uplink, downlink = (POWER * each / each.sum(dim=1, keepdim=True) for each in (uplink, downlink))
        return torch.view_as_real(precoder(torch.view_as_complex(channels.contiguous()), uplink, downlink))


def precoder(channels: Tensor, uplink: Tensor, downlink: Tensor) -> Tensor:
    """Columns of (1 + sum_j uplink_j h_j h_j^H)^-1 H^H, of squared length `downlink`.

    Rows of `channels` are h^H. Shapes: complex [batch, users, antennas], [batch, users] twice -> complex [batch,
    antennas, users].
    """
    adjoint = channels.mH
    identity = torch.eye(channels.shape[2], dtype=channels.dtype, device=channels.device)
    directions = torch.linalg.solve(identity + (adjoint * uplink[:, None, :]) @ channels, adjoint)
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    precoders: Tensor = directions / lengths * downlink.sqrt()[:, None, :]
    return precoders


def rates(channels: Tensor, precoders: Tensor) -> Tensor:
    """log2(1 + SINR) of each user under noise of power 1.

    Shapes: complex [batch, users, antennas], [batch, antennas, users] -> [batch, users].
    """
    heard = (channels @ precoders).abs().square()
    meant = heard.diagonal(dim1=1, dim2=2)
    return torch.log2(1 + meant / (1 + heard.sum(dim=2) - meant))


def wmmse(channels: Tensor, *, iterations: int) -> Tensor:
    """Precoders whose sum of rates no small change raises, from regularised zero forcing, of power POWER.

    The noise is counted as proportional to the power that is sent, which changes no rate at full power and leaves no
    multiplier to be searched for. Shapes: complex [batch, users, antennas] -> [batch, antennas, users].
    Source: Shi, Razaviyayn, Luo, He, "An iteratively weighted MMSE approach to distributed sum-utility maximization",
    IEEE Transactions on Signal Processing 59 (2011); the scaling of Christensen, Agarwal, de Carvalho, Cioffi (2008).
    """
    users, adjoint = channels.shape[1], channels.mH
    identity = torch.eye(channels.shape[2], dtype=channels.dtype, device=channels.device)
    even = torch.full(channels.shape[:2], POWER / users, dtype=channels.real.dtype, device=channels.device)
    precoders = _at_full_power(torch.linalg.solve(identity + (adjoint * even[:, None, :]) @ channels, adjoint))
    for _ in range(iterations):
        heard = channels @ precoders
        meant = heard.diagonal(dim1=1, dim2=2)
        receivers = meant / (1 + heard.abs().square().sum(dim=2))
        weights = 1 / (1 - (receivers.conj() * meant).real)
        strengths = weights * receivers.abs().square()
        noise = strengths.sum(dim=1)[:, None, None] / POWER
        pulls = adjoint * (weights * receivers)[:, None, :]
        precoders = _at_full_power(
            torch.linalg.solve(noise * identity + (adjoint * strengths[:, None, :]) @ channels, pulls)
        )
    return precoders


def made_channels(split: SplitName, *, users: int, antennas: int) -> numpy.ndarray:
    """Channels of one split as real and imaginary parts. Shape: float64 [n, users, antennas, 2]."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    return rounded(stream.standard_normal((_SIZES[split], users, antennas, 2)) / 2**0.5)


def _at_full_power(precoders: Tensor) -> Tensor:
    return precoders * (POWER / precoders.abs().square().sum(dim=(1, 2), keepdim=True)).sqrt()


def _rates_of(outputs: Tensor, batch: Batch) -> Tensor:
    channels, precoders = (torch.view_as_complex(each.contiguous()) for each in (batch["targets"], outputs))
    return rates(channels, precoders)
