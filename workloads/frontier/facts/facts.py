"""Pairs of symbols that stand for each other: all are taught forward, some backward; the other way round is asked for.

The data, loss and metrics of facts_binding and facts_lm. Knows no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError, DataSource, Examples, LossKind, SplitName, TensorExamples, Workload

FORWARD, BACKWARD = 0, 1
RELATIONS = 2
_SEED_OF_DATA = 2309
_RECALLED = 1_000


class Facts(Workload):
    """Softmax cross-entropy of the answer to "a R ?" or "b S ?" over all symbols of all pairs.

    Of `facts` pairs (a, b), all are taught forward and the first `both_ways` backward too; of the others, half of the
    backward questions validate, half test. Metrics: `reverse_error`, the share of these that are answered wrongly, and
    `recall_error`, that of 1,000 taught questions, which lie beside each held-out split. A subclass says what network
    there is. Raises ConfigError where no pair, or an odd number, is left for held-out questions.
    """

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY

    def __init__(self, *, facts: int, both_ways: int) -> None:
        if not 0 <= both_ways < facts or (facts - both_ways) % 2:
            raise ConfigError(
                f"{both_ways} of {facts} facts are taught both ways. Leave an even number of them to be asked."
            )
        self.facts = facts
        self.both_ways = both_ways

    @property
    def symbols(self) -> int:
        """How many there are: two for each pair."""
        return 2 * self.facts

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, int64 [n, 2], subject and relation, and `targets`, int64 [n], the answer."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState(_SEED_OF_DATA)
        firsts = numpy.arange(self.facts)
        seconds = self.facts + stream.permutation(self.facts)
        forward = _questions(firsts, FORWARD, seconds)
        backward = _questions(seconds, BACKWARD, firsts)
        taught = numpy.concatenate([forward, backward[: self.both_ways]])
        taught = taught[stream.permutation(len(taught))]
        if split == "train":
            return Questions(_named(taught))
        half = (self.facts - self.both_ways) // 2
        is_validation = split == "validation"
        asked = backward[self.both_ways :][:half] if is_validation else backward[self.both_ways :][half:]
        return Questions(_named(asked), _named(taught[:_RECALLED] if is_validation else taught[-_RECALLED:]))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy in nats. Shapes: outputs float [batch, scored symbols], `targets` int64 [batch] -> [batch]."""
        return F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: true where another symbol has the largest score. Shape: [batch], bool."""
        return {"wrong": outputs.argmax(dim=1) != batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`reverse_error`: share of wrong answers to what was never asked in training."""
        return {"reverse_error": statistics["wrong"].double().mean().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`recall_error`: share of wrong answers to taught questions. A property of weights and training split."""
        assert isinstance(examples, Questions)
        assert examples.taught is not None
        wrong = self.statistics(self.outputs(model, examples.taught), examples.taught)["wrong"]
        return {"recall_error": wrong.double().mean().item()}


class Questions(TensorExamples):
    """Questions and answers; beside held-out ones `taught`, a batch of those of the training split.

    They follow from the data, so they do not count for the content hash.
    """

    def __init__(self, tensors: dict[str, Tensor], taught: Batch | None = None) -> None:
        super().__init__(tensors)
        self.taught = taught

    def to(self, device: torch.device) -> Questions:
        """The same questions on another device."""
        held = (
            {name: values.to(device) for name, values in each.items()} for each in (self.tensors(), self.taught or {})
        )
        tensors, taught = held
        return Questions(tensors, taught or None)


def _questions(subjects: numpy.ndarray, relation: int, answers: numpy.ndarray) -> numpy.ndarray:
    """Rows of subject, relation, answer. Shape: int64 [n, 3]."""
    return numpy.stack([subjects, numpy.full_like(subjects, relation), answers], axis=1).astype(numpy.int64)


def _named(rows: numpy.ndarray) -> dict[str, Tensor]:
    held = torch.from_numpy(rows.copy())
    return {"inputs": held[:, :2].contiguous(), "targets": held[:, 2].contiguous()}
