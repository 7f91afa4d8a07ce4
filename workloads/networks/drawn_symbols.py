"""Symbols drawn from the scores of a network. Knows no network."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_numbers(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Numbers from [0, 1) on `device`. `generator` may be on another one; None: torch's global one of `device`."""
    at = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=at).to(device)


def drawn_symbols(scores: Tensor, uniform: Tensor | None) -> Tensor:
    """The symbol of each row at which the sum of probabilities passes its `uniform` number; None: the likeliest.

    Shapes: [rows, symbols], [rows] -> int64 [rows].
    """
    if uniform is None:
        return scores.argmax(dim=1)
    passed = scores.float().softmax(dim=1).cumsum(dim=1) < uniform[:, None]
    # Rounding may leave the sum of all a little below 1.
    return passed.sum(dim=1).clamp_max(scores.shape[1] - 1)
