"""What it takes to evaluate on more rows than memory should hold: clicks in Criteo's form, written here and prepared.

Run by `make clicks`. A fifth of the rows train, two thirds of the others test, the rest validate; a process
that does as the referee does judges a small network on the validation split twenty times, and says what memory it had.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from harness import command_line
from harness.api import PREPARED, SPLITS, SplitName
from harness.config import ROOT
from harness.plugins.data import load_verified
from harness.race.judge import Judge
from harness.trial.loader import Loader
from harness.trial.order import Order
from tests.workloads.full.criteo_days import write_days
from workloads.full.criteo1tb import Criteo1tb
from workloads.full.data.criteo import Clicks, prepare_clicks

_LIMIT_GIB = 2.0
_EVALUATIONS = 20
_BATCH = 131072
_JUDGE = "judge"
_HELD_OUT: tuple[SplitName, ...] = ("validation", "test")


def main(arguments: Sequence[str]) -> int:
    """Each part with its seconds; exit code 1 where the judge had more than 2 GiB."""
    if arguments and arguments[0] == _JUDGE:
        return judge(Path(arguments[1]))
    rows = command_line.whole_number(command_line.options(arguments, ["rows"]), "rows", 10_000_000)
    torch.set_num_threads(1)
    console = Console()
    days = [rows // 10, rows // 10, rows - 2 * (rows // 10)]
    with tempfile.TemporaryDirectory() as folder:
        data, place = Path(folder), Path(folder) / "criteo1tb"
        began = time.perf_counter()
        write_days(place / "raw", days)
        packed = sum(path.stat().st_size for path in (place / "raw").iterdir())
        console.print(f"written: {rows} rows, {packed / 1e9:.2f} GB packed, {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        for split in SPLITS:
            prepare_clicks(place, split, rows=days, test_rows=2 * days[-1] // 3)
        seconds = time.perf_counter() - began
        console.print(f"prepared: {seconds:.0f} s, {rows / seconds:,.0f} rows a second")
        _index(place / "train", console)
        command = [sys.executable, "-m", "benchmarks.clicks", _JUDGE, str(data)]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def _index(folder: Path, console: Console) -> None:
    """Batches in the order of training."""
    examples = Clicks(folder)
    order = Order(len(examples), 1, torch.device("cpu"), examples.run_length)
    loader = Loader(examples, 1)
    for number in range(10):
        loader.batch(order.draw(_BATCH), number * _BATCH, order)
    console.print(f"indexed: {10 * _BATCH / loader.waited_seconds:,.0f} rows a second in batches of {_BATCH}")


def judge(folder: Path) -> int:
    """What the referee does with its splits, in a process of its own."""
    torch.set_num_threads(1)
    console = Console()
    workload = Criteo1tb(
        tables=[16384] * 4, embedding_width=8, bottom=[16, 8], top=[16], embedding_scale=0.004, float_ids=False
    )
    validation, test = (load_verified(workload, split, folder, PREPARED) for split in _HELD_OUT)
    judge = Judge(workload, torch.device("cpu"), validation, test, _BATCH)
    began = time.perf_counter()
    found = [judge.validation()["bce"] for _ in range(_EVALUATIONS)]
    seconds = (time.perf_counter() - began) / _EVALUATIONS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    console.print(
        f"judged: {_EVALUATIONS} evaluations of {len(validation)} rows, {seconds:.1f} s each, bce {found[0]:.6f} "
        f"{'each time' if len(set(found)) == 1 else 'NOT each time'}; the process had {peak:.2f} GiB at most"
    )
    return 0 if peak < _LIMIT_GIB and len(set(found)) == 1 else 1


if __name__ == "__main__":
    sys.exit(command_line.run(main))
