"""Forward passes in the number format, compiled, and in parts, as the hardware's file asks. Weights stay in float32."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from harness.api import Batch, Precision, Workload
from harness.trial.passes.pinned import Pin, pinned


class Forward:
    """The forward pass of `model`, or of another of its form, on a batch of `workload`.

    `micro_batch`: so many examples go through it at once. What it computes on the way is not kept for the gradient, but
    computed again, part by part, so that the memory of one part does for all; gradients are those of the whole batch.
    Batch norm normalises each part by itself, and its running statistics move once for each.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        device: torch.device,
        *,
        precision: Precision,
        is_compiled: bool,
        micro_batch: int | None = None,
    ) -> None:
        self._micro_batch = micro_batch
        self._workload = workload
        self._model = model
        self._network = model
        self._device = device
        self._pin: Pin | None = None
        self._is_bf16 = precision == "bf16"
        if is_compiled:
            # A hook that a submission registers after the first step would never be called.
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            self._network = cast("nn.Module", torch.compile(model))

    def __call__(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        *,
        of: Callable[[nn.Module, Batch], Tensor] | None = None,
    ) -> Tensor:
        """Outputs, in float32 whatever the pass is made in. `model`: another one in place of the trial's own.

        `of`: what is computed of network and batch, a row for each example; None: the workload's outputs.
        """
        network = self._network if model is None or model is self._model else model
        passed = functools.partial(self._pass, self._workload.outputs if of is None else of)
        size = self._micro_batch
        if size is None or (count := len(next(iter(batch.values())))) <= size:
            return passed(network, batch)
        parts = [{name: values[at : at + size] for name, values in batch.items()} for at in range(0, count, size)]
        if not torch.is_grad_enabled():
            return torch.cat([passed(network, part) for part in parts])
        return torch.cat(
            [
                checkpoint(
                    passed,
                    network,
                    part,
                    use_reentrant=False,
                    context_fn=lambda: (contextlib.nullcontext(), _Still(network)),
                )
                for part in parts
            ]
        )

    def at_once(self, batch: Batch, of: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
        """What `of` computes of the network as it was written and all examples, without a gradient."""
        with torch.no_grad():
            return self._pass(of, self._model, batch)

    def _pass(self, of: Callable[[nn.Module, Batch], Tensor], network: nn.Module, batch: Batch) -> Tensor:
        if self._pin is None or network is not self._model:
            return self._computed(of, network, batch)
        with self._pin.one_pass():
            return self._computed(of, network, batch)

    def _computed(self, of: Callable[[nn.Module, Batch], Tensor], network: nn.Module, batch: Batch) -> Tensor:
        if not self._is_bf16:
            return of(network, batch)
        with torch.autocast(self._device.type, torch.bfloat16):
            outputs = of(network, batch)
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Inside, passes agree, with what the workload draws before it calls the model; and none is compiled."""
        if self._pin is not None:
            yield
            return
        with self.uncompiled(), pinned(self._model, self._device) as self._pin:
            try:
                yield
            finally:
                self._pin = None

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Inside, the network runs as it was written, so that it can be looked into, and differentiated twice."""
        network, self._network = self._network, self._model
        try:
            yield
        finally:
            self._network = network


class _Still:
    """Inside, running statistics of batch norm are copies: a pass that is made again has moved them before.

    It is entered once for each time that the pass is made again: a second derivative makes it twice.
    """

    # Switched off they would not be among what autograd keeps, which must be the same the second time.
    def __init__(self, network: nn.Module) -> None:
        self._norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
        self._own: list[dict[str, Tensor | None]] = []

    def __enter__(self) -> None:
        self._own = [dict(norm._buffers) for norm in self._norms]
        for norm in self._norms:
            norm._buffers.update({name: each.clone() for name, each in norm._buffers.items() if each is not None})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in zip(self._norms, self._own, strict=True):
            norm._buffers.update(buffers)
