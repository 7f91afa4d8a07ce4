"""A network that turns the gradient of one fact into a change of weights that teaches that fact and leaves the others.

After Mitchell, Lin, Bosselut, Finn, Manning, "Fast model editing at scale" (MEND), ICLR 2022, arXiv 2110.11309.
"""

from __future__ import annotations

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
    SeveralTerms,
    SplitName,
    TensorExamples,
)
from workloads.frontier.facts.facts_lm import FactsLm
from workloads.frontier.input_gradient import ordinary
from workloads.networks.adapters import freeze
from workloads.networks.decoder_transformer import Block, DecoderTransformer
from workloads.networks.stored_weights import take_weights

WEIGHTS = Path(__file__).parents[2] / "weights" / "facts_editor.npz"
FACTS, WIDTH, LAYERS = 2_000, 64, 2
OTHERS = 16
_SEED_OF_DATA = 2110
_EDITED: dict[SplitName, tuple[int, int]] = {"train": (0, 1_600), "validation": (1_600, 1_800), "test": (1_800, 2_000)}
_NEW_ANSWERS = 2
# Half of the best for gradients as they are: that is to be learned.
_INITIAL_RATE = 0.01


class FactsEditor(SeveralTerms):
    """Edits of facts that a frozen network knows: each gets another answer, and sixteen others keep theirs.

    Terms: `edit`, cross-entropy of the new answer after the edit; `others`, divergence (Kullback, Leibler) of the
    answers to sixteen other facts before and after. Metric `edit_error`, half the share of edits whose answer is not
    the likeliest plus half that of others whose likeliest answer is another one than before. Facts that are edited
    for validation and test are edited nowhere else. `hidden` of the two nets of the editor.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"edit": 1.0, "others": 1.0}
    not_promised: ClassVar[frozenset[str]] = frozenset({"one_output_layer"})
    """Each of two nets has one."""

    def __init__(self, *, hidden: int) -> None:
        self.hidden = hidden

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def weights(self) -> Path:
        """The network that knows the facts: `benchmarks/base_weights.py` trained it."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:
        """`inputs`, int64 [n, 17, 2], the question whose answer changes and sixteen others; `targets`, the new answer.

        Others of training are facts that are edited in training.
        """
        workload = facts_known()
        known = workload.load("train", folder).gather(torch.arange(FACTS))
        questions = workload.tokens(known["inputs"])
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        begin, end = _EDITED[split]
        edited = numpy.repeat(numpy.arange(begin, end), _NEW_ANSWERS)
        among = end if split == "train" else FACTS
        # Of all but the edited one: those behind it are numbered one less.
        others = stream.randint(among - 1, size=(len(edited), OTHERS))
        others += others >= edited[:, None]
        new = stream.randint(FACTS - 1, size=len(edited))
        new += new >= edited
        asked = numpy.concatenate([edited[:, None], others], axis=1)
        return TensorExamples(
            {"inputs": questions[torch.from_numpy(asked)], "targets": known["targets"][torch.from_numpy(new)]}
        )

    def build_model(self) -> nn.Module:
        """A new editor beside the frozen network. Shapes: int64 [batch, 17, 2], [batch] -> [batch, 2, 17, symbols].

        Raises DataError where the weights cannot be read.
        """
        return Editor(trained_base(), hidden=self.hidden)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of all answers after the edit and before it. Shape: [batch, 2, 17, symbols]."""
        outputs: Tensor = model(batch["inputs"], batch["targets"])
        return outputs

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`edit` and `others`. Shapes: [batch], [batch, 16]."""
        after, before = outputs[:, :, 1:].log_softmax(dim=3).unbind(1)
        edit = F.cross_entropy(outputs[:, 0, 0], batch["targets"], reduction="none", label_smoothing=label_smoothing)
        return {"edit": (edit, None), "others": ((before.exp() * (before - after)).sum(dim=2), None)}

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`failed` edits and `changed` others. Shapes: [batch], [batch, 16]."""
        after, before = outputs.argmax(dim=3).unbind(1)
        return {
            "failed": (after[:, 0] != batch["targets"]).float(),
            "changed": (after[:, 1:] != before[:, 1:]).float(),
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`edit_error`, the mean of `failed_edits` and `changed_others`."""
        failed, changed = (statistics[name].double().mean().item() for name in ("failed", "changed"))
        return {"edit_error": (failed + changed) / 2, "failed_edits": failed, "changed_others": changed}

    def resized(self) -> dict[str, Any]:
        """Nets wider by a thirty-second."""
        return {"hidden": self.hidden + max(1, self.hidden // 32)}


class Editor(nn.Module):
    """Of each narrowing matrix of a frozen network: W - rate * sum over the question's symbols of d u^T.

    u and d are what two nets make of the matrix's input and of the slope of the new answer's cross-entropy at its
    output, both scaled to a root mean square of 1 over the question. Both matrices have the same nets, and a rate each.
    Shapes: int64 [batch, questions, 2], [batch] -> [batch, 2, questions, symbols].
    """

    def __init__(self, base: DecoderTransformer, *, hidden: int) -> None:
        super().__init__()
        freeze(base)
        self.base = base
        self.inputs = _Skipped(WIDTH, hidden)
        self.slopes = _Skipped(WIDTH, hidden)
        self.log_rates = nn.Parameter(torch.full((LAYERS,), _INITIAL_RATE).log())
        self.parameter_kinds = {f"{name}.narrow.weight": ParameterKind.OUTPUT for name in ("inputs", "slopes")}

    def forward(self, questions: Tensor, answers: Tensor) -> Tensor:
        """Scores of all symbols after each question, with the edit by the first one, and without it."""
        inputs, slopes = self.gradient(questions[:, :1], answers)
        rates = self.log_rates.exp()[:, None, None, None]
        edit = self.inputs(_scaled(inputs)), -rates * self.slopes(_scaled(slopes))
        with torch.no_grad():
            before = self.scores(questions, None)
        return torch.stack([self.scores(questions, edit), before], dim=1)

    def gradient(self, questions: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the matrices and slopes at their outputs, of which the gradients are the products.

        Shapes: int64 [batch, 1, 2], [batch] -> [layers, batch, symbols of a question, 64] twice. Evaluations come in
        inference mode, in which nothing has a slope.
        """
        with torch.inference_mode(mode=False), torch.enable_grad():
            shape = (LAYERS, len(answers), questions.shape[2], WIDTH)
            added = torch.zeros(shape, device=questions.device, requires_grad=True)
            seen: list[Tensor] = []
            scores = self.scores(ordinary(questions), None, added=added, seen=seen)[:, 0]
            loss = F.cross_entropy(scores, ordinary(answers), reduction="sum")
            [slopes] = torch.autograd.grad(loss, added)
        return torch.stack(seen).squeeze(2).detach(), slopes

    def scores(
        self,
        questions: Tensor,
        edit: tuple[Tensor, Tensor] | None,
        *,
        added: Tensor | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """Scores after each question. `edit`: see `gradient`, of each example, for all of its questions.

        `added`: to the outputs of the matrices; `seen` takes their inputs. Shape: int64 [batch, questions, 2] ->
        [batch, questions, symbols].
        """
        rotations = self.base.get_buffer("rotations")
        hidden = self.base.embedding(questions)
        for layer, block in enumerate(self.base.blocks):
            assert isinstance(block, Block)
            mixed = block.attention(block.attention_norm(hidden).flatten(0, 1), rotations)
            hidden = hidden + mixed.view_as(hidden)
            inner = F.glu(block.widen(block.feed_forward_norm(hidden)))
            out = block.narrow(inner)
            if seen is not None:
                seen.append(inner)
            if added is not None:
                out = out + added[layer][:, None]
            if edit is not None:
                inputs, slopes = (each[layer] for each in edit)
                out = out + torch.einsum("bqsi,bti,bto->bqso", inner, inputs, slopes)
            hidden = hidden + out
        scores: Tensor = self.base.output(self.base.norm(hidden[:, :, -1]))
        return scores


class _Skipped(nn.Module):
    """A net whose input is added to its output, which begins at zero. Shapes: [..., width] -> the same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        added: Tensor = self.narrow(self.widen(vectors).relu())
        return vectors + added


def facts_known() -> FactsLm:
    """What the base was trained on: 2,000 facts, all of them forward."""
    return FactsLm(
        facts=FACTS,
        both_ways=0,
        width=WIDTH,
        layers=LAYERS,
        heads=4,
        hidden=WIDTH,
        rotary_base=10_000.0,
        tied=True,
    )


def trained_base() -> DecoderTransformer:
    """The network that knows the facts. Raises DataError where its weights cannot be read."""
    network = facts_known().build_model()
    assert isinstance(network, DecoderTransformer)
    take_weights(network, WEIGHTS)
    return network


def _scaled(vectors: Tensor) -> Tensor:
    """To a root mean square of 1 over a question. Shape: [layers, batch, symbols, 64] -> the same."""
    return vectors / (vectors.square().mean(dim=(2, 3), keepdim=True).sqrt() + torch.finfo(vectors.dtype).tiny)
