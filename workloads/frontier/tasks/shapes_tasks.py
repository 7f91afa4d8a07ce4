"""Four tasks on scenes, speech and text as tokens of one form, for one encoder with four small heads.

After Akbari et al., "Alternating gradient descent and mixture-of-experts for integrated multimodal perception" (IMP),
NeurIPS 2023, arXiv 2305.06324.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataError,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    Reordered,
    SeveralTerms,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.data.bibles import king_james, numbered, read_king_james
from workloads.data.spoken_digits_data import FEWEST_DIGITS, FRONTEND, MOST_DIGITS, SpokenDigitsFile
from workloads.frontier.tasks.scenes import MOST_SHAPES, SIDE, scenes
from workloads.frontier.tasks.token_encoder import TokenEncoder

PATCH = 6
PLACES = (SIDE // PATCH) ** 2
NUMBERS = FRONTEND.bins
"""Of a token: as many as speech has mel bins, and the text has symbols."""
ALPHABET = "\n !(),-.:;?abcdefghijklmnopqrstuvwxyzæ—\u2019"
_SEED_OF_DATA = 2305
# A number is stored as a byte: so many steps to 1, and the byte of 0, those of the speech.
_LEVELS, _ZERO = 32, 128
_WRITTEN = _ZERO + 3 * _LEVELS  # at the place of the symbol, so that a token is as long as one of a scene
_TEXT_PARTS: Mapping[SplitName, tuple[float, float]] = {
    "train": (0.0, 0.9),
    "validation": (0.9, 0.95),
    "test": (0.95, 1.0),
}
_HELD_OUT = 500


class Task(NamedTuple):
    """One of the tasks. `source`: of its tokens: scenes, speech, text. `answers`: of one example."""

    name: str
    source: int
    classes: int
    answers: int
    examples: int
    """In the training split; held out are as many of each."""


TASKS = (
    Task("count", source=0, classes=MOST_SHAPES, answers=1, examples=3_000),
    Task("signs", source=0, classes=3, answers=PLACES, examples=750),
    Task("digits", source=1, classes=MOST_DIGITS - FEWEST_DIGITS + 1, answers=1, examples=1_500),
    Task("next", source=2, classes=len(ALPHABET), answers=1, examples=6_000),
)
"""How many shapes a scene has; whether there is none, a bright or a dark one at each of its places; how many digits a
voice says; which character follows. They are numbered as in `groups`."""


class ShapesTasks(SeveralTerms):
    """Terms: the cross-entropy of each of TASKS. Metric `mean_relative_error`, less is better.

    That is the mean over the tasks of the share of wrong answers over that of the best constant answer, 1 for a network
    that knows nothing; beside it `count_error` and so on, those shares. An example is of one task alone: `groups`, and
    `trial.domains`, say of which. Raises ConfigError as TokenEncoder, whose sizes the options are.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {task.name: 1.0 for task in TASKS}
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Each task has one."""

    def __init__(self, *, width: int, layers: int, heads: int, hidden: int, experts: int) -> None:
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.experts = experts

    def sources(self) -> list[DataSource]:
        """The King James text, and the spoken digits, which are made on this machine; scenes are drawn when read."""
        return [king_james(), SpokenDigitsFile()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """All tasks' examples, spread evenly over the split. Raises DataError where a file is missing or another one.

        Texts of a split come from a part of the book of its own, and the voices of the test split from nobody heard
        in training.
        """
        stream = numpy.random.RandomState([_SEED_OF_DATA, list(_TEXT_PARTS).index(split)])
        sizes = [task.examples if split == "train" else _HELD_OUT for task in TASKS]
        counted, mapped = (scenes(size, stream) for size in sizes[:2])
        parts = [
            (_patches(counted.seen), counted.counts[:, None] - 1),
            (_patches(mapped.seen), signs(mapped.clean)),
            _spoken(sizes[2], split, folder),
            _written(sizes[3], split, folder, stream),
        ]
        # The first examples of every task come first, and all run out together.
        order = numpy.argsort(numpy.concatenate([numpy.arange(size) / size for size in sizes]), kind="stable")
        targets = [numpy.pad(each, ((0, 0), (0, PLACES - each.shape[1]))) for _, each in parts]
        groups = numpy.repeat(numpy.arange(len(TASKS)), sizes)
        return Tokens(
            {
                "tokens": torch.from_numpy(numpy.concatenate([each for each, _ in parts])[order]),
                "targets": torch.from_numpy(numpy.concatenate(targets).astype(numpy.int64)[order]),
                "groups": torch.from_numpy(groups[order]),
            }
        )

    def domains(self, examples: Examples) -> Tensor:
        """The task of each example."""
        return examples.tensors()["groups"]

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, PLACES, NUMBERS] and int64 [batch], the task -> see FourHeads."""
        return FourHeads(
            TokenEncoder(
                sources=1 + max(task.source for task in TASKS),
                places=PLACES,
                numbers=NUMBERS,
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                hidden=self.hidden,
                experts=self.experts,
            ),
            width=self.width,
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of all tasks, one after the other. Shape: [batch, all scores]."""
        outputs: Tensor = model(batch["inputs"], batch["groups"])
        return outputs

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Cross-entropy of each answer; those of the task's own examples count. Shapes: [batch, answers]."""
        terms: dict[str, tuple[Tensor, Tensor | None]] = {}
        for number, (task, scores) in enumerate(by_task(outputs)):
            targets = _targets(batch["targets"], batch["groups"] == number, task)
            losses = F.cross_entropy(scores.transpose(1, 2), targets, reduction="none", label_smoothing=label_smoothing)
            terms[task.name] = losses, (batch["groups"] == number)[:, None].to(losses.dtype).expand_as(losses)
        return terms

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: the share of wrong answers to the example's own task, [batch]; `targets` and `groups`."""
        wrong = outputs.new_zeros(len(outputs))
        for number, (task, scores) in enumerate(by_task(outputs)):
            is_own = batch["groups"] == number
            answered = scores.argmax(dim=2) != _targets(batch["targets"], is_own, task)
            wrong = torch.where(is_own, answered.to(wrong.dtype).mean(dim=1), wrong)
        return {"wrong": wrong, "targets": batch["targets"], "groups": batch["groups"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mean_relative_error`, over the tasks with more than one right answer; `count_error` and so on."""
        found, relative = {}, []
        for number, task in enumerate(TASKS):
            is_own = statistics["groups"] == number
            if not bool(is_own.any()):
                continue
            error = statistics["wrong"][is_own].double().mean().item()
            found[f"{task.name}_error"] = error
            if (constant := constant_error(statistics["targets"][is_own, : task.answers])) > 0:
                relative.append(error / constant)
        return {"mean_relative_error": math.fsum(relative) / len(relative) if relative else math.nan, **found}

    def symmetries(self) -> list[Symmetry]:
        """The numbers of a token in another order."""
        return [Reordered({"inputs": 2})]

    def resized(self) -> dict[str, Any]:
        """Two numbers more for each head, hidden layers wider by a thirty-second."""
        return {"width": self.width + 2 * self.heads, "hidden": self.hidden + max(1, self.hidden // 32)}


class Tokens(TensorExamples):
    """`tokens` uint8 [n, PLACES, NUMBERS]; `targets` int64 [n, PLACES], 0 beyond a task's answers; `groups` [n]."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, tokens as float32; `targets`; `groups`."""
        rows = super().gather(index)
        return {"inputs": rows.pop("tokens").to(torch.float32).sub_(_ZERO).mul_(1 / _LEVELS), **rows}


class FourHeads(nn.Module):
    """An encoder, and an output layer for each task: two of the mean of all tokens, one of each, one of the last."""

    def __init__(self, encoder: TokenEncoder, *, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({task.name: nn.Linear(width, task.classes) for task in TASKS})
        self.parameter_kinds = {f"heads.{task.name}.weight": ParameterKind.OUTPUT for task in TASKS}
        self.register_buffer("sources", torch.tensor([task.source for task in TASKS]), persistent=False)

    def forward(self, inputs: Tensor, groups: Tensor) -> Tensor:
        """Scores of each answer of every task, whatever the example's own is. Shape: [batch, all scores]."""
        read = self.encoder(inputs, self.get_buffer("sources")[groups])
        whole = read.mean(dim=1)
        seen = {"count": whole, "signs": read, "digits": whole, "next": read[:, -1]}
        return torch.cat([self.heads[name](each).flatten(1) for name, each in seen.items()], dim=1)


def by_task(outputs: Tensor) -> list[tuple[Task, Tensor]]:
    """The scores of each task. Shapes: [batch, all scores] -> [batch, answers, classes]."""
    parts = outputs.split([task.answers * task.classes for task in TASKS], dim=1)
    return [(task, part.unflatten(1, (task.answers, task.classes))) for task, part in zip(TASKS, parts, strict=True)]


def constant_error(targets: Tensor) -> float:
    """The share of wrong answers of whoever always gives the commonest one. Shape: int64 [...], from 0 on."""
    return 1.0 - targets.flatten().bincount().max().item() / targets.numel()


def signs(clean: numpy.ndarray) -> numpy.ndarray:
    """In the middle of each patch 0 for no shape, 1 for a bright one, 2 for a dark one. Shape: int64 [n, PLACES]."""
    middles = clean[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].reshape(len(clean), PLACES)
    return numpy.where(middles > 0, 1, numpy.where(middles < 0, 2, 0))


def _targets(targets: Tensor, is_own: Tensor, task: Task) -> Tensor:
    """Of one task; 0 for examples of others, whose answers may be no class of it. Shape: int64 [batch, answers]."""
    return torch.where(is_own[:, None], targets[:, : task.answers], 0)


def _patches(images: numpy.ndarray) -> numpy.ndarray:
    """Pixels of patches as tokens. Shapes: float64 [n, SIDE, SIDE] -> uint8 [n, PLACES, NUMBERS]."""
    levels = numpy.clip(numpy.rint(_LEVELS * images) + _ZERO, 0, 255).astype(numpy.uint8)
    across = SIDE // PATCH
    cut = levels.reshape(-1, across, PATCH, across, PATCH).swapaxes(2, 3).reshape(-1, PLACES, PATCH**2)
    return numpy.pad(cut, ((0, 0), (0, 0), (0, NUMBERS - PATCH**2)), constant_values=_ZERO)


def _spoken(count: int, split: SplitName, folder: Path) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Each pair of the first frames as a token, their mean, and how many digits are said, less the fewest."""
    utterances = SpokenDigitsFile().read(split, folder).tensors()
    features = utterances["features"][:count, : 2 * PLACES].numpy().astype(numpy.uint16)
    tokens = ((features[:, 0::2] + features[:, 1::2]) // 2).astype(numpy.uint8)
    said = (utterances["targets"][:count] > 0).sum(dim=1, keepdim=True) - FEWEST_DIGITS
    return tokens, said.numpy()


def _written(
    count: int, split: SplitName, folder: Path, stream: numpy.random.RandomState
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Characters as tokens, and the number of the one that follows them."""
    text = read_king_james(king_james().path(folder)).lower()
    begin, end = (round(share * len(text)) for share in _TEXT_PARTS[split])
    if end - begin <= PLACES:
        raise DataError(f"the King James text has {len(text)} characters, too few for windows of it. Run: make data")
    symbols = numbered(text[begin:end], ALPHABET).numpy()
    starts = stream.randint(len(symbols) - PLACES, size=count)
    windows = symbols[starts[:, None] + numpy.arange(PLACES + 1)]
    tokens = numpy.full((count, PLACES, NUMBERS), _ZERO, dtype=numpy.uint8)
    numpy.put_along_axis(tokens, windows[:, :-1, None].astype(numpy.int64), _WRITTEN, axis=2)
    return tokens, windows[:, -1:]
