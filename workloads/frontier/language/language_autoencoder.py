"""A sparse autoencoder of what a frozen language model has in its middle, judged by what the model then still reads.

After Olmo et al., "Features that make a difference: leveraging gradients for improved dictionary learning" (g-SAE),
NAACL 2025, arXiv 2411.10397, and Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError, DataSource, Examples, SplitName, TensorExamples
from workloads.adapter_english import WEIGHTS
from workloads.frontier.language.activations import (
    LEVELS,
    SLOPE_LEVELS,
    WIDTH,
    WINDOW,
    ActivationFile,
    frozen_base,
    second_half,
)
from workloads.losses.regression import Regression

Selection = Literal["magnitude", "gradient"]
_SCALE = 2.0
"""Activations are given out over this, which makes their deviation from the mean about 1; exact in binary."""


class LanguageAutoencoder(Regression):
    """Squared error of activations, from their mean, that `kept` of `latents` numbers are to say again.

    `selection`: which are kept, the largest (`magnitude`), or those that the model's loss hangs on most (`gradient`).
    Metric `loss_recovered_error`: what the model loses where it goes on with the answers in the place of its own
    activations, over what it loses with zeros. Beside it `error_by_magnitude`, the same where the largest are kept,
    `fit_error`, the share of the variance that is missed, and `dead_latents`, of those that are kept nowhere. Raises
    ConfigError for another selection.
    """

    compiles = True

    def __init__(self, *, latents: int, kept: int, selection: Selection) -> None:
        if selection not in get_args(Selection):
            raise ConfigError(f"selection is {selection!r}. Use one of {', '.join(get_args(Selection))}.")
        self.latents = latents
        self.kept = kept
        self.selection = selection

    def sources(self) -> list[DataSource]:
        """One file, which is made on this machine."""
        return [ActivationFile()]

    def weights(self) -> Path:
        """The frozen model, in whose middle activations are judged."""
        return WEIGHTS

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Positions, window by window. Raises DataError where the file is missing or cut short."""
        file = ActivationFile()
        rows = file.read(split, folder)
        # Of whole numbers, so that it is the same everywhere.
        mean = numpy.rint(file.read("train", folder)[:, :WIDTH].mean(axis=0, dtype=numpy.float64))
        tensors = {"levels": torch.from_numpy(rows[:, : 2 * WIDTH].astype(numpy.int16))}
        if split != "train":
            tensors["symbols"] = torch.from_numpy(rows[:, 2 * WIDTH].astype(numpy.int64))
        return Positions(tensors, torch.from_numpy(mean.astype(numpy.float32)))

    def build_model(self) -> nn.Module:
        """A new network. Shapes: activations and slopes [batch, 128] -> [batch, 128]."""
        return SparseAutoencoder(
            width=WIDTH, latents=self.latents, kept=self.kept, by_gradient=self.selection == "gradient"
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Activations that are said again. Shape: [batch, 128]."""
        outputs: Tensor = model(batch["inputs"], batch["slopes"])
        return outputs

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared error, and square, of each activation. Shapes: [batch]."""
        return {
            "missed": (outputs - batch["targets"]).square().sum(dim=1),
            "there": batch["targets"].square().sum(dim=1),
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`fit_error`, share of the variance."""
        missed, there = (statistics[name].double().sum().item() for name in ("missed", "there"))
        return {"fit_error": missed / there}

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`loss_recovered_error`, `error_by_magnitude` and `dead_latents`."""
        assert isinstance(model, SparseAutoencoder)
        assert isinstance(examples, Positions)
        batch = examples.gather(torch.arange(len(examples), device=examples.device))
        latents = model.latents(batch["inputs"])
        chosen = model.chosen(latents, batch["slopes"])
        error = examples.error_with(model.decoded(model.only(latents, chosen)))
        by_magnitude = error
        if self.selection != "magnitude":
            by_magnitude = examples.error_with(model.decoded(model.only(latents, model.largest(latents))))
        kept = torch.zeros(self.latents, dtype=torch.bool, device=chosen.device)
        kept[chosen[latents.gather(1, chosen) > 0]] = True
        return {
            "loss_recovered_error": error,
            "error_by_magnitude": by_magnitude,
            "dead_latents": 1 - kept.double().mean().item(),
        }

    def resized(self) -> dict[str, Any]:
        """More latents by a thirty-second."""
        return {"latents": self.latents + self.latents // 32}


class Positions(TensorExamples):
    """Activations and slopes as whole numbers, int16 [n, 256], and `symbols`, the next ones, where they are held out.

    `mean`: of the activations of the training split, in the same levels, float32 [128].
    """

    def __init__(self, tensors: dict[str, Tensor], mean: Tensor) -> None:
        super().__init__(tensors)
        self._mean = mean
        self._bounds: tuple[float, float] | None = None

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, which are also `targets`, and `slopes` of the loss along them, both float32 [batch, 128]."""
        levels, slopes = super().gather(index)["levels"].float().split(WIDTH, dim=1)
        inputs = (levels - self._mean) / (LEVELS * _SCALE)
        return {"inputs": inputs, "targets": inputs, "slopes": slopes * (_SCALE / SLOPE_LEVELS)}

    def to(self, device: torch.device) -> Positions:
        """The same positions on another device."""
        return Positions({name: values.to(device) for name, values in self.tensors().items()}, self._mean.to(device))

    def error_with(self, inputs: Tensor) -> float:
        """What the frozen model loses by these activations, over what it loses by zeros.

        Shape: [n, 128], of all positions of a held-out split.
        """
        if self._bounds is None:
            # The same for all networks that are judged.
            own = self.gather(torch.arange(len(self), device=self.device))["inputs"]
            self._bounds = self.loss_with(own), self.loss_with(None)
        best, worst = self._bounds
        return (self.loss_with(inputs) - best) / (worst - best)

    def loss_with(self, inputs: Tensor | None) -> float:
        """Nats per character of the frozen model, with these in the place of its activations; None: with zeros.

        Shape: [n, 128], of all positions of a held-out split.
        """
        symbols = self.tensors()["symbols"]
        if inputs is None:
            hidden = torch.zeros(len(symbols), WIDTH, device=symbols.device)
        else:
            hidden = inputs * _SCALE + self._mean / LEVELS
        scores = second_half(frozen_base(symbols.device), hidden.unflatten(0, (-1, WINDOW)))
        return F.cross_entropy(scores.flatten(0, 1), symbols).item()


class SparseAutoencoder(nn.Module):
    """The `kept` largest of relu(E (x - b) + c), added up as that many columns of length 1, plus b.

    `by_gradient`: not the largest are kept but those whose product with the slope along their column is.
    Shapes: x and slopes [batch, width] -> [batch, width]. E begins as the transposed columns.
    """

    def __init__(self, *, width: int, latents: int, kept: int, by_gradient: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, latents)
        self.decoder = nn.Linear(latents, width)
        self._kept = kept
        self._by_gradient = by_gradient
        with torch.no_grad():
            nn.init.normal_(self.decoder.weight)
            self.decoder.weight.copy_(F.normalize(self.decoder.weight, dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)
            nn.init.zeros_(self.encoder.bias)
            nn.init.zeros_(self.decoder.bias)

    def forward(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """The inputs as few columns say them again."""
        latents = self.latents(inputs)
        return self.decoded(self.only(latents, self.chosen(latents, slopes)))

    def latents(self, inputs: Tensor) -> Tensor:
        """All latents. Shape: [batch, width] -> [batch, latents]."""
        latents: Tensor = self.encoder(inputs - self.decoder.bias)
        return latents.relu()

    def chosen(self, latents: Tensor, slopes: Tensor) -> Tensor:
        """Places of those that are kept. Shapes: [batch, latents], [batch, width] -> int64 [batch, kept]."""
        if not self._by_gradient:
            return self.largest(latents)
        with torch.no_grad():
            return self.largest(latents * (slopes @ self.columns()).abs())

    def largest(self, latents: Tensor) -> Tensor:
        """Places of the largest. Shape: [batch, latents] -> int64 [batch, kept]."""
        return latents.detach().topk(self._kept, dim=1).indices

    def only(self, latents: Tensor, places: Tensor) -> Tensor:
        """The latents at these places, and zeros. Shapes: [batch, latents], int64 [batch, kept] -> [batch, latents]."""
        return torch.zeros_like(latents).scatter(1, places, latents.gather(1, places))

    def decoded(self, latents: Tensor) -> Tensor:
        """What the latents say. Shape: [batch, latents] -> [batch, width]."""
        return F.linear(latents, self.columns(), self.decoder.bias)

    def columns(self) -> Tensor:
        """What a latent of 1 adds. Shape: [width, latents]."""
        return F.normalize(self.decoder.weight, dim=0)
