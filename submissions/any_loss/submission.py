"""AnyLoss: one minus a metric of the batch, made smooth, as the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import ConfigError, Hyperparameters, LossKind, Trial, warmup_cosine

METRICS = ("accuracy", "f1", "balanced_accuracy", "geometric_mean")


def confusion(probabilities: Tensor, labels: Tensor, weights: Tensor, *, amplification: float) -> Tensor:
    """True and false positives, false and true negatives of each column, where each answer is nearly 0 or 1.

    Shapes: [units, columns] each -> [4, columns]. Source: Han, Moniz, Chawla, arXiv 2405.14745, section 3.
    """
    answers = torch.sigmoid(amplification * (probabilities - 0.5))
    pairs = ((labels, answers), (1 - labels, answers), (labels, 1 - answers), (1 - labels, 1 - answers))
    return torch.stack([(weights * label * answer).sum(dim=0) for label, answer in pairs])


def metric_loss(counts: Tensor, metric: str) -> Tensor:
    """One minus `metric`, mean over the columns that have both labels; zero where none has. Shape: [4, columns]."""
    has_both = (counts[0] + counts[2] > 0) & (counts[1] + counts[3] > 0)
    true_positive, false_positive, false_negative, true_negative = counts[:, has_both]
    found = true_positive / (true_positive + false_negative)
    spared = true_negative / (true_negative + false_positive)
    if metric == "accuracy":
        values = (true_positive + true_negative) / counts[:, has_both].sum(dim=0)
    elif metric == "f1":
        values = 2 * true_positive / (2 * true_positive + false_negative + false_positive)
    elif metric == "balanced_accuracy":
        values = (found + spared) / 2
    else:
        # A root of zero has no slope.
        values = (found * spared).clamp_min(torch.finfo(found.dtype).tiny).sqrt()
    loss: Tensor = (1 - values).sum() / max(1, values.numel())
    return loss


def binary_answers(trial: Trial, batch: dict[str, Tensor], outputs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Probabilities of yes, labels and weights, each [units, columns]; None where labels are not yes and no.

    One column under a softmax over two classes, whose second is yes; one for each task under a sigmoid.
    """
    is_softmax = trial.loss_kind is LossKind.SOFTMAX_CROSS_ENTROPY
    if is_softmax and outputs.shape[-1] != 2:  # before codes are made, which a vocabulary has many of
        return None
    labels = trial.label_codes(batch, outputs=outputs)
    if labels is None:
        return None
    _, weights = trial.unit_losses(batch, outputs=outputs.detach())
    probabilities = outputs.sigmoid()
    if is_softmax:
        probabilities, labels = outputs.softmax(dim=-1)[..., 1], labels[..., 1]
    weights = torch.ones_like(probabilities) if weights is None else weights
    columns = 1 if is_softmax or outputs.ndim == 1 else outputs.shape[-1]
    return probabilities.reshape(-1, columns), labels.reshape(-1, columns), weights.reshape(-1, columns)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the metric's loss, after `own_loss_fraction` of the steps on the workload's; on that alone elsewhere."""
    if hp.metric not in METRICS:
        raise ConfigError(f"metric is {hp.metric!r}. Use one of {', '.join(METRICS)}.")
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        outputs = trial.outputs(batch)
        is_own = trial.step < hp.own_loss_fraction * trial.step_hint
        answers = None if is_own else binary_answers(trial, batch, outputs)
        if answers is None:
            return trial.loss(batch, outputs=outputs)
        counts = confusion(*answers, amplification=hp.amplification)
        # A metric of all ranks' examples: each adds what its own change of the counts would do to all.
        elsewhere = trial.all_reduce_mean(counts.detach()) - counts.detach()
        return metric_loss(trial.world_size * (counts + elsewhere), hp.metric)

    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        loss(batch).backward()
        optimizer.step()
        schedule.step()
