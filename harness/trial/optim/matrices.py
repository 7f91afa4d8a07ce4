"""Matrices for update rules: orthogonalisation, one batched operation for all of a shape, and a base of rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness.trial.optim.multi_tensor import MultiTensorOptimizer, collected, zeros_like

# Entries from which on a product takes longer on a CPU than copying what it is of.
_LARGE_ON_CPU = 2**14


def newton_schulz(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Matrices with the singular vectors of the given ones and singular values near 1 (0.68 to 1.14 for 0.01 to 1).

    Shape: [count, rows, columns], fastest with rows <= columns -> the same. A zero matrix stays zero.
    Source: Jordan et al. 2024, Muon, the quintic iteration with its published coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # A dead layer has zero norm.
    x: Tensor = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    if is_one := len(x) == 1:
        # A batch of one takes up to 1.6 times as long as the matrix by itself.
        x = x.squeeze(0)
    multiply_and_add = torch.addmm if is_one else torch.baddbmm
    for _ in range(steps):
        gram: Tensor = x @ x.mT
        x = multiply_and_add(x, multiply_and_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.unsqueeze(0) if is_one else x


def orthogonalised(matrices: Sequence[Tensor], *, steps: int = 5) -> list[Tensor]:
    """Each matrix after `newton_schulz`. Shapes: [rows, columns] each -> the same."""

    def of_stack(stack: Tensor) -> Tensor:
        x = stack.bfloat16() if _is_faster_in_bfloat16(stack) else stack
        return newton_schulz(x.contiguous(), steps=steps)

    # Products are fastest of wide matrices, and then all of one pair of sides are one stack: large ones too, as each
    # product of bfloat16 prepares anew.
    turned = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    stacks = ((positions, _stack([turned], positions)) for positions in positions_by_shape(turned))
    wide = _put_back(of_stack, turned, stacks)
    back = [
        update.mT if matrix.shape[0] > matrix.shape[1] else update
        for update, matrix in zip(wide, matrices, strict=True)
    ]
    # Turned while it is converted, where it is.
    return [
        update.to(matrix.dtype, memory_format=torch.contiguous_format).contiguous()
        for update, matrix in zip(back, matrices, strict=True)
    ]


def by_shape(function: Callable[..., Tensor], matrices: Sequence[Tensor], *others: Sequence[Tensor]) -> list[Tensor]:
    """`function` of stacks of matrices of one shape, taken apart again: small products are slow one by one.

    Shapes: [rows, columns] each; `function`: [count, rows, columns] -> [count, ...]. `others` go with the matrices, one
    tensor each, are stacked alike, and are its further arguments.
    """
    return _put_back(function, matrices, stacked(matrices, *others))


def stacked(*lists: Sequence[Tensor]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """For each combination of shapes that tensors of one position have: its positions, and one stack for each list.

    A stack of one is a view of its tensor, which saves a copy: stacks are not to be changed in place. Large tensors on
    a CPU are such stacks, too: there a product takes so long that calls do not count, but copies do.
    """
    for positions in positions_by_shape(*lists):
        tensors = [one[positions[0]] for one in lists]
        if any(tensor.device.type == "cpu" and tensor.numel() >= _LARGE_ON_CPU for tensor in tensors):
            for position in positions:
                yield [position], _stack(lists, [position])
        else:
            yield positions, _stack(lists, positions)


def positions_by_shape(*lists: Sequence[Tensor]) -> list[list[int]]:
    """For each combination of shapes that tensors of one position have: where it stands."""
    shapes: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
    for position, tensors in enumerate(zip(*lists, strict=True)):
        shapes[tuple(tensor.shape for tensor in tensors)].append(position)
    return list(shapes.values())


def _stack(lists: Sequence[Sequence[Tensor]], positions: list[int]) -> list[Tensor]:
    if len(positions) == 1:
        return [tensors[positions[0]].unsqueeze(0) for tensors in lists]
    return [torch.stack([tensors[position] for position in positions]) for tensors in lists]


def _put_back(
    function: Callable[..., Tensor], matrices: Sequence[Tensor], stacks: Iterable[tuple[list[int], list[Tensor]]]
) -> list[Tensor]:
    done: list[Tensor] = list(matrices)
    for positions, arguments in stacks:
        for position, result in zip(positions, function(*arguments), strict=True):
            done[position] = result
    return done


def _is_faster_in_bfloat16(stack: Tensor) -> bool:
    """The reference's type, where the device multiplies it natively.

    On a CPU with AMX: 3.3 ms instead of 12.6 ms for [8, 128, 512], but 0.31 ms instead of 0.07 ms for [1, 16, 144].
    With AVX-512's bfloat16 a product takes 0.7 ms instead of 1.5 ms for [8, 128, 512], twice as long for [1, 64, 128].
    """
    if stack.dtype != torch.float32:
        return False
    return stack.is_cuda or (stack.numel() >= 2**14 and _multiplies_bfloat16())


@cache
def _multiplies_bfloat16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


class MatrixMomentum(MultiTensorOptimizer):
    """M <- mu M + (1 - mu) g;  p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) D(h), h = (1 - mu) g + mu M.

    Base of rules like Muon for matrices and kernels, seen as [out, the rest]: a rule is D, its `direction`.
    """

    looks_ahead = True
    """False: h = M."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def direction(self, matrices: list[Tensor]) -> list[Tensor]:
        """New tensors to step along, one for each. Shapes: [rows, columns] each -> the same."""
        raise NotImplementedError

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum."""
        return {"momentum": zeros_like(parameter)}

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """The formula above."""
        momenta, mu = collected(states, "momentum"), group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = torch._foreach_lerp(gradients, momenta, mu) if self.looks_ahead else momenta
        # A joint projection is one matrix.
        updates = self.direction([matrix.flatten(1) for matrix in ahead])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        rates = [-group["lr"] * sqrt(max(1.0, update.shape[0] / update.shape[1])) for update in updates]
        torch._foreach_mul_(updates, rates)
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)])
