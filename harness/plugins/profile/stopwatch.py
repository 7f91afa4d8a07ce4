"""Adds up what parts of a step take, where one part may lie inside another."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Stopwatch:
    """Seconds by part; what runs inside a part of its own is no part of the one around it.

    On CUDA it waits for the device at each end of a part, so that its work falls to the part that has asked for it.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._clock = now
        self._open: list[str] = []
        self._since = 0.0

    def now(self) -> float:
        """The time, with all that was asked of the device done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as this part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def backward_counted(watch: Stopwatch) -> Iterator[None]:
    """Inside, every pass through autograd's engine is the part `backward`, by whatever road it is asked for.

    Tensor.backward, torch.func and optimizers all call these two functions of torch.
    """
    backward, grad = torch.autograd.backward, torch.autograd.grad

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with watch.part("backward"):
                return function(*arguments, **options)

        return call

    torch.autograd.backward, torch.autograd.grad = counted(backward), counted(grad)
    try:
        yield
    finally:
        torch.autograd.backward, torch.autograd.grad = backward, grad
