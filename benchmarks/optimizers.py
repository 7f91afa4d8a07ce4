"""Step time and state of the optimizer classes of submissions/ beside AdamW and public classes of the same method.

On the same tensors, in one run, in turns, so that noise of the machine falls on all; printed are ratios. Run by
`make optimizer-speed`: tiny, small and large tensors, or with `DEVICE=cuda` those of a GPT-2 small.
`ARGS='rounds=20 submission=lion tensors=small'` for a closer look.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.optimizer_peers import OUR_ARGUMENTS, Make, missing_libraries, peers_of
from harness import command_line
from harness.api import ConfigError, one_line, visible
from harness.command_line import PlainConsole
from harness.plugins.submission import SUBMISSIONS, load_submission
from harness.plugins.submission_files import PREDICTOR

ROUNDS = 9
# Long enough that the clock and the call around it do not count.
TURN_SECONDS = 0.05
# Rules with a basis or a root renew it every so many steps: a turn of any multiple pays its share of that.
CYCLE = 10
LONGEST_SECONDS = 60.0


@dataclass
class Runner:
    """An optimizer on parameters of its own, with gradients that stay."""

    name: str
    optimizer: Optimizer
    parameters: list[nn.Parameter]

    def seconds(self, steps: int) -> float:
        """Of one step, as the mean over so many; on a CPU of its time, so that what others take does not count."""
        is_cuda = self.parameters[0].device.type == "cuda"
        clock = time.perf_counter if is_cuda else time.process_time
        if is_cuda:
            torch.cuda.synchronize()
        began = clock()
        for _ in range(steps):
            self.optimizer.step()
        if is_cuda:
            torch.cuda.synchronize()
        return (clock() - began) / steps

    @property
    def state_bytes(self) -> float:
        """For each parameter."""
        held = sum(_bytes(state) for state in self.optimizer.state.values())
        return held / sum(parameter.numel() for parameter in self.parameters)


@dataclass(frozen=True)
class Public:
    """A public class of the same method beside one of ours, on the same tensors."""

    name: str
    seconds: float
    ratio: float
    """Of our step time to its, the median over rounds; so all ratios here."""
    state_bytes: float
    differs: str


@dataclass(frozen=True)
class Comparison:
    """One class of ours beside the others."""

    name: str
    tensors: str
    seconds: float
    to_fused: float
    to_foreach: float
    state_bytes: float
    public: Sequence[Public]
    """Fastest first. Empty: none is installed, or none runs on these tensors."""


def tiny_shapes() -> list[tuple[int, ...]]:
    """Of a transformer with 2 layers of width 16: 28 tensors, 8,000 parameters. A step is mostly calls."""
    return _transformer_shapes(symbols=64, positions=16, width=16, layers=2)


def small_shapes() -> list[tuple[int, ...]]:
    """Of a transformer with 4 layers of width 128: 52 tensors, 860,000 parameters."""
    return _transformer_shapes(symbols=512, positions=64, width=128, layers=4)


def large_shapes() -> list[tuple[int, ...]]:
    """Of a transformer with 3 layers of width 384: 40 tensors, 6 million parameters. More than a cache holds."""
    return _transformer_shapes(symbols=1024, positions=256, width=384, layers=3)


def gpt2_small_shapes() -> list[tuple[int, ...]]:
    """Of GPT-2 small, embedding and output tied: 148 tensors, 124 million parameters."""
    return _transformer_shapes(symbols=50257, positions=1024, width=768, layers=12)


CPU_TENSORS = {"tiny": tiny_shapes, "small": small_shapes, "large": large_shapes}
CUDA_TENSORS = {"gpt2_small": gpt2_small_shapes}


def main(arguments: Sequence[str]) -> int:
    """`device=cpu|cuda rounds=9 submission=a,b tensors=tiny,small`. Raises ConfigError for what there is not."""
    given = command_line.options(arguments, ("device", "rounds", "submission", "tensors"))
    device = torch.device(given.get("device", "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE is cuda, and there is none here. Use DEVICE=cpu.")
    rounds = command_line.whole_number(given, "rounds", ROUNDS)
    torch.set_num_threads(1)
    sets = CPU_TENSORS if device.type == "cpu" else CUDA_TENSORS
    chosen = command_line.names(given.get("tensors", "")) or list(sets)
    for unknown in [name for name in chosen if name not in sets]:
        raise ConfigError(f"tensors is {unknown!r}. On {device.type} use {', '.join(sets)}.")
    classes = classes_of(command_line.names(given.get("submission", "")))
    console = PlainConsole(width=max(120, Console().width))
    for library in missing_libraries():
        console.print(
            f"{library} is not installed: its classes are not compared. "
            "`.venv/bin/pip install -c constraints.txt '.[optimizers]'` brings it."
        )
    has_failed = False
    for size in chosen:
        rows, left_out = [], []
        for name, kind in classes:
            if not is_timed(kind):
                left_out.append(f"{name}: its step needs more than gradients")
                continue
            console.print(f"{name}, {size} ...", style="dim")
            try:
                rows.append(compared(name, kind, sets[size](), device=device, rounds=rounds))
            except Exception as error:  # of a class of anybody's
                has_failed = True
                left_out.append(f"{name}: {type(error).__name__}: {one_line(error)}")
        console.print(table(rows, f"{size} tensors"))
        for line in left_out:
            console.print(f"left out: {line}", soft_wrap=True)
    return 1 if has_failed else 0


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
        if load_submission(str(path.parent)).api == "algoperf":  # its code imports names that its adapter alone gives
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


def is_timed(kind: type[Optimizer]) -> bool:
    """Whether a step of it needs gradients alone."""
    return "lr" in inspect.signature(kind).parameters


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
    _let_freed_memory_stay()
    tensors, make = "all", functools.partial(kind, **OUR_ARGUMENTS.get(kind.__name__, {}))
    try:
        ours = started(name, make, shapes, device)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        tensors, shapes = "matrices", [shape for shape in shapes if len(shape) == 2]
        ours = started(name, make, shapes, device)
    fused = started("fused", functools.partial(torch.optim.AdamW, fused=True), shapes, device)
    foreach = started("foreach", functools.partial(torch.optim.AdamW, foreach=True), shapes, device)
    public, differences = [], {}
    for peer in peers_of(kind.__name__):
        for label, way in peer.ways():
            try:
                public.append(started(label, way, shapes, device))
            except Exception:  # a class that takes other tensors is no peer on these
                continue
            differences[label] = peer.differs
    seconds = _in_turns([ours, fused, foreach, *public], rounds, turn_seconds)
    rows = [
        Public(
            name=each.name,
            seconds=statistics.median(seconds[each.name]),
            ratio=_ratio(seconds[name], seconds[each.name]),
            state_bytes=each.state_bytes,
            differs=differences[each.name],
        )
        for each in public
    ]
    return Comparison(
        name=name,
        tensors=tensors,
        seconds=statistics.median(seconds[name]),
        to_fused=_ratio(seconds[name], seconds["fused"]),
        to_foreach=_ratio(seconds[name], seconds["foreach"]),
        state_bytes=ours.state_bytes,
        public=sorted(rows, key=lambda row: -row.ratio),
    )


def started(name: str, make: Make, shapes: Sequence[tuple[int, ...]], device: torch.device) -> Runner:
    """An optimizer that has made its first steps, on parameters and gradients that are the same for all.

    Raises ValueError for one that takes its gradients away: its further steps would do nothing, at great speed.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter((0.02 * torch.randn(shape, generator=generator)).to(device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = (1e-3 * torch.randn(parameter.shape, generator=generator)).to(device)
    # So small that weights stay what they are, however many steps are timed.
    optimizer = make(parameters, lr=1e-6)
    runner = Runner(name, optimizer, parameters)
    runner.seconds(CYCLE)
    if any(parameter.grad is None for parameter in parameters):
        raise ValueError("it takes gradients away when it steps")
    return runner


def table(rows: Sequence[Comparison], title: str) -> Table:
    """A line for each class of ours, and below it one for each public class of the method."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("class", "tensors", "ms/step", "/ AdamW fused", "/ foreach", "state B", "ours / it"):
        shown.add_column(column, justify="left" if column in ("class", "tensors") else "right", no_wrap=True)
    shown.add_column("what differs", justify="left", overflow="fold")
    for row in rows:
        ours = (f"{row.seconds * 1e3:.3f}", f"{row.to_fused:.2f}", f"{row.to_foreach:.2f}", f"{row.state_bytes:.2f}")
        shown.add_row(row.name, row.tensors, *ours, "", "" if row.public else "no public class")
        for each in row.public:
            numbers = (f"{each.seconds * 1e3:.3f}", "", "", f"{each.state_bytes:.2f}", f"{each.ratio:.2f}")
            shown.add_row(f"  {each.name}", "", *numbers, each.differs)
    return shown


def _let_freed_memory_stay() -> None:
    """What a training step has done to the allocator before an optimizer steps, with its activations.

    glibc gives memory back to the system, and gets it page by page again, by the size of the largest block that was
    ever freed. Otherwise classes that make large tensors on the way are timed by what ran before them.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _in_turns(runners: Sequence[Runner], rounds: int, turn_seconds: float) -> dict[str, list[float]]:
    """Seconds of a step of each, by round; of fewer rounds where they would take more than `LONGEST_SECONDS`."""
    once = {runner.name: runner.seconds(3) for runner in runners}
    steps = {runner.name: CYCLE * max(1, round(turn_seconds / (CYCLE * once[runner.name]))) for runner in runners}
    round_seconds = sum(steps[name] * seconds for name, seconds in once.items())
    rounds = max(1, min(rounds, int(LONGEST_SECONDS / round_seconds)))
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


if __name__ == "__main__":
    sys.exit(command_line.run(main))
