"""AdamW in the few cosine directions that each matrix's gradient lies in most, chosen anew at each step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness import (
    Hyperparameters,
    MultiTensorOptimizer,
    Trial,
    adam_scale,
    collected,
    corrections,
    cosine_basis,
    divided,
    low_rank,
    move_moments,
    positions_by_shape,
    strongest_columns,
    train_loop,
    warmup_cosine,
    zeros_like,
)

# Longer sides are those of embeddings and output layers of large vocabularies: full AdamW.
_LONGEST_SIDE = 32000


class DctAdamW(MultiTensorOptimizer):
    """For a matrix with rows >= columns, its transpose otherwise, and Q the cosine basis of the columns:

        A = g + E;  S = A Q;  I = the `rank` columns of S with the largest sums of absolute values;  a = S[:, I]
        E <- A - a Q[:, I]^T;  moments of columns that stay in I stay with them, those of new ones start at zero
        m, v <- Adam's of a;  p <- p (1 - lr wd) - lr (m / bc1) / (sqrt(v / bc2) + eps) Q[:, I]^T

    Vectors, and matrices with a side of 32,000 or more, take AdamW. Kernels are matrices of their filters. `rank`: a
    share of the shorter side. Source: Modoranu et al., arXiv 2505.17967, with error feedback E and rotation.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rank: float = 0.25,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rank": rank})

    def basis(self, columns: Tensor) -> Tensor:
        """The orthogonal basis for matrices with as many columns. Shape: [columns, columns]."""
        return cosine_basis(columns.shape[-1], columns.dtype, columns.device)

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Both moments, of a matrix those of the chosen columns; its error, and which these are."""
        if _is_full(parameter):
            return {"exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}
        matrix = zeros_like(_tall(parameter))
        rank = low_rank(matrix.shape, group["rank"])
        first = matrix.new_zeros(len(matrix), rank)
        # No column is chosen yet: none has moments to keep.
        chosen = torch.full((rank,), -1, dtype=torch.int64, device=parameter.device)
        return {"error": matrix, "exp_avg": first, "exp_avg_sq": first.clone(), "chosen": chosen}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above, all matrices of a shape at once."""
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        seen: list[Tensor] = list(gradients)
        low = [number for number, p in enumerate(parameters) if not _is_full(p)]
        matrices = [_tall(gradients[number]) for number in low]
        for positions in positions_by_shape(matrices):
            numbers = [low[position] for position in positions]
            stack = torch.stack([matrices[position] for position in positions])
            for number, found in zip(numbers, self._chosen(stack, [states[n] for n in numbers]), strict=True):
                seen[number] = found
        directions = self._adam(group, seen, states)
        for positions in positions_by_shape(matrices):
            numbers = [low[position] for position in positions]
            back = self._back(torch.stack([directions[n] for n in numbers]), [states[n] for n in numbers])
            for number, full in zip(numbers, back, strict=True):
                directions[number] = _like(full, parameters[number])
        torch._foreach_sub_(parameters, directions)

    def _chosen(self, gradients: Tensor, states: list[dict[str, Any]]) -> Tensor:
        """The columns of gradient and error to step along, after moving errors, choices and moments to them.

        Shape: [count, rows, columns] -> [count, rows, rank].
        """
        errors, before = collected(states, "error"), torch.stack(collected(states, "chosen"))
        wanted = gradients + torch.stack(errors)
        chosen, seen = strongest_columns(wanted @ self.basis(wanted), before.shape[1])
        torch._foreach_copy_(collected(states, "chosen"), list(chosen))
        torch._foreach_copy_(errors, list(wanted - self._back(seen, states)))
        # 1 where a column of now was one of before; each row and column of it has at most one.
        stays = (before.unsqueeze(2) == chosen.unsqueeze(1)).to(wanted.dtype)
        for name in ("exp_avg", "exp_avg_sq"):
            moments = collected(states, name)
            torch._foreach_copy_(moments, list(torch.stack(moments) @ stays))
        return seen

    def _adam(self, group: dict[str, Any], seen: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        """lr (m / bc1) / (sqrt(v / bc2) + eps) after taking `seen` in."""
        first, second, (beta1, beta2) = collected(states, "exp_avg"), collected(states, "exp_avg_sq"), group["betas"]
        move_moments(first, second, seen, beta1, beta2)
        scale, roots = adam_scale(second, states, beta2, group["eps"])
        directions = divided(first, scale)
        corrected = corrections(states, beta1)
        torch._foreach_mul_(directions, [group["lr"] * root / c for root, c in zip(roots, corrected, strict=True)])
        return directions

    def _back(self, low: Tensor, states: list[dict[str, Any]]) -> Tensor:
        """Matrices from what they are along their chosen directions. Shape: [.., rank] -> [.., columns]."""
        columns = states[0]["error"]
        rows = self.basis(columns).T[torch.stack(collected(states, "chosen"))]
        return low @ rows


def _is_full(parameter: Tensor) -> bool:
    return parameter.ndim < 2 or max(parameter.flatten(1).shape) >= _LONGEST_SIDE


def _tall(parameter: Tensor) -> Tensor:
    """The matrix of a parameter, or its transpose, with no more columns than rows."""
    matrix = parameter.flatten(1)
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT


def _like(tall: Tensor, parameter: Tensor) -> Tensor:
    """What `_tall` has turned, turned back."""
    rows, columns = parameter.flatten(1).shape
    return (tall if rows >= columns else tall.mT).reshape(parameter.shape)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """DCT-AdamW under linear warm-up and cosine decay."""
    optimizer = DctAdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        rank=hp.rank,
    )
    steps = max(1, int(hp.step_hint_factor * trial.step_hint))
    schedule = warmup_cosine(optimizer, steps, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing)
