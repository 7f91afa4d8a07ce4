"""Forward passes in the number format, and compiled, as the hardware's file asks. Weights stay in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.api import Batch, Precision, Workload


class Forward:
    """The forward pass of `model`, or of another of its form, on a batch of `workload`."""

    def __init__(
        self, workload: Workload, model: nn.Module, device: torch.device, *, precision: Precision, is_compiled: bool
    ) -> None:
        self._workload = workload
        self._model = model
        self._network = model
        self._device = device
        self._is_bf16 = precision == "bf16"
        if is_compiled:
            # A hook that a submission registers after the first step would never be called.
            torch._dynamo.config.skip_nnmodule_hook_guards = False  # type: ignore[attr-defined]
            self._network = torch.compile(model)

    def __call__(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Outputs, in float32 whatever the pass is made in. `model`: another one in place of the trial's own."""
        network = self._network if model is None or model is self._model else model
        if not self._is_bf16:
            return self._workload.outputs(network, batch)
        with torch.autocast(self._device.type, torch.bfloat16):
            outputs = self._workload.outputs(network, batch)
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Inside, the network runs as it was written, so that it can be looked into, and differentiated twice."""
        network, self._network = self._network, self._model
        try:
            yield
        finally:
            self._network = network
