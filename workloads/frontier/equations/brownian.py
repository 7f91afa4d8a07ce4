"""Brownian motion in small steps, the same on every machine: what equations are solved along."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

# Increments are stored in such fractions: the last bits of a drawn number may differ from machine to machine.
_LEVELS = 1024


def drawn_increments(stream: numpy.random.RandomState, *, paths: int, steps: int, dimensions: int) -> Tensor:
    """Increments over equal parts of a time of 1, as multiples of 1/1024. Shape: int16 [paths, steps, dimensions]."""
    drawn = stream.standard_normal((paths, steps, dimensions)) / steps**0.5
    return torch.from_numpy(numpy.rint(_LEVELS * drawn).astype(numpy.int16))


def increments_of(stored: Tensor) -> Tensor:
    """The increments themselves, float32, of what is stored."""
    return stored.to(torch.float32).mul_(1 / _LEVELS)
