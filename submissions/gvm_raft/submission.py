"""GVM-RAFT: right answers of the model itself are learned, and examples get as many tries as lower the noise most."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import Counts, Hyperparameters, Trial, train_on_rewards

# A reward that is a sum of shares may be rounded.
RIGHT = 1 - 1e-6


def worth(steepness: Tensor, accepted: Tensor, *, alpha: float, beta: float) -> Tensor:
    """What a try at each example lowers the variance by: G / sqrt(p + alpha / p^(beta - 1)); 0 where p is.

    `steepness`: mean length G of the gradients of its accepted answers; `accepted`: their share p. alpha = 0 is the
    theory without a penalty on hopeless examples. Shapes: [batch] each. Source: Yao et al., arXiv 2505.02391.
    """
    share = accepted.clamp_min(torch.finfo(accepted.dtype).tiny)
    return torch.where(accepted > 0, steepness / (share + alpha / share ** (beta - 1)).sqrt(), 0.0)


def shared_out(budget: int, worth: Tensor) -> Tensor:
    """Whole numbers of tries in proportion to `worth`, which sum up to `budget`; evenly where nothing is worth any.

    What rounding down leaves goes to the largest remainders. Shapes: [batch] -> int64 [batch].
    """
    weights = worth.double() if bool(worth.sum() > 0) else torch.ones_like(worth, dtype=torch.float64)
    exact = budget * weights / weights.sum()
    tries = exact.floor().long()
    # Sorted by remainder; of equal ones the first in the batch.
    order = (exact - tries).argsort(descending=True, stable=True)
    tries[order[: budget - int(tries.sum())]] += 1
    return tries


def lengths_of_gradients(trial: Trial, rows: dict[str, Tensor], answers: Tensor) -> Tensor:
    """Length, for each example, of the gradient of -log p of its answer in the rows that are looked up of embeddings.

    All from one backward pass: a row's gradient is the sum over the places where its symbol stands. Ones where the
    model looks nothing up. Shapes: [n, ...], int64 [n, length] -> [n].
    """
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and inputs[0].ndim > 1 and len(inputs[0]) % len(answers) == 0:
            calls.setdefault(module, []).append((inputs[0], output))

    handles = [each.register_forward_hook(keep) for each in trial.model.modules() if isinstance(each, nn.Embedding)]
    try:
        with trial.pinned(), torch.enable_grad():
            said = trial.log_probabilities(rows, answers[:, None]).sum()
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        return torch.ones(len(answers), device=answers.device)
    outputs = [output for each in calls.values() for _, output in each]
    slopes = iter(torch.autograd.grad(said, outputs))
    squares = torch.zeros(len(answers), device=answers.device)
    for each in calls.values():
        symbols = torch.cat([ids.reshape(len(answers), -1) for ids, _ in each], dim=1)
        slope = torch.cat([next(slopes).reshape(len(answers), -1, output.shape[-1]) for _, output in each], dim=1)
        is_same = symbols[:, :, None] == symbols[:, None, :]
        squares += (slope @ slope.transpose(1, 2) * is_same).sum(dim=(1, 2))
    return squares.clamp_min(0.0).sqrt()


def rows_at(batch: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Examples of a batch by their numbers, as often as these come. Shape of `index`: int64 [n]."""
    return {name: values[index] for name, values in batch.items()}


def tries_of(trial: Trial, batch: dict[str, Tensor], hp: Hyperparameters) -> tuple[Tensor, int]:
    """How often each example is to be tried, `tries` times in the mean; and how many answers were drawn to see that."""
    answers = trial.sample(batch, hp.first_tries)
    is_right = trial.rewards(batch, answers) >= RIGHT
    accepted = is_right.float().mean(dim=1)
    steepness = torch.zeros_like(accepted)
    at, number = is_right.nonzero(as_tuple=True)
    if len(at):
        lengths = lengths_of_gradients(trial, rows_at(batch, at), answers[at, number])
        steepness = steepness.index_add(0, at, lengths) / is_right.sum(dim=1).clamp_min(1)
    weights = worth(steepness, accepted, alpha=hp.alpha, beta=hp.beta)
    return shared_out(hp.tries * len(accepted), weights), answers[..., 0].numel()


def accepted_loss(trial: Trial, batch: dict[str, Tensor], answers: Tensor, at: Tensor) -> tuple[Tensor, int]:
    """-log p of the right ones among the answers, mean of each example, mean over the examples; and how many these are.

    Zero where there is none. Shapes: int64 [n, length]; `at`, the example of each: int64 [n].
    """
    is_right = trial.rewards(rows_at(batch, at), answers[:, None])[:, 0] >= RIGHT
    counts = torch.bincount(at[is_right])
    kept = is_right.nonzero()[:, 0] if bool(is_right.any()) else torch.zeros(1, dtype=torch.int64, device=at.device)
    said = trial.log_probabilities(rows_at(batch, at[kept]), answers[kept][:, None]).sum(dim=(1, 2))
    weights = is_right[kept] / counts[at[kept]] if len(counts) else torch.zeros_like(said)
    return -(weights * said).sum() / max(1, int((counts > 0).sum())), int(is_right.sum())


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on demonstrations, then on right answers of the model's own; on the workload's loss without rewards."""
    counts = Counts(trial)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        if trial.step < hp.demonstrations_fraction * trial.step_hint:
            shown = trial.demonstrations(batch)[:, None]
            counts.add(demonstrations=len(shown))
            return -trial.log_probabilities(batch, shown).sum(dim=2).mean()
        tries, looks = tries_of(trial, batch, hp)
        at = torch.arange(len(tries), device=tries.device).repeat_interleave(tries)
        answers = trial.sample(rows_at(batch, at), 1)[:, 0]
        found, accepted = accepted_loss(trial, batch, answers, at)
        counts.add(answers=looks + len(answers), accepted=accepted)
        return found

    train_on_rewards(trial, hp, loss, largest_norm=hp.largest_norm)
