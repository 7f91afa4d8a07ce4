"""Drop-Muon: Muon that stops each backward pass at a layer drawn at random, and leaves what lies before it alone."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MatrixMomentum,
    Trial,
    orthogonalised,
    train_matrices_and_rest,
)


class DropMuon(MatrixMomentum):
    """M <- mu M + (1 - mu) g;  p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) NS(M), where there is a gradient.

    Source: Gruntkowska et al., arXiv 2510.02239, in its practical form: Muon without a look-ahead.
    """

    looks_ahead = False

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """Each orthogonalised."""
        return orthogonalised(matrices)


class Cutoffs:
    """Freezes the layers before one that is drawn, so that the next backward pass ends there.

    A layer is a module with a matrix and the modules without one that follow it, in the order in which the first
    backward pass reaches them, last first: what the model computes decides, not how it is written down. Embedding
    tables beside each other are one layer; weights that two modules share are never frozen. Of b layers, number i from
    the input is the first to move with a probability that goes as exp(shift ((1 - t) (b - 1 - i) + t i)), t the share
    of training that has passed. `shift` 0: all alike. Source: Gruntkowska et al., arXiv 2510.02239.
    """

    def __init__(self, model: nn.Module, *, shift: float, steps: int, generator: torch.Generator) -> None:
        self._shift = shift
        self._steps = steps
        self._generator = generator
        self._model = model
        self._reached: dict[Tensor, int] = {}
        self._hooks = [p.register_post_accumulate_grad_hook(self._reach) for p in model.parameters()]
        self.layers: list[list[Tensor]] = []
        """The parameters of each layer, that of the input first; known once a backward pass has ended."""

    def draw(self, step: int) -> int:
        """Freeze the layers before one drawn for the step after `step`, thaw all others; returns its number."""
        if not self.layers:
            for hook in self._hooks:
                hook.remove()
            self.layers = _layers(self._model, self._reached)
        first = int(torch.multinomial(self.probabilities(step), 1, generator=self._generator))
        for number, layer in enumerate(self.layers):
            for parameter in layer:
                parameter.requires_grad_(number >= first)
        return first

    def probabilities(self, step: int) -> Tensor:
        """How likely each layer is to be the first that moves. Shape: float64 [layers]."""
        passed = min(1.0, step / self._steps)
        index = torch.arange(len(self.layers), dtype=torch.float64)
        return torch.softmax(self._shift * ((1 - passed) * (len(self.layers) - 1 - index) + passed * index), dim=0)

    def _reach(self, parameter: Tensor) -> None:
        self._reached.setdefault(parameter, len(self._reached))


def _layers(model: nn.Module, reached: dict[Tensor, int]) -> list[list[Tensor]]:
    """Parameters by layer, from when a backward pass reached each."""
    owners = Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    found: list[tuple[int, bool, list[Tensor]]] = []
    for module in model.modules():
        own: list[Tensor] = [p for p in module.parameters(recurse=False) if p in reached and owners[p] == 1]
        if own:
            found.append((max(reached[p] for p in own), isinstance(module, nn.Embedding), own))
    layers: list[list[Tensor]] = []
    after_table = False
    for _, is_table, own in sorted(found, key=lambda module: -module[0]):
        # Vectors before the first matrix go with it.
        joins = not _has_matrix(own) or (layers and not _has_matrix(layers[-1])) or (is_table and after_table)
        if layers and joins:
            layers[-1].extend(own)
        else:
            layers.append(own)
        after_table = is_table
    # A model of vectors alone is one layer; one without parameters to freeze, too.
    return layers or [[]]


def _has_matrix(layer: list[Tensor]) -> bool:
    return any(parameter.ndim >= 2 for parameter in layer)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices by this rule, the rest by AdamW, both where the backward pass gets to."""
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    cutoffs = Cutoffs(trial.model, shift=hp.shift, steps=steps, generator=trial.generator)
    train_matrices_and_rest(
        trial,
        hp,
        lambda hidden: DropMuon(hidden, lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay),
        after_step=lambda: cutoffs.draw(trial.step + 1),
    )
