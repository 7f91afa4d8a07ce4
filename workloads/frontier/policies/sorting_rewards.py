"""Four digits to be written in order, learned from what answers are worth; right answers may be asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    ConfigError,
    DataSource,
    Examples,
    Reordered,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.frontier.policies.answering_transformer import AnsweringTransformer
from workloads.frontier.policies.group_gradient import GROUP, GroupGradient

DIGITS = 4
REWARDS = ("share", "exact")
_SYMBOLS = 10
_SEED_OF_DATA = 2509
_PARTS: dict[SplitName, slice] = {"train": slice(8000), "validation": slice(8000, 9000), "test": slice(9000, 10_000)}
# Of the answers that lie beside each prompt: how often a digit is the right one, not counting what chance adds.
_RIGHT = 0.5
_DECODED_AT_ONCE = 250


class SortingRewards(GroupGradient):
    """Policy gradient on eight answers of the network's own to each prompt; metric `exact_error` of its likeliest one.

    `reward`: `share` of right places, or `exact`, 1 where all are right and else 0. Sizes and `shared_prefix` of the
    network: see AnsweringTransformer. Raises ConfigError for another reward.
    """

    def __init__(self, *, reward: str, width: int, layers: int, heads: int, hidden: int, shared_prefix: bool) -> None:
        if reward not in REWARDS:
            raise ConfigError(f"reward is {reward!r}. Use one of {', '.join(REWARDS)}.")
        self.reward = reward
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.shared_prefix = shared_prefix

    @property
    def not_promised(self) -> frozenset[str]:  # type: ignore[override]
        """Where only whole answers count, random ones are worth nothing: no gradient, and nothing to learn."""
        if self.reward == "share":
            return frozenset()
        return frozenset({"every_parameter_gets_a_gradient", "learns_one_batch_by_heart"})

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs` int64 [n, 4], `targets`, the same in order, and `tried`, int64 [n, 8, 4], answers of nobody.

        There are 10,000 prompts of four digits, each of which is in one split. A digit of `tried` is the right one half
        of the time, and else any of the ten.
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        numbers = numpy.random.RandomState(_SEED_OF_DATA).permutation(_SYMBOLS**DIGITS)[_PARTS[split]]
        inputs = numbers[:, None] // _SYMBOLS ** numpy.arange(DIGITS)[::-1] % _SYMBOLS
        targets = numpy.sort(inputs, axis=1)
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        shape = (len(inputs), GROUP, DIGITS)
        tried = numpy.where(
            stream.random_sample(shape) < _RIGHT, targets[:, None], stream.randint(_SYMBOLS, size=shape)
        )
        made = {"inputs": inputs, "targets": targets, "tried": tried}
        return TensorExamples({name: torch.from_numpy(each.astype(numpy.int64)) for name, each in made.items()})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 4] and [batch, count, 4] -> [batch, count, 4, 10]."""
        return AnsweringTransformer(
            symbols=_SYMBOLS,
            prompt=DIGITS,
            answer=DIGITS,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            shared_prefix=self.shared_prefix,
        )

    def tried(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers beside each prompt, and how likely these were. Shapes: int64 [batch, 8, 4], float [batch, 8]."""
        is_right = batch["tried"] == batch["targets"][:, None]
        by_chance = (1 - _RIGHT) / _SYMBOLS
        drawn_with = torch.where(is_right, math.log(_RIGHT + by_chance), math.log(by_chance))
        return batch["tried"], drawn_with.sum(dim=2)

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """None: only what the network writes by itself counts."""
        return {}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`exact_error`: share of prompts whose likeliest answer has a wrong digit; `digit_error`: of wrong digits."""
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        # Of a fixed size, so that rounding depends on nothing else.
        written = torch.cat([model(part) for part in batch["inputs"].split(_DECODED_AT_ONCE)]).squeeze(1)
        is_wrong = written != batch["targets"]
        return {
            "exact_error": is_wrong.any(dim=1).double().mean().item(),
            "digit_error": is_wrong.double().mean().item(),
        }

    def symmetries(self) -> list[Symmetry]:
        """Digits of the prompt in another order."""
        return [Reordered({"inputs": 1})]

    def resized(self) -> dict[str, Any]:
        """A number more for each head, and hidden layers wider by a thirty-second."""
        return {"width": self.width + self.heads, "hidden": self.hidden + self.hidden // 32}

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """A quarter for each right place; or 1 at the last place where all are right. Shape: [batch, count, 4]."""
        is_right = answers == batch["targets"][:, None]
        if self.reward == "share":
            return is_right.float() / DIGITS
        exact = torch.zeros(answers.shape, device=answers.device)
        exact[..., -1] = is_right.all(dim=2).float()
        return exact

    def demonstrations(self, batch: Batch) -> Tensor:
        """The digits in order. Shape: int64 [batch, 4]."""
        return batch["targets"]
