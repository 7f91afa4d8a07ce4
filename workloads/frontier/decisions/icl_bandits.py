"""Which of two arms is the better one, told by a transformer from records of pulls, and then pulled by what it says.

Trained as Lee et al. have it, "Supervised pretraining can learn in-context reinforcement learning", NeurIPS 2023, arXiv
2306.14892; the experts are those of T2MIR, see `routed`.
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
    SeveralTerms,
    SplitName,
    TensorExamples,
    Workload,
)
from workloads.frontier.decisions.arm_chooser import ARM, LENGTH, PULLS, RESULT, START, ArmChooser, Experts, counts
from workloads.frontier.decisions.bandits import best_values, posteriors
from workloads.frontier.decisions.routed import balance, contrast
from workloads.frontier.made import KnownExamples, as_float32

HISTORIES = 2
_SEED_OF_DATA = 2506
_HELD_OUT = 512
_BLOCK = 256


class Bandits(Workload):
    """Histories of two arms with even chances from 0 to 1, pulled at random, and which arm is the better one.

    Of each bandit there are two histories of nine pulls. The network answers before each pull; metric `regret`: how
    much less a pull wins than at best, where it pulls what it says by drawing from it. Beside it `value`, what a pull
    wins, and `excess`, the divergence (Kullback, Leibler) of what it says from what can be known, on random histories.
    `examples` bandits to learn from. See ArmChooser for the network; a subclass says what the loss is.
    """

    experts: ClassVar[Experts] = "none"
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart"})
    """Before the first pull all bandits look alike."""

    def __init__(self, *, examples: int, width: int, layers: int, heads: int, hidden: int) -> None:
        self.examples = examples
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`inputs`, int64 [n, 2, 19]: start, then arm and result of nine pulls; `targets`, the better arm.

        Held out beside it, for pulls of the network's own: `chances`, float32 [n, 2], and `luck` [n, 10, 2], even
        draws, the first of which decides what is pulled and the second whether it wins.
        """
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        chances = stream.random_sample((count, 2))
        arms = stream.randint(2, size=(count, HISTORIES, PULLS - 1))
        won = stream.random_sample(arms.shape) < numpy.take_along_axis(chances[:, None], arms, axis=2)
        tokens = numpy.full((count, HISTORIES, LENGTH), START)
        tokens[:, :, 1::2], tokens[:, :, 2::2] = ARM + arms, RESULT + won
        made = {
            "inputs": torch.from_numpy(tokens),
            "targets": torch.from_numpy(chances.argmax(axis=1)),
        }
        if split == "train":
            return TensorExamples(made)
        luck = stream.random_sample((count, PULLS, 2))
        second = posteriors(PULLS)[tuple(counts(made["inputs"]).unbind(-1))]
        return KnownExamples(
            {**made, "chances": as_float32(chances), "luck": as_float32(luck)},
            {"known": as_float32(numpy.stack([1 - second, second], axis=-1))},
        )

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 19] -> [batch, 10, 2], and of experts [batch, 19, experts]."""
        return ArmChooser(
            width=self.width, layers=self.layers, heads=self.heads, hidden=self.hidden, experts=self.experts
        )

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess`: divergence, mean over the answers of each bandit. Shape: [batch]."""
        said, known = _answers(outputs).log_softmax(dim=3), batch["known"]
        return {"excess": (known * (known.log() - said)).sum(dim=3).mean(dim=(1, 2))}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`, mean over all bandits, in nats."""
        return {"excess": statistics["excess"].double().mean().item()}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`regret` and `value` of a pull, where the network pulls ten times on each bandit.

        The regret is the sum of what each answer gives away of the best that is left: in the mean over all bandits it
        is the best value less `value`, of which the luck of the draws is no part. Source: Kakade, Langford,
        "Approximately optimal approximate reinforcement learning", ICML 2002, lemma 6.1.
        """
        assert isinstance(model, ArmChooser)
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        chances, luck = batch["chances"], batch["luck"]
        lost = as_float32(best_values(PULLS)[1]).to(chances.device)
        history = torch.full((len(chances), 1), START, device=chances.device)
        given_away, won = torch.zeros_like(chances), torch.zeros_like(chances)
        for pull in range(PULLS):
            said = model(history)[0][:, -1].softmax(dim=1)
            given_away += said * lost[tuple(counts(history)[:, -1].unbind(-1))]
            won += said * chances
            arm = (luck[:, pull, 0] < said[:, 1]).long()[:, None]
            result = (luck[:, pull, 1:] < chances.gather(1, arm)).long()
            history = torch.cat([history, ARM + arm, RESULT + result], dim=1)
        regret, value = (each.double().sum(dim=1).mean().item() / PULLS for each in (given_away, won))
        return {"regret": regret, "value": value}

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by one. A number more for each head would be an eighth."""
        return {"hidden": self.hidden + 1}


class IclBandits(Bandits):
    """Softmax cross-entropy of the better arm, at each place before a pull, in a plain transformer."""

    loss_kind: ClassVar[LossKind] = LossKind.SOFTMAX_CROSS_ENTROPY
    compiles = True

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of the arms. Shape: [batch, 2, 10, 2]."""
        scores, _ = model(batch["inputs"].flatten(0, 1))
        outputs: Tensor = scores.unflatten(0, (-1, HISTORIES))
        return outputs

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """Cross-entropy in nats. Shape: [batch, 2, 10]."""
        return surprise(outputs, batch["targets"], label_smoothing), None


class IclBanditsTokenExperts(SeveralTerms, Bandits):
    """The same with four feed-forward layers in the last block, of which each token goes through one.

    Terms: `prediction`, as of IclBandits; `balance`, which is least where all four are used alike.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    couples_examples: ClassVar[bool] = True
    experts: ClassVar[Experts] = "token"
    term_weights: ClassVar[Mapping[str, float]] = {"prediction": 1.0, "balance": 0.01}
    """Those of the paper's code."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of arms, and after them scores of experts, of both histories. Shape: [batch, 2, 20 + 76]."""
        answers, routes = model(batch["inputs"].flatten(0, 1))
        both = torch.cat([answers.flatten(1), routes.flatten(1)], dim=1)
        outputs: Tensor = both.unflatten(0, (-1, HISTORIES))
        return outputs

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`prediction` and `balance`. Shapes: [batch, 2, 10], [batch]."""
        answers, routes = _answers(outputs), _routes(outputs)
        return {
            "prediction": (surprise(answers, batch["targets"], label_smoothing), None),
            "balance": (balance(routes.flatten(1, 2)), None),
        }

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess` of each bandit, and all that the loss is made of."""
        return {**super().statistics(outputs, batch), "outputs": outputs, "targets": batch["targets"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`; `loss`, in blocks of 256 in the order of the split; `busiest_expert`, its share of the tokens."""
        blocks = zip(statistics["outputs"].split(_BLOCK), statistics["targets"].split(_BLOCK), strict=True)
        losses = [self.losses(outputs, {"targets": targets}, 0.0)[0] for outputs, targets in blocks]
        taken = _routes(statistics["outputs"]).argmax(dim=3).flatten().bincount()
        return {
            **super().metrics(statistics),
            "loss": torch.cat(losses).double().mean().item(),
            "busiest_expert": (taken.max() / taken.sum()).item(),
        }


class IclBanditsTaskExperts(IclBanditsTokenExperts):
    """The same where the layer is chosen by the history so far, and the term `contrast` comes to it.

    It is least where the router says the same of both histories of a bandit, and something else of other bandits.
    """

    experts: ClassVar[Experts] = "task"
    not_promised: ClassVar[frozenset[str]] = frozenset({"learns_one_batch_by_heart", "every_parameter_gets_a_gradient"})
    """Before the first pull all bandits look alike. So do short histories, which begin with two of the four experts."""
    term_weights: ClassVar[Mapping[str, float]] = {"prediction": 1.0, "balance": 0.01, "contrast": 0.001}
    """Those of the paper's code."""

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`prediction`, `balance` and `contrast`. Shapes: [batch, 2, 10], [batch], [batch]."""
        first, second = _routes(outputs)[:, :, -1].unbind(1)
        terms = super().loss_terms(outputs, batch, label_smoothing)
        return {**terms, "contrast": (contrast(first, second), None)}


def surprise(answers: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of the better arm. Shapes: [batch, 2, 10, 2], [batch] -> [batch, 2, 10]."""
    wanted = targets[:, None, None].expand(answers.shape[:3])
    flat = F.cross_entropy(answers.flatten(0, 2), wanted.flatten(), reduction="none", label_smoothing=label_smoothing)
    return flat.view(wanted.shape)


def _answers(outputs: Tensor) -> Tensor:
    """Scores of the arms, of outputs with scores of experts after them or without. Shape: [batch, 2, 10, 2]."""
    if outputs.ndim == 4:
        return outputs
    answers: Tensor = outputs[..., : 2 * PULLS].unflatten(2, (PULLS, 2))
    return answers


def _routes(outputs: Tensor) -> Tensor:
    """Scores of the experts. Shape: [batch, 2, 19, 4]."""
    routes: Tensor = outputs[..., 2 * PULLS :].unflatten(2, (LENGTH, -1))
    return routes
