"""A small transformer that learns facts by heart, symbol by symbol, and cannot turn them round.

After Berglund et al., "The reversal curse: LLMs trained on 'A is B' fail to learn 'B is A'", ICLR 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.api import Batch, Renamed, Symmetry
from workloads.frontier.facts.facts import RELATIONS, Facts
from workloads.models.decoder_lm import DecoderOnSymbols

_QUESTION = 2  # symbols: the subject and the relation


class FactsLm(DecoderOnSymbols, Facts):
    """Facts, a question as two symbols, under a DecoderTransformer; see there for the sizes.

    Relations are two symbols more, after those of the pairs. The score after the relation is the answer's.
    """

    def __init__(
        self,
        *,
        facts: int,
        both_ways: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        rotary_base: float,
        tied: bool,
    ) -> None:
        Facts.__init__(self, facts=facts, both_ways=both_ways)
        DecoderOnSymbols.__init__(
            self,
            vocabulary=self.symbols + RELATIONS,
            context=_QUESTION,
            width=width,
            layers=layers,
            heads=heads,
            hidden=hidden,
            rotary_base=rotary_base,
            tied=tied,
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of the answer. Shape: [batch, symbols and relations]."""
        scores: Tensor = model(self.tokens(batch["inputs"]))
        return scores[:, -1]

    def tokens(self, questions: Tensor) -> Tensor:
        """Questions as the network reads them. Shape: int64 [batch, 2] -> the same."""
        subjects, relations = questions.split(1, dim=1)
        return torch.cat([subjects, self.symbols + relations], dim=1)

    def symmetries(self) -> list[Symmetry]:
        """Symbols under other numbers."""
        rows = ["embedding.weight"] if self.tied else ["embedding.weight", "output.weight"]
        return [Renamed({"inputs": 0, "targets": None}, [(0, self.symbols)], rows=rows)]
