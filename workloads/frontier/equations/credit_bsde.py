"""The price of an option and what the other side's default takes off it, each with the hedge that earns it.

Two backward stochastic differential equations with known solutions, in layers: after "Multi-layer deep xVA: structural
credit models, measure changes and convergence analysis", arXiv 2502.14766, with default at a constant rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, LossKind, SeveralTerms, SplitName
from workloads.frontier.equations.brownian import drawn_increments, increments_of
from workloads.frontier.made import KnownExamples

STEPS = 20
STRIKE = 100.0
RATE, DEVIATION = 0.02, 0.25
INTENSITY, RECOVERY = 0.05, 0.4
_SEED_OF_DATA = 2020
_SIZES: dict[SplitName, int] = {"train": 32_768, "validation": 2_048, "test": 2_048}
# What numbers of the network are multiplied by: about the option's price, and what default takes off it.
CLEAN_UNIT, CREDIT_UNIT = 10.0, 0.3


class CreditBsde(SeveralTerms):
    """A call option at the money, and its credit value adjustment (CVA), as values that follow from hedges on the way.

    The share is a geometric Brownian motion from STRIKE, in STEPS steps to time 1. dV = r V dt + sigma S D dW should
    end at max(S - STRIKE, 0), term `clean`; dY = -((1 - R) l max(V, 0) - (r + l) Y) dt + sigma S H dW at 0, term
    `credit`, where V is taken as it is. D, H and both values at time 0 are learned. Terms are in squared units.
    Metric `credit_hedge_error`: relative L2 of H against the exact one along held-out paths. `width` of both networks.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"clean": 1.0, "credit": 1.0}

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Paths; those for validation and test with the exact hedges along them."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        paths = Paths({"increments": drawn_increments(stream, paths=_SIZES[split], steps=STEPS, dimensions=1)}, {})
        if split == "train":
            return paths
        shares = share_prices(paths.gather(torch.arange(len(paths)))["inputs"].double())[:, :-1]
        times = torch.arange(STEPS, dtype=torch.float64) / STEPS
        clean = call_hedge(shares, times)
        return Paths(paths.tensors(), {"clean": clean.float(), "credit": (adjustment_share(times) * clean).float()})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: increments [batch, STEPS] -> [batch, 2], [batch, 2, STEPS]."""
        return TwoLayers(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """V and Y at the end, in prices, each with its hedges, in shares. Shape: [batch, 2, 1 + STEPS]."""
        ends, hedges = model(batch["inputs"])
        return torch.cat([ends[:, :, None], hedges], dim=2)

    def loss_terms(
        self,
        outputs: Tensor,
        batch: Batch,
        label_smoothing: float,  # noqa: ARG002
    ) -> Mapping[str, tuple[Tensor, None]]:
        """Squared distance of V at the end to what the option pays, and of Y to 0, in units. Shapes: [batch]."""
        clean, credit = outputs[:, :, 0].unbind(dim=1)
        return {
            "clean": (((clean - batch["targets"]) / CLEAN_UNIT).square(), None),
            "credit": ((credit / CREDIT_UNIT).square(), None),
        }

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`clean` and `credit`, errors of hedges, and `_power`, of the exact ones, squared sums. Shapes: [batch]."""
        found = {}
        for name, values in zip(("clean", "credit"), outputs[:, :, 1:].unbind(dim=1), strict=True):
            found[name] = (values - batch[name]).square().sum(dim=1)
            found[f"{name}_power"] = batch[name].square().sum(dim=1)
        return found

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`clean_hedge_error`, `credit_hedge_error`: norm of the error over all paths and times over the exact."""
        sums = {name: values.double().sum() for name, values in statistics.items()}
        return {
            f"{name}_hedge_error": (sums[name] / sums[f"{name}_power"]).sqrt().item() for name in ("clean", "credit")
        }

    def resized(self) -> dict[str, Any]:
        """Layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}


class Paths(KnownExamples):
    """Increments of Brownian motion, as they are stored, int16 [n, STEPS, 1]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, increments, float32 [batch, STEPS], `targets`, what the option pays, [batch], and the rest.

        Held out that is `clean` and `credit`, exact hedges at the beginning of each step, float32 [batch, STEPS].
        """
        batch = super().gather(index)
        increments = increments_of(batch.pop("increments")).squeeze(2)
        paid = (share_prices(increments)[:, -1] - STRIKE).clamp_min(0)
        return {"inputs": increments, "targets": paid, **batch}


class TwoLayers(nn.Module):
    """Two values at time 0, and two networks of two hidden layers with SiLU for the hedges at a price and a time.

    Shapes: increments [batch, STEPS] -> V and Y at the end, [batch, 2], and hedges, [batch, 2, STEPS].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.starts = nn.Parameter(torch.zeros(2))
        self.clean, self.credit = (
            nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
            for _ in range(2)
        )

    def forward(self, increments: Tensor) -> tuple[Tensor, Tensor]:
        """Values at the end, and hedges on the way, both of V and Y."""
        shares = share_prices(increments)[:, :-1]
        times = torch.arange(STEPS, dtype=increments.dtype, device=increments.device) / STEPS
        seen = torch.stack([(shares / STRIKE).log() / DEVIATION, times.expand_as(shares)], dim=2)
        hedges = torch.stack(
            [
                unit / (DEVIATION * STRIKE) * network(seen).squeeze(2)
                for unit, network in ((CLEAN_UNIT, self.clean), (CREDIT_UNIT, self.credit))
            ],
            dim=1,
        )
        moves = DEVIATION * (shares * increments)[:, None] * hedges
        clean, credit = (unit * start for unit, start in zip((CLEAN_UNIT, CREDIT_UNIT), self.starts, strict=True))
        # Both equations are linear in their values, so that a step is a factor and a sum over steps is all.
        steps = torch.arange(1, STEPS + 1, dtype=increments.dtype, device=increments.device)
        growth = (1 + RATE / STEPS) ** steps
        values = growth * (clean + (moves[:, 0] / growth).cumsum(dim=1))
        # What default costs is counted at the end of a step: of the value before it, the best hedge in so few steps
        # would be off the exact one by a tenth.
        costs = (1 - RECOVERY) * INTENSITY / STEPS * values.detach().clamp_min(0)
        left = (1 + (RATE + INTENSITY) / STEPS) ** (STEPS - steps)
        adjustment = (1 + (RATE + INTENSITY) / STEPS) ** STEPS * credit + (left * (moves[:, 1] - costs)).sum(dim=1)
        return torch.stack([values[:, -1], adjustment], dim=1), hedges


def share_prices(increments: Tensor) -> Tensor:
    """Geometric Brownian motion from STRIKE. Shapes: [batch, STEPS] -> [batch, STEPS + 1]."""
    logs = ((RATE - DEVIATION**2 / 2) / STEPS + DEVIATION * increments).cumsum(dim=1)
    return STRIKE * torch.cat([torch.zeros_like(logs[:, :1]), logs], dim=1).exp()


def call_price(shares: Tensor, times: Tensor) -> Tensor:
    """What a call option to pay STRIKE at time 1 is worth before it, by Black and Scholes. Shapes alike, float64."""
    left = 1 - times
    upper = _upper(shares, left)
    lower = upper - DEVIATION * left.sqrt()
    paid: Tensor = STRIKE * (-RATE * left).exp() * torch.special.ndtr(lower)
    earned: Tensor = shares * torch.special.ndtr(upper)
    return earned - paid


def call_hedge(shares: Tensor, times: Tensor) -> Tensor:
    """The derivative of that with respect to the share's price. Shapes alike, float64."""
    hedge: Tensor = torch.special.ndtr(_upper(shares, 1 - times))
    return hedge


def adjustment_share(times: Tensor) -> Tensor:
    """Of the call's price that is its credit value adjustment: (1 - R)(1 - exp(-l (1 - t)))."""
    return (1 - RECOVERY) * -torch.expm1(-INTENSITY * (1 - times))


def _upper(shares: Tensor, left: Tensor) -> Tensor:
    spread = DEVIATION * left.sqrt()
    return ((shares / STRIKE).log() + RATE * left) / spread + spread / 2
