"""The way out of a maze, learned from the records of somebody who half knows it, without a move of one's own.

Loss of Mao et al., "ODICE: revealing the mystery of distribution correction estimation via orthogonal-gradient update",
ICLR 2024, arXiv 2402.00348.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    ParameterKind,
    Renamed,
    SeveralTerms,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.frontier.decisions.maze import DISCOUNT, SIZE, best_worth, episodes, maze, worth

_SEED_OF_DATA = 2024
_EPISODES: dict[SplitName, int] = {"train": 300, "validation": 60, "test": 60}
_MOVES = 4
_FREQUENCIES = 4
_SLOW_RATE = 0.02
REWARD = 30.0
"""What a reward counts in the loss: with 1 the term `value` outweighs all that can be earned."""
MIXTURE = 0.6
"""Share of the residuals in the loss of the values; the rest presses values down."""


class OfflineMaze(SeveralTerms):
    """Values of cells and a policy, both of which are learned from recorded moves.

    Terms: `forward`, of the residual r + 0.97 V(next) - V(cell), where V(next) is that of a slow copy of the network;
    `value`, V(cell), which is pressed down; `policy`, minus the logarithm of the recorded move's chance, weighted by
    how much better it went than expected. Metric `regret`: how much less than the best policy the learned one is worth.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"forward": MIXTURE, "value": 1 - MIXTURE, "policy": 1.0}
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer", "learns_one_batch_by_heart"})
    """Each of two networks has an output layer, and the loss has no natural zero."""

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Moves: `inputs`, float32 [n, 2, 2], places before and after; `targets`, the move; `rewards`; `episodes`."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        before = sum(_EPISODES[each] for each in SPLITS[: SPLITS.index(split)])
        made = episodes(_EPISODES[split], first=before, stream=stream)
        return TensorExamples(
            {
                "inputs": places()[torch.from_numpy(numpy.stack([made["cells"], made["next_cells"]], axis=1))],
                "targets": torch.from_numpy(made["moves"]),
                "rewards": torch.from_numpy(made["rewards"]),
                "episodes": torch.from_numpy(made["episodes"]),
            }
        )

    def build_model(self) -> nn.Module:
        """Two networks and the slow copy of one. Shapes: [batch, 2, 2] -> [batch, 2], [batch, 2], [batch, 4]."""
        return ValueAndPolicy(self.width)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Values before and after the move, slow ones of both, and the scores of all moves. Shape: [batch, 8]."""
        return torch.cat(model(batch["inputs"]), dim=1)

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`forward`, `value` and `policy`. Shapes: [batch]."""
        value, slow_after, scores = outputs[:, 0], outputs[:, 3], outputs[:, 4:]
        residual = self._hoped(batch, slow_after) - value
        surprise = F.cross_entropy(scores, batch["targets"], reduction="none", label_smoothing=label_smoothing)
        return {
            "forward": (conjugate(residual), None),
            "value": (value, None),
            # The slope of the conjugate: how much more often than recorded the move should be made.
            "policy": ((1 + residual / 2).relu().detach() * surprise, None),
        }

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: whether the likeliest move is another one than was recorded. Shape: [batch]."""
        return {"wrong": (outputs[:, 4:].argmax(dim=1) != batch["targets"]).float()}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`unlike_record`: the share of recorded moves that the policy would not have made."""
        return {"unlike_record": statistics["wrong"].double().mean().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:  # noqa: ARG002
        """`regret` of the softmax policy, exact, from all cells alike. It is a property of weights, not of a split."""
        assert isinstance(model, ValueAndPolicy)
        scores = model.policy(waves(places().to(next(model.parameters()).device)))
        return {"regret": best_worth() - worth(scores.detach().double().softmax(dim=1).cpu().numpy())}

    def symmetries(self) -> list[Symmetry]:
        """Moves under other numbers."""
        return [Renamed({"targets": None}, [(0, _MOVES)], rows=["policy.4.weight", "policy.4.bias"])]

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"width": self.width + max(1, self.width // 32)}

    def _hoped(self, batch: Batch, after: Tensor) -> Tensor:
        """What a move has brought and is said to bring. Shape: [batch]."""
        # Nothing follows the goal.
        return REWARD * batch["rewards"] + DISCOUNT * (1 - batch["rewards"]) * after


class OfflineMazeBothWays(OfflineMaze):
    """The same with the term `backward`: of the residual where V(cell) is that of the slow copy.

    Both together are about the true gradient of the residual's loss.
    """

    term_weights: ClassVar[Mapping[str, float]] = {
        "forward": MIXTURE,
        "backward": MIXTURE,
        "value": 1 - MIXTURE,
        "policy": 1.0,
    }
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Each of two networks has one. A few moves are learned here, as values may fall without end."""

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`forward`, `backward`, `value` and `policy`. Shapes: [batch]."""
        terms = super().loss_terms(outputs, batch, label_smoothing)
        return {**terms, "backward": (conjugate(self._hoped(batch, outputs[:, 1]) - outputs[:, 2]), None)}


class ValueAndPolicy(nn.Module):
    """Two networks of two hidden layers that see a place as waves, and a slow copy of the first.

    The copy begins where the network is in the first training pass, and goes a fiftieth of the way to it in each other
    one. A pass in eval mode has the network in its place, so that what it gives is a function of the weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.policy = (_layers(width, outputs) for outputs in (1, _MOVES))
        self.parameter_kinds = {"value.4.weight": ParameterKind.OUTPUT, "policy.4.weight": ParameterKind.OUTPUT}
        # Nobody but the trainer needs the copy: it is not in the state, and does not depend on the seed.
        self._copied = [name for name, _ in self.value.named_parameters()]
        for name, parameter in self.value.named_parameters():
            self.register_buffer(_slow(name), torch.zeros_like(parameter), persistent=False)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long), persistent=False)
        self.moving_buffers = ("passes", *map(_slow, self._copied))

    def forward(self, moves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values before and after moves, slow values of both, scores of all moves from where each began."""
        seen = waves(moves)
        values = self.value(seen).squeeze(2)
        scores = self.policy(seen[:, 0])
        if not self.training:
            return values, values.detach(), scores
        with torch.no_grad():
            self._follow()
            slow: Tensor = torch.func.functional_call(
                self.value, {name: self.get_buffer(_slow(name)) for name in self._copied}, (seen,)
            )
        return values, slow.squeeze(2), scores

    def _follow(self) -> None:
        passes = self.get_buffer("passes")
        for name, parameter in self.value.named_parameters():
            self.get_buffer(_slow(name)).lerp_(parameter, _SLOW_RATE if passes > 0 else 1.0)
        passes += 1


def conjugate(residual: Tensor) -> Tensor:
    """e + e^2 / 4 for e above -2, and -1, its least value, below: of the divergence of Pearson."""
    return torch.where(residual > -2, residual + residual.square() / 4, -1.0)


def places() -> Tensor:
    """Of all cells, row and column as eighths from the middle: exact in binary. Shape: float32 [cells, 2]."""
    return torch.from_numpy((maze().places - SIZE // 2).astype(numpy.float32) / 8)


def waves(where: Tensor) -> Tensor:
    """Coordinates with the sines and cosines of four waves of each. Shape: [..., 2] -> [..., 18]."""
    frequencies = math.pi / 2 * 2.0 ** torch.arange(_FREQUENCIES, device=where.device)
    angles = (where[..., None] * frequencies).flatten(-2)
    return torch.cat([where, angles.sin(), angles.cos()], dim=-1)


def _slow(name: str) -> str:
    return f"slow_{name.replace('.', '_')}"


def _layers(width: int, outputs: int) -> nn.Sequential:
    inputs = 2 * (1 + 2 * _FREQUENCIES)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )
