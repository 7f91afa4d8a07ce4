"""What generated tasks share: exact rotations, rounding, and splits with answers that follow from their data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Self

import numpy
import torch
from torch import Tensor

from harness.api import Batch, TensorExamples

_STEPS = 1024


class KnownExamples(TensorExamples):
    """A split whose batches also hold `known`: what follows from its tensors, by a formula or a solver, row by row.

    The last bits of that may differ from machine to machine, so it does not count for the content hash.
    """

    def __init__(self, tensors: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self._known = dict(known)

    def gather(self, index: Tensor) -> Batch:
        """The rows at `index` of every tensor, and of what is known."""
        return {**super().gather(index), **{name: each.index_select(0, index) for name, each in self._known.items()}}

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        tensors, known = (
            {name: values.to(device) for name, values in each.items()} for each in (self.tensors(), self._known)
        )
        return type(self)(tensors, known)


def rounded(values: numpy.ndarray) -> numpy.ndarray:
    """Numbers as multiples of 1/1024: the last bits of a logarithm or a sine may differ from machine to machine.

    Sums of products of such numbers are exact, so they are the same everywhere, too.
    """
    near: numpy.ndarray = numpy.rint(_STEPS * values) / _STEPS
    return near


def orthogonal(size: int, stream: numpy.random.RandomState) -> numpy.ndarray:
    """An orthogonal matrix that mixes all places and is exact in binary. Shape: float64 [size, size], a power of two.

    Signs between two Hadamard matrices whose rows are in random order: all entries are multiples of 1/size.
    """
    hadamard = functools.reduce(numpy.kron, [numpy.array([[1.0, 1.0], [1.0, -1.0]])] * (size.bit_length() - 1))
    left, right = (hadamard[stream.permutation(size)] for _ in range(2))
    matrix: numpy.ndarray = (left * (1.0 - 2.0 * stream.randint(2, size=size))) @ right.T / size
    return matrix


def rotations(drawn: numpy.ndarray) -> numpy.ndarray:
    """Orthogonal matrices, all equally likely, from Gaussian ones. Shapes: float64 [n, size, size] -> the same.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54 (2007).
    """
    columns, upper = numpy.linalg.qr(drawn)
    # A decomposition whose diagonal is positive is the only one.
    rotated: numpy.ndarray = columns * numpy.sign(numpy.diagonal(upper, axis1=1, axis2=2))[:, None]
    return rotated


def as_float32(values: numpy.ndarray) -> Tensor:
    """The same numbers as a tensor."""
    return torch.from_numpy(values.astype(numpy.float32))
