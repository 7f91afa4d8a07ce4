"""Problems that are learned in a second, to try submissions on: what networks are made of, never ranked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    Policy,
    SplitName,
    TensorExamples,
    Workload,
)

_EXAMPLES: Mapping[SplitName, tuple[int, int]] = {"train": (512, 0), "validation": (256, 1), "test": (256, 2)}
"""Number of examples and seed of each split."""


class TinyClassification(Workload):
    """Cross entropy on examples that are drawn, and read from no file; the metric is the loss."""

    loss_kind = LossKind.SOFTMAX_CROSS_ENTROPY

    def sources(self) -> list[DataSource]:
        """None."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - it is drawn, whatever the folder
        """512 examples to train on, 256 of each other split."""
        count, seed = _EXAMPLES[split]
        return TensorExamples(self.drawn(count, torch.Generator().manual_seed(seed)))

    @abstractmethod
    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """That many examples."""

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        """Cross entropy of each target; `weights` says which count. Shapes: targets [batch, ...], outputs one more."""
        targets = batch["targets"]
        losses = F.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return losses.view_as(targets), batch.get("weights")

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sum of the losses that count, and how many do, of each example."""
        losses, weights = self.losses(outputs, batch, 0.0)
        counted = torch.ones_like(losses) if weights is None else weights
        return {"sums": (losses * counted).view(len(losses), -1).sum(1), "counts": counted.view(len(losses), -1).sum(1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Their mean."""
        return {"loss": float(statistics["sums"].sum() / statistics["counts"].sum())}


class Stripes(TinyClassification):
    """Tells 8x8 images with horizontal stripes from vertical ones: a convolution with batch norm, two linear layers."""

    has_open_division = True

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Stripes under noise of one and a half times their height."""
        targets = torch.arange(count) % 2
        stripes = (torch.arange(8) % 2 * 2.0 - 1.0).expand(8, 8)
        images = torch.where(targets[:, None, None] == 0, stripes, stripes.T)
        images = images + 1.5 * torch.randn(count, 8, 8, generator=generator)
        return {"inputs": images.unsqueeze(1), "targets": targets}

    def build_model(self) -> nn.Module:
        """About 1,300 parameters."""
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 12),
            nn.ReLU(),
            nn.Linear(12, 2),
        )


class ResidualStripes(Stripes):
    """The same, with a residual branch before the last layer."""

    def build_model(self) -> nn.Module:
        """About 1,500 parameters."""
        *layers, last = super().build_model().children()
        return nn.Sequential(*layers, _SilentBranch(12), last)


class _SilentBranch(nn.Module):
    """Adds what starts at zero, as blocks of residual networks do: no gradient reaches its matrix on the first step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape: [batch, width] -> the same."""
        added: Tensor = self.norm(self.inner(inputs))
        return inputs + added


class Successors(TinyClassification):
    """Says of each symbol of a sequence which one follows: embedding tied to the output, attention, masked padding."""

    SYMBOLS, LENGTH = 24, 8

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Sequences of three symbols or more, and padding, whose targets are wrong: they must not count."""
        symbols = torch.randint(1, self.SYMBOLS, (count, self.LENGTH), generator=generator)
        lengths = torch.randint(3, self.LENGTH + 1, (count, 1), generator=generator)
        counts = torch.arange(self.LENGTH) < lengths
        targets = torch.where(counts, symbols % (self.SYMBOLS - 1) + 1, 0)
        return {"inputs": symbols * counts, "targets": targets, "weights": counts.float()}

    def build_model(self) -> nn.Module:
        """About 6,000 parameters."""
        return _TiedAttention(self.SYMBOLS, width=32)


class _TiedAttention(nn.Module):
    def __init__(self, symbols: int, *, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width, padding_idx=0)
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, symbols, bias=False)
        self.output.weight = self.embedding.weight
        self.scale = width**-0.5
        with torch.no_grad():
            self.embedding.weight.mul_(self.scale)

    def forward(self, symbols: Tensor) -> Tensor:
        embedded = self.embedding(symbols)
        seen, _ = self.attention(embedded, embedded, embedded, key_padding_mask=symbols == 0, need_weights=False)
        mixed = self.norm(embedded + seen)
        # A symbol's own logit is 1 at the start: more would be a start that plain gradient descent diverges from.
        outputs: Tensor = self.scale * self.output(mixed + torch.relu(self.hidden(mixed)))
        return outputs


class Vectors(TinyClassification):
    """Three classes from twelve numbers, each scaled and shifted: a model of vectors and a single number alone."""

    has_open_division = True

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Four numbers of each class are higher where it is the one."""
        targets = torch.arange(count) % 3
        inputs = torch.randn(count, 12, generator=generator)
        return {"inputs": inputs + 1.5 * (torch.arange(12) // 4 == targets[:, None]), "targets": targets}

    def build_model(self) -> nn.Module:
        """49 parameters."""
        return _ScaledAndShifted()


class _ScaledAndShifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.scale = nn.Parameter(0.1 * torch.randn(12))
        self.shift = nn.Parameter(torch.zeros(12))
        # Of no dimension, as learned temperatures are: how much likelier the first class is.
        self.prior = nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = (self.norm(inputs) * self.scale + self.shift).view(-1, 3, 4).sum(2)
        return outputs + F.pad(self.prior.view(1), (0, 2))


class AdaptedStripes(Stripes):
    """The same stripes, in two domains of which one is small, for frozen layers with adapters and an output layer."""

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One example of seven is in the second group."""
        return {**super().drawn(count, generator), "groups": (torch.arange(count) % 7 == 0).long()}

    def domains(self, examples: Examples) -> Tensor:
        """The groups."""
        return examples.tensors()["groups"]

    def build_model(self) -> nn.Module:
        """About 500 parameters."""
        return nn.Sequential(
            nn.Flatten(), _Adapted(64, 16), nn.ReLU(), _Adapted(16, 16), nn.ReLU(), _Adapted(16, 16), nn.Linear(16, 2)
        )


class _Adapted(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, rank: int = 4) -> None:
        super().__init__()
        # What a trainer must not change is in no state, so it has to be the same wherever it is made.
        frozen = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs)) * inputs**-0.5
        self.register_buffer("frozen", frozen, persistent=False)
        self.down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.parameter_kinds = {"down": ParameterKind.ADAPTER_DOWN, "up": ParameterKind.ADAPTER_UP}

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.get_buffer("frozen").T + inputs @ self.down.T @ self.up.T


class StripeStream(Stripes):
    """Narrow stripes in the first half of the training, wide ones in the second, with two outputs for either."""

    stages = 2
    has_open_division = False

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The stages lie mixed."""
        examples = super().drawn(count, generator)
        stages = torch.arange(count) // 2 % self.stages
        wide = (torch.arange(8) // 2 % 2 * 2.0 - 1.0).expand(8, 8)
        narrow = (torch.arange(8) % 2 * 2.0 - 1.0).expand(8, 8)
        change = torch.where(examples["targets"][:, None, None] == 0, wide - narrow, (wide - narrow).T)
        images = examples["inputs"] + (change * stages[:, None, None]).unsqueeze(1)
        return {**examples, "inputs": images, "stages": stages}

    def build_model(self) -> nn.Module:
        """About 1,300 parameters."""
        *layers, _ = super().build_model().children()
        return nn.Sequential(*layers, nn.Linear(12, 2 * self.stages))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Those of each example's own stage. Shape: [batch, 2]."""
        outputs: Tensor = model(batch["inputs"])
        return outputs.view(-1, self.stages, 2)[torch.arange(len(outputs)), batch["stages"]]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Also whether each example is wrong, and of which stage it is."""
        wrong = (outputs.argmax(dim=1) != batch["targets"]).float()
        return {**super().statistics(outputs, batch), "wrong": wrong, "stages": batch["stages"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Also the shares of wrong examples, by stage."""
        wrong, stages = statistics["wrong"], statistics["stages"]
        shares = {name: float(wrong[stages == stage].mean()) for stage, name in enumerate(self.stage_metrics())}
        return {**super().metrics(statistics), **shares}


class RewardedSuccessors(Successors, Policy):
    """The same symbols as an answer to each sequence: each is drawn by itself, and each right one is as good."""

    def policy(self) -> Policy:
        """Itself."""
        return self

    def sample(self, model: nn.Module, batch: Batch, *, count: int, generator: torch.Generator | None) -> Tensor:
        """Symbols. Shape: int64 [batch, count, length]."""
        chances = self._log_chances(model, batch).exp().flatten(0, 1)
        chances = chances if generator is None else chances.to(generator.device)
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
        answers: Tensor = drawn.unflatten(0, (-1, self.LENGTH)).transpose(1, 2)
        return answers.to(batch["inputs"].device)

    def likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """The likeliest symbols. Shape: int64 [batch, length]."""
        return self._log_chances(model, batch).argmax(dim=2)

    def log_probabilities(self, model: nn.Module, batch: Batch, answers: Tensor) -> Tensor:
        """Zero where there is padding. Shapes: int64 [batch, count, length] -> float, alike."""
        chances = self._log_chances(model, batch)[:, None].expand(-1, answers.shape[1], -1, -1)
        return chances.gather(3, answers[..., None]).squeeze(3) * batch["weights"][:, None]

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """The share that each right symbol is of all. Shapes: int64 [batch, count, length] -> float, alike."""
        counted = batch["weights"] / batch["weights"].sum(dim=1, keepdim=True)
        return (answers == batch["targets"][:, None]) * counted[:, None]

    def demonstrations(self, batch: Batch) -> Tensor:
        """The symbols that follow. Shape: int64 [batch, length]."""
        return batch["targets"]

    def _log_chances(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.outputs(model, batch).log_softmax(dim=2)


PROBLEMS: Mapping[str, type[TinyClassification]] = {
    "batch_norm": ResidualStripes,
    "masked_and_tied": Successors,
    "one_dimensional": Vectors,
}
"""By what a submission meets in them."""

SOUGHT: Mapping[str, type[TinyClassification]] = {
    "adapters_and_domains": AdaptedStripes,
    "stream": StripeStream,
    "rewards": RewardedSuccessors,
}
"""By what some methods look for and few workloads have: for submissions with hyperparameters that say nothing else."""
