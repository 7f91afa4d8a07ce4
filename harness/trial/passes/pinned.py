"""Forward passes that agree with each other: one draw of dropout masks for all, one move of running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def pinned(model: nn.Module, device: torch.device) -> Iterator[Pin]:
    """Inside, every forward pass of `model` draws what the first one drew, and leaves batch norm's statistics alone.

    The first pass is an ordinary one: torch's random stream and the running statistics stand afterwards where it alone
    would have left them. Batch norm in train mode normalises by the batch in every pass, which makes the outputs a
    function of weights and batch; buffers that a module names in `moving_buffers` begin each pass as they began the
    first. Only passes through `model` count, by whatever road; not those of a copy of it. One
    that begins before `model` is called, as it draws noise for its inputs, is one of `Pin.one_pass`.
    """
    pin = Pin(model, device)
    # A copy of the model keeps its hooks: functions, which are not copied with it.
    handles = [
        model.register_forward_pre_hook(lambda module, _: pin.before() if module is model else None),
        model.register_forward_hook(lambda module, _, __: pin.after() if module is model else None, always_call=True),
    ]
    try:
        yield pin
    finally:
        for handle in handles:
            handle.remove()
        pin.end()


class Pin:
    """What passes begin with, once there was one."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._norms = [
            module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._moving = [(module, name) for module in model.modules() for name in getattr(module, "moving_buffers", ())]
        self._first_buffers: list[Tensor] = []
        self._outside_buffers: list[Tensor] = []
        self._first: list[Tensor] = []
        self._outside: list[Tensor] = []
        self._depth = 0

    @contextlib.contextmanager
    def one_pass(self) -> Iterator[None]:
        """All that is drawn inside belongs to one pass, in the model and around it."""
        self.before()
        try:
            yield
        finally:
            self.after()

    def before(self) -> None:
        """Begin a pass where the first one began; nothing inside another one."""
        self._depth += 1
        if self._depth > 1:
            return
        if not self._first:
            self._first = self._streams()
            self._first_buffers = [each.clone() for each in self._buffers()]
            return
        self._outside, self._outside_buffers = self._streams(), self._buffers()
        self._load(self._first)
        self._put([each.clone() for each in self._first_buffers])
        for norm in self._norms:
            # torch's batch norm normalises by the batch all the same, and neither moves nor counts.
            norm.track_running_stats = False

    def after(self) -> None:
        """End a pass as if it had not been: what is drawn between passes comes from where it stood."""
        self._depth -= 1
        if not self._depth:
            self.end()

    def end(self) -> None:
        """Leave what the passes from the second on have moved as they found it."""
        if self._outside:
            self._load(self._outside)
            self._put(self._outside_buffers)
            self._outside, self._outside_buffers = [], []
        for norm in self._norms:
            norm.track_running_stats = True

    def _buffers(self) -> list[Tensor]:
        return [module.get_buffer(name) for module, name in self._moving]

    def _put(self, values: list[Tensor]) -> None:
        # Others in their place, none changed: a graph may hold them.
        for (module, name), value in zip(self._moving, values, strict=True):
            module._buffers[name] = value

    def _streams(self) -> list[Tensor]:
        streams = [torch.get_rng_state()]
        return [*streams, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else streams

    def _load(self, streams: list[Tensor]) -> None:
        torch.set_rng_state(streams[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(streams[1], self._device)
