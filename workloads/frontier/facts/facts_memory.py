"""An adapter that is made to take facts in by four steps of its own gradient: a memory that is written by descent.

After Chen, Romanou, Weiss, Bosselut, "PERK: long-context reasoning as parameter-efficient test-time learning", ICLR
2026, arXiv 2507.06415.
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
    ConfigError,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    SplitName,
    TensorExamples,
    Workload,
)
from workloads.frontier.facts.facts_lm import FactsLm
from workloads.frontier.input_gradient import ordinary
from workloads.networks.adapters import freeze
from workloads.networks.decoder_transformer import Block, DecoderTransformer
from workloads.networks.stored_weights import take_weights

WEIGHTS = Path(__file__).parents[2] / "weights" / "facts_memory.npz"
SYMBOLS, FACTS, STEPS = 64, 16, 4
_WIDTH = 64
_SEED_OF_DATA = 2507
_EPISODES: dict[SplitName, int] = {"train": 16_384, "validation": 512, "test": 512}
# At 1 a third more answers are wrong after 40 steps of Adam at 0.01, at 0.1 a fifth more.
_INITIAL_RATE = 0.3

Adapters = tuple[Tensor, ...]
"""Down and up of the widening layer, down and up of the narrowing one, of each episode: [batch, rows, columns]."""


class FactsMemory(Workload):
    """Softmax cross-entropy of the answers to sixteen facts, after four steps of descent on these same facts.

    Each episode has sixteen pairs of its own, of 64 symbols. Of a frozen network with one block, which knows other
    pairs, an adapter of `rank` takes them in; what is trained is where it begins, and the rates of its steps. The
    gradient goes back through the last `unrolled` of these steps, and past the others as if their slopes were fixed.
    Metric `memory_error`, the share of wrong answers. Raises ConfigError where `unrolled` is not from 0 to 4.
    """

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY
    not_promised: ClassVar[frozenset[str]] = frozenset(
        {"one_output_layer", "loss_of_a_guess", "learns_one_batch_by_heart"}
    )
    """The output layer is frozen, the frozen network knows other pairs, and where to begin is no place for facts."""

    def __init__(self, *, rank: int, unrolled: int) -> None:
        if not 0 <= unrolled <= STEPS:
            raise ConfigError(f"unrolled is {unrolled}. Use a number of steps from 0 to {STEPS}.")
        self.rank = rank
        self.unrolled = unrolled

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def weights(self) -> Path:
        """The frozen network: `benchmarks/base_weights.py` trained it."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, int64 [n, 16, 2], subjects and the relation; `targets`, int64 [n, 16], the answers."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        order = torch.from_numpy(stream.random_sample((_EPISODES[split], SYMBOLS)).argsort(axis=1))
        subjects = order[:, :FACTS]
        questions = torch.stack([subjects, torch.full_like(subjects, SYMBOLS)], dim=2)
        return TensorExamples({"inputs": questions, "targets": order[:, FACTS : 2 * FACTS].contiguous()})

    def build_model(self) -> nn.Module:
        """A new adapter beside the frozen network. Shapes: int64 [batch, 16, 2], [batch, 16] -> [batch, 16, symbols].

        Raises DataError where the weights cannot be read.
        """
        return Memory(trained_base(), rank=self.rank, unrolled=self.unrolled)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of the answers after the facts were taken in. Shape: [batch, 16, symbols]."""
        outputs: Tensor = model(batch["inputs"], batch["targets"])
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy in nats. Shape: [batch, 16]."""
        return _surprise(outputs, batch["targets"], label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`wrong`: where another symbol has the largest score. Shape: bool [batch, 16]."""
        return {"wrong": outputs.argmax(dim=2) != batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`memory_error`, share of wrong answers."""
        return {"memory_error": statistics["wrong"].double().mean().item()}

    def resized(self) -> dict[str, Any]:
        """A number more in the middle of the adapters."""
        return {"rank": self.rank + 1}


class Memory(nn.Module):
    """Adapters beside the feed-forward layers of a frozen block, which take four steps of descent for each episode.

    Each step has a rate for each of its four matrices. Shapes: int64 [batch, facts, 2], [batch, facts] -> [batch,
    facts, symbols].
    """

    def __init__(self, base: DecoderTransformer, *, rank: int, unrolled: int) -> None:
        super().__init__()
        [block] = base.blocks
        assert isinstance(block, Block)
        sizes = [(layer.in_features, layer.out_features) for layer in (block.widen, block.narrow)]
        freeze(base)
        self.base = base
        self.downs = nn.ParameterList(inputs**-0.5 * torch.randn(rank, inputs) for inputs, _ in sizes)
        self.ups = nn.ParameterList(torch.zeros(outputs, rank) for _, outputs in sizes)
        self.log_rates = nn.Parameter(torch.full((STEPS, 2 * len(sizes)), _INITIAL_RATE).log())
        self.parameter_kinds = {
            **{f"downs.{layer}": ParameterKind.ADAPTER_DOWN for layer in range(len(sizes))},
            **{f"ups.{layer}": ParameterKind.ADAPTER_UP for layer in range(len(sizes))},
        }
        self._unrolled = unrolled

    def forward(self, questions: Tensor, answers: Tensor) -> Tensor:
        """Scores after all steps."""
        read = self.read(questions)
        return self.scores(read, self.written(read, answers))

    def begun(self, count: int) -> Adapters:
        """The adapters that so many episodes begin with."""
        matrices = [self.downs[0], self.ups[0], self.downs[1], self.ups[1]]
        return tuple(matrix.expand(count, *matrix.shape) for matrix in matrices)

    def written(self, read: Tensor, answers: Tensor) -> Adapters:
        """The adapters after all steps. Evaluations come in inference mode, in which nothing has a slope."""
        is_trained = torch.is_grad_enabled()
        with torch.inference_mode(mode=False), torch.enable_grad():
            read, answers = ordinary(read), ordinary(answers)
            adapters = self.begun(len(read))
            for step in range(STEPS):
                is_unrolled = is_trained and step >= STEPS - self._unrolled
                # A leaf of its own where nothing goes back, so that no graph of the steps before is walked.
                places = adapters if is_unrolled else tuple(each.detach().requires_grad_() for each in adapters)
                loss = _surprise(self.scores(read, places), answers, 0.0).mean(dim=1).sum()
                slopes = torch.autograd.grad(loss, places, create_graph=is_unrolled)
                rates = self.log_rates[step].exp()
                adapters = tuple(each - rate * slope for each, rate, slope in zip(adapters, rates, slopes, strict=True))
        return adapters

    def read(self, questions: Tensor) -> Tensor:
        """What stands behind the attention at the relation, which no adapter moves. Shape: [batch, facts, width]."""
        [block] = self.base.blocks
        assert isinstance(block, Block)
        hidden = self.base.embedding(questions.flatten(0, 1))
        hidden = hidden + block.attention(block.attention_norm(hidden), self.base.get_buffer("rotations"))
        behind: Tensor = hidden[:, -1].unflatten(0, questions.shape[:2])
        return behind

    def scores(self, read: Tensor, adapters: Adapters) -> Tensor:
        """Scores of all symbols. Shape: [batch, facts, width] -> [batch, facts, symbols]."""
        [block] = self.base.blocks
        assert isinstance(block, Block)
        widen_down, widen_up, narrow_down, narrow_up = (each.mT for each in adapters)
        normed = block.feed_forward_norm(read)
        inner = F.glu(block.widen(normed) + normed @ widen_down @ widen_up)
        out = block.narrow(inner) + inner @ narrow_down @ narrow_up
        scores: Tensor = self.base.output(self.base.norm(read + out))
        return scores


def facts_known() -> FactsLm:
    """What the frozen network was trained on: all 64 symbols in 32 pairs."""
    return FactsLm(
        facts=SYMBOLS // 2,
        both_ways=0,
        width=_WIDTH,
        layers=1,
        heads=4,
        hidden=_WIDTH,
        rotary_base=10_000.0,
        tied=False,
    )


def trained_base() -> DecoderTransformer:
    """The frozen network. Raises DataError where its weights cannot be read."""
    network = facts_known().build_model()
    assert isinstance(network, DecoderTransformer)
    take_weights(network, WEIGHTS)
    return network


def _surprise(scores: Tensor, answers: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of each answer. Shapes: [batch, facts, symbols], [batch, facts] -> [batch, facts]."""
    flat = F.cross_entropy(scores.flatten(0, 1), answers.flatten(), reduction="none", label_smoothing=label_smoothing)
    return flat.view_as(answers)
