"""The plain loop, for a submission that is an update rule and nothing else. Writing the loop out is as good a road."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.api import Batch, Hyperparameters
from harness.trial.optim.counts import Counts
from harness.trial.optim.schedules import warmup_cosine
from harness.trial.parameter_kinds import hidden_matrices_and_rest
from harness.trial.trial import Trial

StepKind = Literal["plain", "closure", "again", "graph"]
"""How a rule gets its gradients.

`plain`: they are there when it steps. `closure`: it gets a closure that makes them, as L-BFGS asks for. `again`: they
are there, and it gets a closure for others on the same batch, as SAM asks for. `graph`: as `plain`, and they can be
differentiated, as rules with Hessian products ask for.
"""


def train_loop(
    trial: Trial,
    optimizers: Optimizer | Sequence[Optimizer],
    schedules: LRScheduler | Sequence[LRScheduler] = (),
    *,
    label_smoothing: float = 0.0,
    step: StepKind = "plain",
    loss_of: Callable[[Batch], Tensor] | None = None,
    largest_norm: float | None = None,
    after_step: Callable[[], object] | None = None,
    next_batch: Callable[[], Batch] | None = None,
) -> None:
    """Train until the clock stops: draw a batch, backward, step every optimizer, then every schedule.

    `next_batch`: draws a batch by a sampler of your own (`trial.take`); None: the next of the shuffled ones.
    `loss_of`: a loss of your own, a scalar; None: the workload's. `largest_norm`: longer gradients, of all parameters
    together, are shortened to it.

    Names optimizers and schedules as resumable. Where closures are given, `trial.log` reports as `gradient_calls` how
    many gradients were made so far; a batch counts once, however many are made on it. `after_step` is called at the end
    of each step.
    """
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    schedules = [schedules] if isinstance(schedules, LRScheduler) else list(schedules)
    trial.resumable(**{f"optimizer{number}": optimizer for number, optimizer in enumerate(optimizers)})
    trial.resumable(**{f"schedule{number}": schedule for number, schedule in enumerate(schedules)})
    gives_closure = step in ("closure", "again")
    counts = Counts(trial) if gives_closure else None
    for batch in trial.batches() if next_batch is None else _drawn(trial, next_batch):

        def gradients() -> Tensor:
            if counts is not None:
                counts.add(gradient_calls=1)
            trial.model.zero_grad(set_to_none=True)
            # Called within this step alone.
            loss = trial.loss(batch, label_smoothing=label_smoothing) if loss_of is None else loss_of(batch)  # noqa: B023
            loss.backward(create_graph=step == "graph")
            if largest_norm is not None:
                torch.nn.utils.clip_grad_norm_(trial.model.parameters(), largest_norm)
            return loss

        # What a rule compares within a step, and takes gradients of, must be one function of the weights.
        with trial.pinned() if gives_closure else contextlib.nullcontext():
            if step != "closure":
                gradients()
            for optimizer in optimizers:
                if gives_closure:
                    # Not every rule allows gradients again before it calls.
                    optimizer.step(torch.enable_grad()(gradients))  # type: ignore[arg-type]
                else:
                    optimizer.step()
        for schedule in schedules:
            schedule.step()
        if step == "graph":
            # Gradients that hold their graph hold themselves.
            trial.model.zero_grad(set_to_none=True)
        if after_step is not None:
            after_step()


def _drawn(trial: Trial, next_batch: Callable[[], Batch]) -> Iterator[Batch]:
    while True:
        yield next_batch()
        trial.end_step()


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


def train_on_rewards(
    trial: Trial, hp: Hyperparameters, loss_of: Callable[[Batch], Tensor], *, largest_norm: float | None = None
) -> None:
    """Train with AdamW, under warm-up and cosine, on a loss of your own that asks for answers and their rewards.

    Where the workload has none, on the workload's loss without a limit to gradients, which the trial's log then says.
    Reads of `hp`: learning_rate, one_minus_beta1, beta2, weight_decay, warmup_fraction.
    """
    if not trial.has_rewards:
        print("nothing to reward: this model writes no answers, so it is trained by AdamW", flush=True)
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    train_loop(
        trial,
        optimizer,
        warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction),
        loss_of=loss_of if trial.has_rewards else None,
        largest_norm=largest_norm if trial.has_rewards else None,
    )
