"""Runs every cell, a fault at a state, and prints the table of both with the count. Run by `make faults`.

`only=pattern` runs the cells whose name it is found in; `jobs=3` so many at once: some only wait.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness import command_line
from tests.faults.cells import cells
from tests.faults.checks import end_of, lacking
from tests.faults.conductor import World


def main(arguments: Sequence[str]) -> int:
    """Returns 1 where a cell left what it must not."""
    # A shell that starts this in the background has it ignore Ctrl-C, and what it starts as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = command_line.options(arguments, ["only", "jobs"])
    pattern, jobs = options.get("only", ""), command_line.whole_number(options, "jobs", 3)
    began = time.monotonic()
    absent, known = lacking(), cells()
    chosen = [number for number, cell in enumerate(known) if re.search(pattern, cell.name)]
    runnable = [number for number in chosen if known[number].needs not in absent]
    print(f"{len(runnable)} cells", flush=True)
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        world = World(Path(folder))
        world.prepare(known[number] for number in runnable)
        # What takes long goes first, so that nothing waits for it at the end.
        runnable.sort(key=lambda number: not (known[number].launched or "hangs" in known[number].name))
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(jobs, context) as pool:
            ends = dict(zip(runnable, pool.map(end_of, runnable, [folder] * len(runnable)), strict=True))
    _print_table((known[number].fault, _mark(known[number].state.title, ends.get(number))) for number in chosen)
    wrong = {number: end for number, end in ends.items() if end}
    for number, end in wrong.items():
        print(f"wrong: {known[number].name}", *end, sep="\n    ")
    for need in sorted(absent):
        print(f"not run here, which need {need}: {sum(known[number].needs == need for number in chosen)}")
    print(f"{len(ends) - len(wrong)} of {len(ends)} cells left what they must, in {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _mark(title: str, end: list[str] | None) -> str:
    """The state where the cell is sound, (in brackets) where it was not run, IN CAPITALS where it is not sound."""
    return f"({title})" if end is None else title.upper() if end else title


def _print_table(cells_of: Iterable[tuple[str, str]]) -> None:
    """One line for each fault: at how many states it strikes, and at which."""
    faults: dict[str, list[str]] = defaultdict(list)
    for fault, state in cells_of:
        faults[fault].append(state)
    for fault, states in faults.items():
        print(f"{fault:<45} {len(states):>3}  {'; '.join(states)}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
