"""tpSGD: each hidden layer learns to put out a fixed random code of the label. No gradient crosses a layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters, LossKind, Trial, warmup_constant

LOCAL_LOSSES = ("squared", "absolute")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def local_loss(outputs: Tensor, targets: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """Half the squared, or the absolute, distance of a layer's outputs from their targets; mean over all of them.

    Its gradient is the rule, over the number of outputs: one rate then suits layers of all widths.
    Shapes: [*units, ...] each, weights of the units (None: all 1) [*units] -> []. Source: Lomnitz et al., arXiv
    2208.08503.
    """
    if kind not in LOCAL_LOSSES:
        raise ConfigError(f"local_loss is {kind!r}. Use one of {', '.join(LOCAL_LOSSES)}.")
    distance = outputs - targets
    losses = distance.square() / 2 if kind == "squared" else distance.abs()
    return losses.mean() if weights is None else (losses.reshape(*weights.shape, -1).mean(-1) * weights).mean()


class Projections:
    """Fixed random codes of each class for each layer, within the range of its outputs."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._codes: dict[str, Tensor] = {}

    @torch.no_grad()
    def targets(self, name: str, outputs: Tensor, labels: Tensor) -> Tensor:
        """What a layer should put out. Shapes: [*labels, ...], [*labels, classes] -> that of outputs."""
        features = outputs.reshape(*labels.shape[:-1], -1)
        if name not in self._codes:
            self._codes[name] = self._drawn(features, labels.shape[-1])
        return (labels.to(outputs.dtype) @ self._codes[name]).view_as(outputs)

    def _drawn(self, features: Tensor, classes: int) -> Tensor:
        """Uniform in [-1, 1]; in [0, 1] for features that are never negative, as behind a ReLU or a sigmoid."""
        codes = torch.rand(classes, features.shape[-1], generator=self._trial.generator).to(features) * 2 - 1
        is_negative = self._trial.all_reduce_mean((features < 0).to(features.dtype).mean())
        return codes if is_negative > 0 else codes.abs()

    def state_dict(self) -> dict[str, Tensor]:
        """The codes of each layer: [classes, features]."""
        return dict(self._codes)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        self._codes = dict(state)


def labelled_units(kind: LossKind, targets: Tensor) -> torch.Size | None:
    """Leading dimensions of what has a label of its own: examples, or the tokens of each; None where nothing has."""
    if kind is LossKind.SOFTMAX_CROSS_ENTROPY:
        return targets.shape
    return targets.shape[:1] if kind is LossKind.SIGMOID_CROSS_ENTROPY else None


def codes_of(trial: Trial, batch: dict[str, Tensor], outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What stands for the label of each unit, and how much the unit counts, 1 in the mean; None: no labels; all alike.

    Padding does not count, and of several labels of one example those that are unknown are in no code. Shapes: [*units,
    codes], [*units].
    """
    labels = trial.label_codes(batch, outputs=outputs)
    if labels is None:
        return None, None
    _, weights = trial.unit_losses(batch, outputs=outputs.detach())
    has_several = trial.loss_kind is LossKind.SIGMOID_CROSS_ENTROPY and labels.ndim > 1
    if has_several:
        return labels if weights is None else labels * weights, None
    codes = torch.stack([1 - labels, labels], dim=-1) if labels.ndim == 1 else labels
    return codes, None if weights is None else weights / trial.all_reduce_mean(weights.mean())


@contextlib.contextmanager
def separated(model: nn.Module, units: torch.Size | None) -> Iterator[list[tuple[str, Tensor]]]:
    """Inside, no gradient passes from a layer to those before it. Collects what layers get, with its graph, by name.

    What a layer gets is the output of the one before: after normalisation, activation, pooling. Where it does not have
    one row for each of the `units` that have a label (None: none has), it is let through with its gradient.
    """
    seen: list[tuple[str, Tensor]] = []

    def cut(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if units is None or not arguments:
                return None
            outputs, *rest = arguments
            if not outputs.requires_grad or outputs.shape[: len(units)] != units:
                return None
            seen.append((name, outputs))
            return outputs.detach(), *rest

        return hook

    handles = [
        module.register_forward_pre_hook(cut(name))
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def train(trial: Trial, hp: Hyperparameters) -> None:
    """SGD: hidden layers on local losses, the output layer on the workload's; all on that where there are no labels.

    No gradient crosses, so that the factor before a local loss is a rate, and nothing is traded against it.
    """
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate)
    schedule = warmup_constant(optimizer, trial.step_hint, 0.0, hp.decay_fraction)
    projections = Projections(trial)
    trial.resumable(optimizer=optimizer, schedule=schedule, projections=projections)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        with separated(trial.model, labelled_units(trial.loss_kind, batch["targets"])) as seen:
            outputs = trial.outputs(batch)
        loss = trial.loss(batch, outputs=outputs)
        codes, weights = codes_of(trial, batch, outputs)
        if codes is not None:
            for name, hidden in seen:
                distance = local_loss(hidden, projections.targets(name, hidden, codes), hp.local_loss, weights)
                loss = loss + hp.local_rate * distance
        loss.backward()
        optimizer.step()
        schedule.step()
