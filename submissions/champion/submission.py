"""NAdamW, and what made it faster here: each part has a hyperparameter that turns it off, down to plain NAdamW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from math import prod, sqrt
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness import (
    AveragedWeights,
    ConfigError,
    Hyperparameters,
    MatrixMomentum,
    MultiTensorOptimizer,
    ParameterKind,
    Trial,
    adam_scale,
    collected,
    corrections,
    divided,
    hidden_matrices_and_rest,
    move_moments,
    orthogonalised,
    train_loop,
    warmup_cosine,
    warmup_linear,
    zeros_like,
)


class NAdamW(MultiTensorOptimizer):
    """AdamW with Nesterov's look-ahead; where `cautious`, without those entries of its step that go up the gradient.

    At step t of a parameter p with gradient g, decoupled decay first:

        p <- p (1 - lr wd);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        p <- p - lr u,  u = (b1 m + (1 - b1) g) / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    Cautious: p <- p - lr u k / mean(k), k = 1 where u g > 0, else 0; the mean is at least 1e-3.
    Source: Dahl et al., arXiv 2306.07179, appendix D; the mask: Liang et al., arXiv 2411.16085, algorithm 1.
    """

    by_tensor = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "cautious": cautious}
        super().__init__(params, defaults)

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Both moments."""
        return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        first, second = collected(states, "exp_avg"), collected(states, "exp_avg_sq")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        move_moments(first, second, gradients, beta1, beta2)
        ahead = list(torch._foreach_lerp(gradients, first, beta1))
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        rates = [-lr * root / correction for root, correction in zip(roots, corrections(states, beta1), strict=True)]
        if not group["cautious"]:
            torch._foreach_addcdiv_(parameters, ahead, scale, rates)
            return
        steps = divided(ahead, scale)
        masks = [(step * gradient > 0).to(step.dtype) for step, gradient in zip(steps, gradients, strict=True)]
        shares = torch.stack([mask.mean() for mask in masks]).clamp_min(1e-3)
        torch._foreach_mul_(steps, masks)
        torch._foreach_addcmul_(parameters, steps, list((shares.new_tensor(rates) / shares).unbind()))


class PolarMomentum(MatrixMomentum):
    """Muon whose steps have an RMS of 0.2 times the rate, AdamW's usual size, so that AdamW's rates serve it too.

    p <- p (1 - lr wd) - 0.2 lr sqrt(max(rows, columns)) NS(h), h the momentum looked ahead.
    Source: Jordan et al. 2024; the size: Li et al., arXiv 2510.05491, which scales rows besides.
    """

    polar_steps = 5
    """Iterations of each orthogonalisation."""

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """Each orthogonalised; with the factor sqrt(max(1, rows / columns)) that it gets besides, of that size."""
        updates = orthogonalised(matrices, steps=self.polar_steps)
        torch._foreach_mul_(updates, [0.2 * sqrt(update.shape[1]) for update in updates])
        return updates


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Hidden matrices where that pays, the rest by NAdamW at rates by kind; one schedule; judged at an average."""
    matrices = matrices_that_pay(trial, hp)
    groups = groups_by_rate(trial, hp, without=matrices)
    optimizers: list[Optimizer] = []
    if groups:
        betas = (1 - hp.one_minus_beta1, hp.beta2)
        optimizers.append(NAdamW(groups, betas=betas, weight_decay=hp.weight_decay, cautious=hp.cautious))
    if matrices:
        rate = hp.matrix_factor * hp.learning_rate
        optimizers.append(PolarMomentum(matrices, rate, hp.matrix_momentum, hp.weight_decay))
    # In whole batches of all ranks.
    size = trial.world_size * max(1, round(hp.batch_size_factor * trial.batch_size_hint / trial.world_size))
    train_loop(
        trial,
        optimizers,
        [schedule_of(optimizer, trial, hp) for optimizer in optimizers],
        label_smoothing=hp.label_smoothing,
        after_step=averaging(trial, hp),
        next_batch=lambda: trial.next_batch(size),
    )


def matrices_that_pay(trial: Trial, hp: Hyperparameters) -> list[nn.Parameter]:
    """Hidden matrices whose orthogonalisation takes at most `matrix_cost` of the work of the passes through them.

    With r the smaller side and R the rows that a batch sends through a matrix, k iterations take at most 6 k r
    operations an entry, the forward and backward passes 6 R. On small batches of small networks that is most of a step.
    """
    hidden, _ = hidden_matrices_and_rest(trial.model, trial.parameter_kinds)
    if not hidden or hp.matrix_cost == 0:
        return []
    rows = rows_of_weights(trial)
    # Attention's projections are multiplied past their layers: they take the rows that the others have.
    usual = median(rows.values()) if rows else trial.batch_size_hint
    steps = PolarMomentum.polar_steps
    return [p for p in hidden if steps * min(p.flatten(1).shape) <= hp.matrix_cost * rows.get(id(p), usual)]


def rows_of_weights(trial: Trial) -> dict[int, float]:
    """By the id of a layer's weight, how many rows a batch multiplies it with: of a kernel, the places it is put."""
    index = torch.arange(min(2, len(trial.train_set)), device=trial.device)
    modes = [(module, module.training) for module in trial.model.modules()]
    trial.model.eval()
    with torch.no_grad(), trial.captured() as inputs:
        trial.outputs(trial.train_set.gather(index))
    for module, was_training in modes:
        module.training = was_training
    rows: dict[int, float] = {}
    for path, calls in inputs.items():
        layer: Any = trial.model.get_submodule(path)
        width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels * prod(layer.stride)
        rows[id(layer.weight)] = sum(call.numel() for call in calls) / width * trial.batch_size_hint / len(index)
    return rows


def groups_by_rate(trial: Trial, hp: Hyperparameters, *, without: Collection[Tensor]) -> list[dict[str, Any]]:
    """All other parameters in groups of one rate: output layer, embeddings, vectors and numbers have factors."""
    kinds, taken = trial.parameter_kinds, set(map(id, without))
    factors = {ParameterKind.OUTPUT: hp.output_factor, ParameterKind.EMBEDDING: hp.embedding_factor}
    groups: dict[float, list[Tensor]] = defaultdict(list)
    for name, p in trial.model.named_parameters():
        if id(p) not in taken:
            groups[factors.get(kinds[name], hp.vector_factor if p.ndim < 2 else 1.0)].append(p)
    return [{"params": members, "lr": factor * hp.learning_rate} for factor, members in groups.items()]


def schedule_of(optimizer: Optimizer, trial: Trial, hp: Hyperparameters) -> LRScheduler:
    """Warm-up, then a cosine to zero, or a line to a part of the peak, over a part of the step hint."""
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    if hp.decay == "cosine":
        return warmup_cosine(optimizer, steps, hp.warmup_fraction)
    if hp.decay == "linear":
        return warmup_linear(optimizer, steps, hp.warmup_fraction, end_factor=hp.end_factor)
    raise ConfigError(f"decay is {hp.decay!r}. Use 'cosine' or 'linear'.")


def averaging(trial: Trial, hp: Hyperparameters) -> Callable[[], None] | None:
    """What takes weights into the average after a step: it reaches back over a share of the steps so far."""
    if hp.averaged_share == 0:
        return None
    average = AveragedWeights(trial, batch_norm_batches=hp.batch_norm_batches, share=hp.averaged_share)
    trial.resumable(average=average)

    def take_in() -> None:
        # The step that ends is not counted yet.
        step = trial.step + 1
        if step % hp.average_every == 0:
            average.move(min(1.0, hp.average_every / (hp.averaged_fraction * step)))

    return take_in
