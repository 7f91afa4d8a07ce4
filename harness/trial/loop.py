"""The plain loop, for a submission that is an update rule and nothing else. Writing the loop out is as good a road."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

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
