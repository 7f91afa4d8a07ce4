"""Training on the gradients of a loss's terms, for rules that project them off each other or weigh them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.trial.optim.schedules import warmup_cosine
from harness.trial.passes.modes import in_eval_mode
from harness.trial.trial import Trial


def train_on_terms(
    trial: Trial,
    optimizer: Optimizer,
    combined: Callable[[Tensor], Tensor],
    *,
    warmup_fraction: float,
    label_smoothing: float = 0.0,
) -> None:
    """Train until the clock stops on what `combined` makes of the gradients of all terms, in the order of the loss.

    Shapes: [terms, numbers], a row for each term over all parameters that are trained -> [numbers]. A loss of one term
    is trained as it is. A step takes one forward pass and a backward pass for each term, so a warm-up and cosine run
    out over as many steps as fit into the budget so. Names optimizer and schedule as resumable.
    """
    parameters: list[Tensor] = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in parameters]
    steps = max(1, round(trial.step_hint / step_cost(_count(trial))))
    schedule = warmup_cosine(optimizer, steps, warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        terms = list(trial.loss_terms(batch, label_smoothing=label_smoothing).values())
        optimizer.zero_grad(set_to_none=True)
        if len(terms) == 1:
            terms[0].backward()
        else:
            together = combined(trial.all_reduce_mean(_gradients(terms, parameters)))
            for parameter, part in zip(parameters, together.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter)
        optimizer.step()
        schedule.step()


def _count(trial: Trial) -> int:
    """How many terms the loss has, by a look at two examples that leaves no trace."""
    few = trial.train_set.gather(torch.arange(min(2, len(trial.train_set)), device=trial.device))
    with in_eval_mode(trial.model), torch.no_grad():
        return len(trial.loss_terms(few))


def step_cost(terms: int) -> float:
    """What a step on so many terms costs, in steps with one backward pass: each is about twice a forward pass."""
    return (1 + 2 * terms) / 3


def _gradients(terms: list[Tensor], parameters: list[Tensor]) -> Tensor:
    """A row for each term. What a term does not depend on has a gradient of zero."""
    rows = []
    for number, term in enumerate(terms, start=1):
        found = torch.autograd.grad(term, parameters, retain_graph=number < len(terms), materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)
