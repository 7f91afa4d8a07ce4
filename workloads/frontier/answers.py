"""Splits whose best answers are known: what nobody trains on lies beside the held-out ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.api import Batch, TensorExamples


class WithAnswers(TensorExamples):
    """Examples with `answers`, which are given out beside them and do not count for the content hash.

    They follow from what is hashed, or from the seed that it was drawn from. None in a training split.
    Shapes: [n, ...] each.
    """

    def __init__(self, tensors: Mapping[str, Tensor], answers: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(tensors)
        self._answers = dict(answers or {})

    def gather(self, index: Tensor) -> Batch:
        """The rows at `index`, answers too."""
        beside = {name: values.index_select(0, index) for name, values in self._answers.items()}
        return {**super().gather(index), **beside}

    def to(self, device: torch.device) -> WithAnswers:
        """The same examples on another device."""
        tensors, answers = (
            {name: values.to(device) for name, values in each.items()} for each in (self.tensors(), self._answers)
        )
        return WithAnswers(tensors, answers)
