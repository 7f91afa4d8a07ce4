"""Forward passes that agree with each other: one draw of dropout masks for all, one move of running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def pinned(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, every forward pass of `model` draws what the first one drew, and leaves batch norm's statistics alone.

    The first pass is an ordinary one: torch's random stream and the running statistics stand afterwards where it alone
    would have left them. Batch norm in train mode normalises by the batch in every pass, which makes the outputs a
    function of weights and batch. Only passes through `model` count, by whatever road; not those of a copy of it.
    """
    pin = _Pin(model, device)
    # A copy of the model keeps its hooks: functions, which are not copied with it.
    handles = [
        model.register_forward_pre_hook(lambda module, _: pin.before() if module is model else None),
        model.register_forward_hook(lambda module, _, __: pin.after() if module is model else None, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        pin.after()


class _Pin:
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._norms = [
            module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._first: list[Tensor] = []
        self._outside: list[Tensor] = []

    def before(self) -> None:
        """Begin a pass where the first one began."""
        if not self._first:
            self._first = self._streams()
            return
        self._outside = self._streams()
        self._load(self._first)
        for norm in self._norms:
            # torch's batch norm normalises by the batch all the same, and neither moves nor counts.
            norm.track_running_stats = False

    def after(self) -> None:
        """End a pass as if it had not been: what is drawn between passes comes from where it stood."""
        if self._outside:
            self._load(self._outside)
            self._outside = []
        for norm in self._norms:
            norm.track_running_stats = True

    def _streams(self) -> list[Tensor]:
        streams = [torch.get_rng_state()]
        return [*streams, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else streams

    def _load(self, streams: list[Tensor]) -> None:
        torch.set_rng_state(streams[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(streams[1], self._device)
