"""Everything that differs between CPU and CUDA: start, synchronisation, hand-over, memory, energy."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import ConfigError, Precision


def resolve(name: str, count: int = 1) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` means here; of several, the first.

    Raises ConfigError where there is none such, or fewer than `count`.
    """
    device = _resolve(name)
    if count < 1:
        raise ConfigError(f"hardware.devices is {count}. Use at least 1.")
    if count > 1 and sys.platform != "linux":
        raise ConfigError(f"hardware.devices is {count}. Several devices for one trial need Linux: use 1.")
    if count > 1 and device.type == "cuda":
        found = torch.cuda.device_count()
        if device.index != 0:
            raise ConfigError(f"hardware.device is {name!r}, with hardware.devices={count}. Use cuda.")
        if found < count:
            raise ConfigError(f"hardware.devices is {count}, but this machine has {found} CUDA devices. Use {found}.")
    return device


def of_ranks(first: torch.device, count: int) -> list[torch.device]:
    """Where the data-parallel trainers of a trial live: each GPU has one, a CPU any number."""
    if count == 1 or first.type == "cpu":
        return [first] * count
    return [torch.device("cuda", index) for index in range(count)]


def _resolve(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"hardware.device is {name!r}. Use 'auto', 'cpu', 'cuda' or 'cuda:N'.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise ConfigError(f"hardware.device is {name!r}, but this machine has {count} CUDA devices. Use 'cpu'.")
    elif device.type != "cpu":
        raise ConfigError(f"hardware.device is {name!r}. Only CPU and CUDA devices are measured.")
    return device


def forks(device: torch.device) -> bool:
    """True where trainers are forked from a warm server: neither CUDA nor macOS frameworks survive a fork."""
    return device.type == "cpu" and sys.platform == "linux"


def freezes(device: torch.device) -> bool:
    """True where the trainer is stopped by signal during evaluations.

    Stopping a process that holds a CUDA context has not been tried yet; there the trainer waits in its receive.
    """
    return device.type == "cpu"


def name_of(device: torch.device) -> str:
    """What the device is called: the model of the GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def warm_up(device: torch.device) -> None:
    """Take one throw-away optimizer step, so that torch's lazy imports and contexts are not charged to a submission.

    The first step of any optimizer imports parts of the compiler, which takes seconds.
    """
    layer = nn.Linear(2, 2, device=device)
    optimizer = torch.optim.AdamW(layer.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    nn.functional.cross_entropy(
        layer(torch.zeros(1, 2, device=device)), torch.zeros(1, dtype=torch.int64, device=device)
    ).backward()
    optimizer.step()
    synchronize(device)


def set_precision(device: torch.device, precision: Precision) -> None:
    """Let products of float32 matrices and convolutions on CUDA have ten bits of fraction, or all. Process-wide.

    torch's own choice is all for matrices and ten for convolutions.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "float32"


def synchronize(device: torch.device) -> None:
    """Wait for all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class HandOverStage:
    """Brings a `state_dict` to the host: through pinned memory from CUDA, as it is on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: dict[str, Tensor] = {}

    def bring(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of `state` on the host, complete when this returns."""
        if self._device.type == "cpu":
            return state
        host = {}
        for name, tensor in state.items():
            pinned = self._pinned.get(name)
            if pinned is None or pinned.shape != tensor.shape or pinned.dtype != tensor.dtype:
                pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._pinned[name] = pinned
            host[name] = pinned.copy_(tensor, non_blocking=True)
        synchronize(self._device)
        return host


def peak_bytes(device: torch.device) -> int | None:
    """Largest device memory that this process has held at once; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


class EnergyMeter:
    """Energy that all `devices` took between `start` and `stop`, summed; None where one does not report it."""

    def __init__(self, *devices: torch.device) -> None:
        self._handles: list[Any] = []
        self._nvml: Any = None
        self._joules = 0.0
        self._at_start = 0
        if any(device.type != "cuda" for device in devices):
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            handles = []
            for device in devices:
                uuid = str(torch.cuda.get_device_properties(device).uuid)
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
                pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                handles.append(handle)
        except Exception:  # an older driver, a device without a counter, no pynvml: energy is optional
            return
        self._handles = handles

    def start(self) -> None:
        """Read the counters."""
        self._at_start = self._millijoules()

    def stop(self) -> None:
        """Add what has been used since `start`."""
        self._joules += (self._millijoules() - self._at_start) / 1000.0

    def _millijoules(self) -> int:
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles)

    @property
    def joules(self) -> float | None:
        """Energy so far, or None where it cannot be measured."""
        return self._joules if self._handles else None
