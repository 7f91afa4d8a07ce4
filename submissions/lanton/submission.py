"""LANTON: steps of unit size in each layer's own norm, smaller where the layer's gradient is noisier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    HIDDEN_MATRICES,
    Hyperparameters,
    MultiTensorOptimizer,
    ParameterKind,
    Trial,
    by_shape,
    collected,
    orthogonalised,
    train_loop,
    warmup_cosine,
    zeros_like,
)


class Lanton(MultiTensorOptimizer):
    """For each layer of a group, with the norm that the group names, O the direction of B of unit norm, |.|* the dual:

        B <- b1 B + (1 - b1) g;  H <- b2 H + (1 - b2) |g - g_before|*^2, from the second step on
        a = alpha / sqrt(alpha^2 + H);  p <- p (1 - lr wd) - lr sqrt(a / largest a of the group) O

    `norm`: `spectral` has O = sqrt(rows / columns) U V^T and |A|* = sqrt(rows / columns) * the sum of singular values;
    `largest`: sign(B) and the sum of absolute values; `rms`: sqrt(n) B / |B| and sqrt(n) |A|, for n entries.
    Source: Hao et al., arXiv 2510.14009, option I; a as recalled, since no code of the authors is public.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        betas: tuple[float, float] = (0.95, 0.9),
        alpha: float = 1.0,
        weight_decay: float = 0.0,
        norm: str = "spectral",
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "alpha": alpha, "weight_decay": weight_decay, "norm": norm})

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum, the gradient of the step before, and the noise."""
        noise = torch.zeros((), dtype=torch.promote_types(parameter.dtype, torch.float32), device=parameter.device)
        return {"momentum": zeros_like(parameter), "before": zeros_like(parameter), "noise": noise}

    def polar(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """U V^T of each U S V^T, about."""
        return orthogonalised(matrices)

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        (beta1, beta2), norm = group["betas"], group["norm"]
        momenta, before, noise = (collected(states, name) for name in ("momentum", "before", "noise"))
        torch._foreach_lerp_(momenta, gradients, 1 - beta1)
        seen = [number for number, state in enumerate(states) if state["step"] > 1]
        if seen:
            changes = list(torch._foreach_sub([gradients[n] for n in seen], [before[n] for n in seen]))
            squares = torch._foreach_pow(self._dual_norms(norm, changes), 2)
            torch._foreach_lerp_([noise[n] for n in seen], squares, 1 - beta2)
        torch._foreach_copy_(before, gradients)

        shares = group["alpha"] / (group["alpha"] ** 2 + torch.stack(noise)).sqrt()
        rates = group["lr"] * (shares / shares.max()).sqrt()
        moves = self._directions(norm, momenta)
        torch._foreach_mul_(moves, [rate.to(move.dtype) for rate, move in zip(rates, moves, strict=True)])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(parameters, moves)

    def _directions(self, norm: str, momenta: list[Tensor]) -> list[Tensor]:
        """The tensors of unit norm along which the momenta are largest; zero for zero."""
        if norm == "largest":
            return [momentum.sign() for momentum in momenta]
        if norm == "rms":
            lengths = torch._foreach_norm(momenta)
            torch._foreach_add_(lengths, 1e-30)
            directions = list(torch._foreach_div(momenta, lengths))
            torch._foreach_mul_(directions, [sqrt(momentum.numel()) for momentum in momenta])
            return directions
        turned = self.polar([momentum.flatten(1) for momentum in momenta])
        torch._foreach_mul_(turned, [sqrt(matrix.shape[0] / matrix.shape[1]) for matrix in turned])
        return [matrix.view_as(momentum) for matrix, momentum in zip(turned, momenta, strict=True)]

    def _dual_norms(self, norm: str, changes: list[Tensor]) -> list[Tensor]:
        if norm == "largest":
            return list(torch._foreach_norm(changes, 1))
        if norm == "rms":
            factors = [sqrt(change.numel()) for change in changes]
            return list(torch._foreach_mul(torch._foreach_norm(changes), factors))
        matrices = [change.flatten(1) for change in changes]
        factors = [sqrt(matrix.shape[0] / matrix.shape[1]) for matrix in matrices]
        return list(torch._foreach_mul(by_shape(nuclear_norms, matrices), factors))


def nuclear_norms(stack: Tensor) -> Tensor:
    """Sums of singular values. Shape: [count, rows, columns] -> [count].

    From the eigenvalues of the smaller Gram matrix: five times as fast as an SVD, and small singular values, to which
    that is less true, count little in the sum.
    """
    gram = stack.mT @ stack if stack.shape[1] > stack.shape[2] else stack @ stack.mT
    # In single precision the solver fails on tables of which few rows have a gradient.
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram.double()).to(gram.dtype)
    return eigenvalues.clamp_min(0.0).sqrt().sum(dim=-1)


def groups_of(trial: Trial, hp: Hyperparameters) -> list[dict[str, Any]]:
    """Hidden matrices; embeddings and the output layer; everything with fewer than two dimensions."""
    groups: dict[str, list[Tensor]] = {"spectral": [], "largest": [], "rms": []}
    for name, parameter in trial.model.named_parameters():
        kind = trial.parameter_kinds[name]
        is_hidden = kind in HIDDEN_MATRICES or kind is ParameterKind.RECURRENT
        norm = "rms" if parameter.ndim < 2 else "spectral" if is_hidden else "largest"
        groups[norm].append(parameter)
    rates = {"spectral": hp.learning_rate}
    return [
        {"params": parameters, "norm": norm, "lr": rates.get(norm, hp.rest_learning_rate)}
        for norm, parameters in groups.items()
        if parameters
    ]


def train(trial: Trial, hp: Hyperparameters) -> None:
    """All parameters by this rule, under linear warm-up and cosine decay."""
    optimizer = Lanton(groups_of(trial, hp), betas=(hp.beta1, hp.beta2), alpha=hp.alpha, weight_decay=hp.weight_decay)
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedule = warmup_cosine(optimizer, steps, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
