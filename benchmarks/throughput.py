"""How fast a workload's network trains on made-up batches of the true form: examples, operations, memory, compilation.

Run by `make throughput WORKLOAD=a,b DEVICE=cuda PRECISION=bf16 COMPILE=off`; each workload in a process of its own.
Steps are those of a trial: its passes, its loss, and AdamW. No data set is read where the workload can do without.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from harness import command_line
from harness.api import Batch, ConfigError, Precision, Workload, mean_loss, path_of
from harness.command_line import PlainConsole
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder
from harness.plugins.entries import create_workload
from harness.race import device as devices
from harness.race.rehearsal.examples import MadeUpExamples
from harness.trial.passes.speed import Forward

PEAKS: dict[str, dict[Precision, float]] = {
    "NVIDIA H200": {"float32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12},
    "NVIDIA H100 80GB HBM3": {"float32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12},
    "NVIDIA H100 PCIe": {"float32": 51e12, "tf32": 378e12, "bf16": 756.5e12},
    "NVIDIA A100-SXM4-40GB": {"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100-SXM4-80GB": {"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100-PCIE-40GB": {"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
}
"""Operations per second without sparsity, by what the device calls itself.

Of NVIDIA's data sheets of H200, H100 and A100; those of the two former give tensor cores with sparsity, which is twice.
"""
SECONDS = 5.0
_WARM_STEPS = 3
_LEAST_STEPS = 5
_LEARNING_RATE = 1e-6  # so that made-up labels drive no weight to where numbers are not finite


@dataclass(frozen=True)
class Throughput:
    """One workload on one device. `compile_seconds`: the first step less a usual one; None: not compiled."""

    workload: str
    device: str
    precision: str
    is_compiled: bool
    batch_size: int
    declared_batch_size: int
    steps: int
    seconds_per_step: float
    examples_per_second: float
    data_share: float
    """Of a step, what it takes to gather its batch and bring it to the device, with nothing gathered ahead."""
    operations_per_second: float
    """Of matrix products, convolutions and attention, forward and backward."""
    utilisation: float | None
    """Of the device's peak in this precision; None: it is not in PEAKS."""
    peak_bytes: int
    """Of the device; on a CPU of the whole process."""
    compile_seconds: float | None


class Steps:
    """Training steps of one workload. `batch_size`: examples of each."""

    def __init__(
        self,
        config: WorkloadConfig,
        device: torch.device,
        precision: Precision,
        batch_size: int,
    ) -> None:
        self.workload: Workload = create_workload(config.entry, config.options)
        self.device = device
        self.batch_size = batch_size
        devices.set_precision(device, precision)
        torch.manual_seed(0)
        self.model = self.workload.build_model().to(device).train()
        self.precision = precision
        generator = torch.Generator().manual_seed(0)
        few = self.workload.synthetic_batch(batch_size, generator, data_folder())
        # Splits that lie on the disk are gathered on the host, others where the trial keeps them.
        self._home = torch.device("cpu") if config.data == "prepared" else device
        self._examples = MadeUpExamples(few, batch_size).to(self._home)
        self._index = torch.randperm(batch_size, generator=generator).to(self._home)
        fused = True if device.type == "cuda" else None
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=_LEARNING_RATE, fused=fused)

    def batch(self) -> Batch:
        """The next one, on the device."""
        return {name: each.to(self.device) for name, each in self._examples.gather(self._index).items()}

    def run(self, forward: Callable[[Batch], torch.Tensor], count: int) -> float:
        """Seconds of so many steps, all of whose work is done when it returns."""
        return self._seconds(count, lambda: self._step(forward))

    def data_seconds(self, count: int) -> float:
        """Seconds of so many batches alone."""
        return self._seconds(count, self.batch)

    def _seconds(self, count: int, work: Callable[[], object]) -> float:
        devices.synchronize(self.device)
        began = time.perf_counter()
        for _ in range(count):
            work()
        devices.synchronize(self.device)
        return time.perf_counter() - began

    def _step(self, forward: Callable[[Batch], torch.Tensor]) -> None:
        batch = self.batch()
        self._optimizer.zero_grad(set_to_none=True)
        mean_loss(*self.workload.losses(forward(batch), batch, 0.0)).backward()
        self._optimizer.step()

    def operations(self) -> int:
        """Operations of one step, forward and backward; counted on two examples, since all grow with the batch."""
        size = min(2, self.batch_size)
        batch = {name: each[:size] for name, each in self.batch().items()}
        with FlopCounterMode(display=False) as counter:
            mean_loss(*self.workload.losses(self.workload.outputs(self.model, batch), batch, 0.0)).backward()
        self.model.zero_grad(set_to_none=True)
        return int(counter.get_total_flops()) * self.batch_size // size


def measured(
    name: str, device: torch.device, precision: Precision, *, is_compiled: bool, batch_size: int | None, seconds: float
) -> Throughput:
    """One workload with batches of its own size or another; with half of that as often as the device has no memory.

    Raises DataError where it needs data that are not here.
    """
    config = load("workload", name, WorkloadConfig)
    size = batch_size or config.batch_size
    while True:
        try:
            return _measured(config, device, precision, is_compiled=is_compiled, size=size, seconds=seconds)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2
        torch.cuda.empty_cache()


def _measured(
    config: WorkloadConfig, device: torch.device, precision: Precision, *, is_compiled: bool, size: int, seconds: float
) -> Throughput:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = Steps(config, device, precision, size)
    operations = steps.operations()
    forward = Forward(steps.workload, steps.model, device, precision=precision, is_compiled=is_compiled)
    first = steps.run(forward, 1)
    usual = statistics.median(steps.run(forward, 1) for _ in range(_WARM_STEPS))
    count = max(_LEAST_STEPS, int(seconds / usual))
    per_step = steps.run(forward, count) / count
    rate = operations / per_step
    name = devices.name_of(device)
    peak = PEAKS.get(name, {}).get(precision)
    return Throughput(
        workload=config.name,
        device=name,
        precision=precision,
        is_compiled=is_compiled,
        batch_size=size,
        declared_batch_size=config.batch_size,
        steps=count,
        seconds_per_step=per_step,
        examples_per_second=size / per_step,
        data_share=steps.data_seconds(count) / count / per_step,
        operations_per_second=rate,
        utilisation=rate / peak if peak is not None else None,
        peak_bytes=devices.peak_bytes(device) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        compile_seconds=max(0.0, first - per_step) if is_compiled else None,
    )


@dataclass(frozen=True)
class Asked:
    """What is measured, as `key=value` arguments say it. `batch_size`: None for each workload's own."""

    workloads: Sequence[str]
    device: str = "cpu"
    precision: Precision = "float32"
    compiles: Sequence[bool] = (False, True)
    batch_size: int | None = None
    seconds: float = SECONDS


def each(asked: Asked, say: Callable[[str], object], *, limit_seconds: float | None = None) -> list[dict[str, Any]]:
    """One row for each workload and way, in the order that they come: a Throughput, or why there is none (`reason`).

    `limit_seconds`: for one workload.
    """
    rows: list[dict[str, Any]] = []
    for name in asked.workloads:
        config = load("workload", name, WorkloadConfig)
        can = create_workload(config.entry, config.options).compiles
        ways = [way for way in asked.compiles if can or not way]
        if len(ways) < len(asked.compiles):
            rows.append({"workload": name, "is_compiled": True, "reason": "its class does not say that it compiles"})
        if not ways:
            continue
        say(f"{name} ...")
        rows += _in_a_process(name, asked, ways, limit_seconds)
    return rows


def _in_a_process(name: str, asked: Asked, ways: Sequence[bool], limit: float | None) -> list[dict[str, Any]]:
    """Where one workload runs out of memory, or crashes, the next one is measured all the same."""
    command = [
        *(sys.executable, "-m", "benchmarks.throughput", "one", name, asked.device, asked.precision),
        *("".join("c" if way else "p" for way in ways), str(asked.batch_size or 0), str(asked.seconds)),
    ]
    reason = ""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=limit, check=False)
        written, said = done.stdout, done.stderr.strip().rpartition("\n")[2]
        reason = f"ended with exit code {done.returncode}: {said}" if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        written = (error.stdout or b"").decode(errors="replace")
        reason = f"was not done after {limit:.0f} s"
    rows = []
    for line in written.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    if reason:
        missing = [way for way in ways if not any(row["is_compiled"] is way for row in rows)]
        rows += [{"workload": name, "is_compiled": way, "reason": reason} for way in missing]
    return rows


def main(arguments: Sequence[str]) -> int:
    """`workload=a,b device=cpu|cuda precision= compile=on|off|both batch_size= seconds= json=FILE`; ConfigError."""
    if arguments and arguments[0] == "one":
        return _one(*arguments[1:])
    known = ("workload", "device", "precision", "compile", "batch_size", "seconds", "json")
    given = command_line.options(arguments, known)
    device = devices.resolve(given.get("device", "auto"))
    precision = given.get("precision", "bf16" if device.type == "cuda" else "float32")
    if precision not in get_args(Precision):
        raise ConfigError(f"PRECISION is {precision!r}. Use one of {', '.join(get_args(Precision))}.")
    ways = {"on": [True], "off": [False], "both": [False, True]}
    if given.get("compile", "both") not in ways:
        raise ConfigError(f"COMPILE is {given['compile']!r}. Use on, off or both.")
    names = command_line.names(given.get("workload", ""))
    if not names:
        raise ConfigError("WORKLOAD is missing. Name the workloads to measure: make throughput WORKLOAD=a,b.")
    for name in names:
        load("workload", name, WorkloadConfig)
    asked = Asked(
        names,
        device.type,
        cast(Precision, precision),
        ways[given.get("compile", "both")],
        command_line.whole_number(given, "batch_size", 1) if "batch_size" in given else None,
        float(command_line.whole_number(given, "seconds", int(SECONDS))),
    )
    console = PlainConsole(width=max(120, Console().width))
    rows = each(asked, lambda text: console.print(text, style="dim"))
    console.print(table(rows))
    for row in rows:
        if "reason" in row:
            console.print(f"{row['workload']}{', compiled' if row['is_compiled'] else ''}: {row['reason']}")
    if "json" in given:
        path_of(given["json"]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _one(name: str, device: str, precision: str, ways: str, batch_size: str, seconds: str) -> int:
    """Print a line of JSON for each way as soon as it is measured."""
    torch.set_num_threads(1)
    for way in ways:
        torch._dynamo.reset()
        found = measured(
            name,
            devices.resolve(device),
            cast(Precision, precision),
            is_compiled=way == "c",
            batch_size=int(batch_size) or None,
            seconds=float(seconds),
        )
        print(json.dumps(asdict(found)), flush=True)
    return 0


COLUMNS = ("workload", "compiled", "batch", "ms/step", "examples/s", "data", "TFLOP/s", "of peak", "GiB", "compile s")


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, under COLUMNS; of one that was not measured, its names alone."""
    name = [row["workload"], "yes" if row["is_compiled"] else "no"]
    if "reason" in row:
        return [*name, *["-"] * (len(COLUMNS) - len(name))]
    declared = f" of {row['declared_batch_size']}" if row["batch_size"] != row["declared_batch_size"] else ""
    return [
        *name,
        f"{row['batch_size']}{declared}",
        f"{row['seconds_per_step'] * 1e3:.2f}",
        f"{row['examples_per_second']:,.0f}",
        f"{row['data_share']:.1%}",
        f"{row['operations_per_second'] / 1e12:.3g}",
        "-" if row["utilisation"] is None else f"{row['utilisation']:.1%}",
        f"{row['peak_bytes'] / 2**30:.2f}",
        "-" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
    ]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each workload and way."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in ("workload", "compiled") else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


if __name__ == "__main__":
    sys.exit(command_line.run(main))
