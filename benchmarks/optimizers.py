"""Step time and state of the optimizer classes of submissions/ beside AdamW and public classes of the same method.

On the same tensors, in one run, in turns, so that noise of the machine falls on all; printed are ratios. Run by
`make optimizer-speed`: small tensors, or with `DEVICE=cuda` those of a GPT-2 small. `ARGS='rounds=20 submission=lion'`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from harness import command_line
from harness.api import ConfigError, one_line, visible
from harness.command_line import PlainConsole
from harness.plugins.submission import SUBMISSIONS
from harness.plugins.submission_files import PREDICTOR

LIBRARIES = ("torch.optim", "pytorch_optimizer")
# Where no public class has the name of ours: the one whose step does the same work.
OTHER_NAMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "NAdamW": ("torch.optim.NAdam", {"decoupled_weight_decay": True}),
}
ROUNDS = 9
# Long enough that the clock and the call around it do not count.
TURN_SECONDS = 0.05

Make = Callable[[list[nn.Parameter]], Optimizer]


@dataclass
class Runner:
    """An optimizer on parameters of its own, with gradients that stay."""

    name: str
    optimizer: Optimizer
    parameters: list[nn.Parameter]

    def seconds(self, steps: int) -> float:
        """Of one step, as the mean over so many."""
        _wait_for(self.parameters[0].device)
        began = time.perf_counter()
        for _ in range(steps):
            self.optimizer.step()
        _wait_for(self.parameters[0].device)
        return (time.perf_counter() - began) / steps

    @property
    def state_bytes(self) -> float:
        """For each parameter."""
        held = sum(_bytes(state) for state in self.optimizer.state.values())
        return held / sum(parameter.numel() for parameter in self.parameters)


@dataclass(frozen=True)
class Comparison:
    """One class beside the others. Ratios are of its step time to theirs, medians over rounds."""

    name: str
    tensors: str
    seconds: float
    to_fused: float
    to_foreach: float
    state_bytes: float
    public: str | None
    """The fastest public class of the same method; None: none is installed, or none runs on these tensors."""
    to_public: float | None
    public_state_bytes: float | None


def small_shapes() -> list[tuple[int, ...]]:
    """Of a transformer with 4 layers of width 128: 53 tensors, 860,000 parameters."""
    return _transformer_shapes(symbols=512, positions=64, width=128, layers=4)


def gpt2_small_shapes() -> list[tuple[int, ...]]:
    """Of GPT-2 small, embedding and output tied: 148 tensors, 124 million parameters."""
    return _transformer_shapes(symbols=50257, positions=1024, width=768, layers=12)


def main(arguments: Sequence[str]) -> int:
    """`device=cpu|cuda rounds=9 submission=a,b`. Raises ConfigError for a submission without an optimizer class."""
    given = command_line.options(arguments, ("device", "rounds", "submission"))
    device = torch.device(given.get("device", "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE is cuda, and there is none here. Use DEVICE=cpu.")
    rounds = command_line.whole_number(given, "rounds", ROUNDS)
    torch.set_num_threads(1)
    shapes = small_shapes() if device.type == "cpu" else gpt2_small_shapes()
    console = PlainConsole(width=max(120, Console().width))
    rows, left_out = [], []
    for name, kind in classes_of(command_line.names(given.get("submission", ""))):
        console.print(f"{name} ...", style="dim")
        try:
            rows.append(compared(name, kind, shapes, device=device, rounds=rounds))
        except Exception as error:  # of a class of anybody's
            left_out.append(f"{name}: {type(error).__name__}: {one_line(error)}")
    console.print(table(rows))
    for line in left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    return 1 if left_out else 0


def classes_of(submissions: Sequence[str]) -> list[tuple[str, type[Optimizer]]]:
    """`submission: class` and the class, of each optimizer class in the named submissions; of all where none is named.

    Raises ConfigError for a named one that has none.
    """
    found = []
    for path in visible(SUBMISSIONS, "*/submission.py"):
        name = path.parent.name
        if submissions and name not in submissions:
            continue
        if (path.parent / f"{PREDICTOR}.py").is_file():  # the open division steps networks of its own alone
            continue
        module = importlib.import_module(f"submissions.{name}.submission")
        found += [
            (f"{name}: {kind.__name__}", kind)
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, Optimizer) and kind.__module__ == module.__name__
        ]
    for name in submissions:
        if not any(each.startswith(f"{name}: ") for each, _ in found):
            raise ConfigError(f"submissions/{name} has no optimizer class of its own. Name one that has.")
    return found


def compared(
    name: str,
    kind: type[Optimizer],
    shapes: Sequence[tuple[int, ...]],
    *,
    device: torch.device,
    rounds: int,
    turn_seconds: float = TURN_SECONDS,
) -> Comparison:
    """`kind` beside AdamW and public classes, all on tensors of `shapes`; on the matrices where it takes no others.

    Raises what `kind` raises on the matrices.
    """
    tensors = "all"
    try:
        ours = _started(name, kind, shapes, device)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        tensors, shapes = "matrices", [shape for shape in shapes if len(shape) == 2]
        ours = _started(name, kind, shapes, device)
    fused = _started("fused", functools.partial(torch.optim.AdamW, fused=True), shapes, device)
    foreach = _started("foreach", functools.partial(torch.optim.AdamW, foreach=True), shapes, device)
    public = list(_public_runners(kind.__name__, shapes, device))
    seconds = _in_turns([ours, fused, foreach, *public], rounds, turn_seconds)
    best = min(public, key=lambda each: statistics.median(seconds[each.name]), default=None)
    return Comparison(
        name=name,
        tensors=tensors,
        seconds=statistics.median(seconds[name]),
        to_fused=_ratio(seconds[name], seconds["fused"]),
        to_foreach=_ratio(seconds[name], seconds["foreach"]),
        state_bytes=ours.state_bytes,
        public=best.name if best else None,
        to_public=_ratio(seconds[name], seconds[best.name]) if best else None,
        public_state_bytes=best.state_bytes if best else None,
    )


def table(rows: Sequence[Comparison]) -> Table:
    """One line for each class."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("class", "tensors", "ms/step", "/ AdamW fused", "/ foreach", "state B", "/ public", "state B"):
        shown.add_column(column, justify="left" if column in ("class", "tensors") else "right")
    shown.add_column("fastest public class", justify="left", overflow="fold")
    for row in rows:
        shown.add_row(
            row.name,
            row.tensors,
            f"{row.seconds * 1e3:.3f}",
            f"{row.to_fused:.2f}",
            f"{row.to_foreach:.2f}",
            f"{row.state_bytes:.2f}",
            "" if row.to_public is None else f"{row.to_public:.2f}",
            "" if row.public_state_bytes is None else f"{row.public_state_bytes:.2f}",
            row.public or "none installed",
        )
    return shown


def _public_runners(name: str, shapes: Sequence[tuple[int, ...]], device: torch.device) -> list[Runner]:
    """Public classes of this name, in any case, that run on these tensors; with foreach where they have it."""
    runners = []
    for dotted, make in _public_classes(name):
        ways: dict[str, Make] = {dotted: make}
        if "foreach" in inspect.signature(make).parameters:
            ways[f"{dotted}, foreach"] = functools.partial(make, foreach=True)
        for label, way in ways.items():
            try:
                runners.append(_started(label, way, shapes, device))
            except Exception:  # a class that takes other tensors is no peer on these
                continue
    return runners


def _public_classes(name: str) -> list[tuple[str, Callable[..., Optimizer]]]:
    found: list[tuple[str, Callable[..., Optimizer]]] = []
    for library in LIBRARIES:
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        found += [
            (f"{library}.{each}", kind)
            for each, kind in vars(module).items()
            if each.lower() == name.lower() and isinstance(kind, type) and issubclass(kind, Optimizer)
        ]
    if name in OTHER_NAMES:
        dotted, arguments = OTHER_NAMES[name]
        library, _, each = dotted.rpartition(".")
        found.append((dotted, functools.partial(getattr(importlib.import_module(library), each), **arguments)))
    return found


def _started(
    name: str, make: Callable[..., Optimizer], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> Runner:
    """An optimizer that has made its first steps, on parameters and gradients that are the same for all."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter((0.02 * torch.randn(shape, generator=generator)).to(device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = (1e-3 * torch.randn(parameter.shape, generator=generator)).to(device)
    # So small that weights stay what they are, however many steps are timed.
    optimizer = make(parameters, lr=1e-6)
    runner = Runner(name, optimizer, parameters)
    runner.seconds(3)
    return runner


def _in_turns(runners: Sequence[Runner], rounds: int, turn_seconds: float) -> dict[str, list[float]]:
    """Seconds of a step of each, by round."""
    steps = {runner.name: max(3, int(turn_seconds / runner.seconds(3))) for runner in runners}
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for number in range(rounds):
        # Nobody is always first.
        for runner in [*runners[number % len(runners) :], *runners[: number % len(runners)]]:
            seconds[runner.name].append(runner.seconds(steps[runner.name]))
    return seconds


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _transformer_shapes(*, symbols: int, positions: int, width: int, layers: int) -> list[tuple[int, ...]]:
    layer: list[tuple[int, ...]] = [
        (width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,),
        (width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,),
    ]  # fmt: skip
    return [(symbols, width), (positions, width), *layer * layers, (width,), (width,)]


def _bytes(state: object) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_bytes, state.values()))
    return sum(map(_bytes, state)) if isinstance(state, list | tuple) else 0


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
