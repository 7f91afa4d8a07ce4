"""A policy that keeps or drops the parts of a network one after the other: as little as can be that still is right.

After Ashok, Rhinehart, Beainy, Kitani, "N2N learning: network to network compression via policy gradient reinforcement
learning", ICLR 2018, with a table of what every choice is worth in place of a training for each.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, ParameterKind, SplitName, TensorExamples
from workloads.frontier.made import as_float32, rounded
from workloads.frontier.policies.group_gradient import GroupGradient
from workloads.networks.drawn_symbols import drawn_symbols, uniform_numbers

PARTS = 12
FEATURES = 4
IMAGES: dict[SplitName, list[int]] = {"train": [25] * 16, "validation": [200], "test": [200]}
"""Of how many images each example counts the right answers."""
TABLE = Path(__file__).with_name("compression_table.npz")


class CompressionPolicy(GroupGradient):
    """Rewards (2 - c) c a / A of a network of which a share c of 12 parts is gone and a of A right answers are left.

    They are divided by that of the best choice, so that the best is worth 1. All examples are of one network, and
    differ in the images of which answers are counted. Metric `regret`, 1 less the expected reward, a sum over all 4,096
    choices; `likeliest_regret`, that of the choice that takes the likelier action at each part. `width` of the policy's
    state.
    """

    def __init__(self, *, width: int) -> None:
        self.width = width

    def sources(self) -> list[DataSource]:
        """None: the table is here."""
        return []

    def packaged_data(self) -> list[Path]:
        """The table, which holds all three splits."""
        return [TABLE]

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, float32 [n, 12, 4], what is seen of the parts, and `targets`, float32 [n, 4096], of each choice."""
        with numpy.load(TABLE) as table:
            right, features = table["right"].astype(numpy.float64), table["features"]
        features = rounded((features - features.mean(axis=0)) / features.std(axis=0))
        start = sum(len(IMAGES[each]) for each in SPLITS[: SPLITS.index(split)])
        right = right[start : start + len(IMAGES[split])]
        gone = 1 - every_choice().double().numpy().mean(axis=1)
        worth = gone * (2 - gone) * right / right[:, -1:]
        return TensorExamples(
            {
                "inputs": as_float32(features).repeat(len(right), 1, 1),
                "targets": as_float32(worth / worth.max(axis=1, keepdims=True)),
            }
        )

    def build_model(self) -> nn.Module:
        """A new policy. Shapes: float [batch, 12, 4] and int64 [batch, count, 12] -> [batch, count, 12, 2]."""
        return RecurrentPolicy(FEATURES, self.width)

    def tried(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every choice, each once: sums over them are exact. Shapes: int64 [batch, 4096, 12], float [batch, 4096]."""
        worth = batch["targets"]
        choices = every_choice().to(worth.device).expand(len(worth), -1, -1)
        return choices, torch.full_like(worth, -PARTS * math.log(2))

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """What the whole choice is worth, at its last part. Shape: float [batch, count, 12]."""
        number = (answers << torch.arange(PARTS, device=answers.device)).sum(dim=2)
        credits = torch.zeros(answers.shape, device=answers.device)
        credits[..., -1] = batch["targets"].gather(1, number)
        return credits

    def demonstrations(self, batch: Batch) -> Tensor:
        """The best choice. Shape: int64 [batch, 12]."""
        return every_choice().to(batch["targets"].device)[batch["targets"].argmax(dim=1)]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """`expected`, the reward of a drawn choice. Shape: [batch]."""
        likelier, rewards, _ = outputs.double().unbind(dim=2)
        return {"expected": (likelier.exp() * rewards).mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`regret`: by how much less than the best a drawn choice is worth, mean over the examples."""
        return {"regret": 1 - statistics["expected"].mean().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`likeliest_regret`: that of the choice of the likelier action at each part."""
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        rewards = self.credits(batch, self.likeliest(model, batch)[:, None]).sum(dim=2)
        return {"likeliest_regret": 1 - rewards.double().mean().item()}

    def resized(self) -> dict[str, Any]:
        """A state that is wider by one number."""
        return {"width": self.width + 1}


class RecurrentPolicy(nn.Module):
    """A recurrent cell that reads a part and what became of the one before, and scores dropping (0) and keeping (1)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.cell = nn.GRU(features + 2, width, batch_first=True)
        self.output = nn.Linear(width, 2)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}

    def forward(
        self,
        parts: Tensor,
        answers: Tensor | None = None,
        *,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of each action of given answers; without them answers: `count` that are drawn, or the likeliest one.

        Shapes: float [batch, parts, features], answers int64 [batch, count, parts] -> float [batch, count, parts, 2];
        without answers int64 [batch, count, parts], count 1 for the likeliest.
        """
        if answers is None:
            return self._written(parts, count, generator)
        rows = parts[:, None].expand(-1, answers.shape[1], -1, -1)
        # Before the first part nothing was done.
        before = F.pad(F.one_hot(answers[:, :, :-1], 2).to(parts.dtype), (0, 0, 1, 0))
        state, _ = self.cell(torch.cat([rows, before], dim=3).flatten(0, 1))
        scores: Tensor = self.output(state).unflatten(0, answers.shape[:2])
        return scores

    def _written(self, parts: Tensor, count: int | None, generator: torch.Generator | None) -> Tensor:
        rows = parts.repeat_interleave(count or 1, dim=0)
        drawn = None if count is None else uniform_numbers(rows.shape[:2], parts.device, generator)
        state, before, written = None, rows.new_zeros(len(rows), 2), []
        for place in range(parts.shape[1]):
            out, state = self.cell(torch.cat([rows[:, place], before], dim=1)[:, None], state)
            written.append(drawn_symbols(self.output(out[:, 0]), None if drawn is None else drawn[:, place]))
            before = F.one_hot(written[-1], 2).to(parts.dtype)
        answers: Tensor = torch.stack(written, dim=1).unflatten(0, (len(parts), -1))
        return answers


@functools.cache
def every_choice() -> Tensor:
    """Which parts each choice keeps: part k where bit k of its number is set. Shape: int64 [4096, 12], 0 or 1."""
    return torch.arange(2**PARTS)[:, None] >> torch.arange(PARTS) & 1
