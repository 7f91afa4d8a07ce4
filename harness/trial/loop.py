"""The plain loop, for a submission that is an update rule and nothing else. Writing the loop out is as good a road."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.api import Hyperparameters
from harness.trial.parameter_kinds import hidden_matrices_and_rest
from harness.trial.schedules import warmup_cosine
from harness.trial.trial import Trial


def train_loop(
    trial: Trial,
    optimizers: Optimizer | Sequence[Optimizer],
    schedules: LRScheduler | Sequence[LRScheduler] = (),
    *,
    label_smoothing: float = 0.0,
    gives_closure: bool = False,
    after_step: Callable[[], object] | None = None,
) -> None:
    """Train until the clock stops: draw a batch, backward, step every optimizer, then every schedule.

    Names optimizers and schedules as resumable. `gives_closure`: step gets a closure that computes loss and gradients
    on the same batch, for rules that ask for them more than once a step. `after_step` is called at each step's end.
    """
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    schedules = [schedules] if isinstance(schedules, LRScheduler) else list(schedules)
    trial.resumable(**{f"optimizer{number}": optimizer for number, optimizer in enumerate(optimizers)})
    trial.resumable(**{f"schedule{number}": schedule for number, schedule in enumerate(schedules)})
    for batch in trial.batches():

        def gradients() -> Tensor:
            trial.model.zero_grad(set_to_none=True)
            loss = trial.loss(batch, label_smoothing=label_smoothing)  # noqa: B023 - called within this step alone
            loss.backward()
            return loss

        if gives_closure:
            for optimizer in optimizers:
                optimizer.step(gradients)  # type: ignore[arg-type]
        else:
            gradients()
            for optimizer in optimizers:
                optimizer.step()
        for schedule in schedules:
            schedule.step()
        if after_step is not None:
            after_step()


def train_matrices_and_rest(
    trial: Trial,
    hp: Hyperparameters,
    make: Callable[[list[nn.Parameter]], Optimizer],
    *,
    after_step: Callable[[], object] | None = None,
) -> None:
    """Train hidden matrices with the optimizer that `make` makes, the rest with AdamW, under one warm-up and cosine.

    Reads of `hp`: adam_learning_rate, adam_beta1, adam_beta2 and weight_decay of the rest; warmup_fraction;
    step_hint_factor, for rules whose steps cost more than the reference's; label_smoothing.
    """
    hidden, rest = hidden_matrices_and_rest(trial.model, trial.parameter_kinds)
    optimizers = [make(hidden)] if hidden else []
    if rest:
        betas = (hp.adam_beta1, hp.adam_beta2)
        optimizers.append(
            torch.optim.AdamW(
                rest, lr=hp.adam_learning_rate, betas=betas, eps=1e-10, weight_decay=hp.weight_decay, fused=True
            )
        )
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedules = [warmup_cosine(optimizer, steps, hp.warmup_fraction) for optimizer in optimizers]
    train_loop(trial, optimizers, schedules, label_smoothing=hp.label_smoothing, after_step=after_step)
