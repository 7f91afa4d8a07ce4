"""What the AlgoPerf adapter costs: AdamW in AlgoPerf's API against the same update written as a plain loop.

Both are trials under the real referee, one after the other, in pairs that take turns at being first; printed is the
median over pairs of the ratio of their processor seconds per step, with an interval that holds the true median in at
least 95 of 100 runs. Run by `make adapter-overhead`; `ARGS='pairs=30 workload=a,b'` for a closer look.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timed_trials import quick_judge, timed_trial
from harness import command_line
from harness.api import ConfigError
from harness.command_line import PlainConsole
from harness.config import WorkloadConfig, load
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.outcome import TrialSpec
from harness.race.referee import Referee
from harness.race.sandbox import Sandbox

IN_ALGOPERFS_API = Path(__file__).resolve().parents[1] / "tests" / "algoperf" / "adamw_with_warmup"
HYPERPARAMETERS: dict[str, Any] = {
    "learning_rate": 0.001, "one_minus_beta1": 0.1, "beta2": 0.999, "weight_decay": 0.01, "warmup_factor": 0.05,
}  # fmt: skip
# The same statements in the same order.
PLAIN_LOOP = """
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

def train(trial, hp):
    optimizer = torch.optim.AdamW(
        trial.model.parameters(), lr=hp.learning_rate, betas=(1.0 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay, fused=False,
    )
    warmup_steps = max(1, int(hp.warmup_factor * trial.step_hint))
    warmup = LinearLR(optimizer, start_factor=1e-10, end_factor=1.0, total_iters=warmup_steps)
    cosine = CosineAnnealingLR(optimizer, T_max=max(trial.step_hint - warmup_steps, 1))
    schedule = SequentialLR(optimizer, schedulers=[warmup, cosine], milestones=[warmup_steps])
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        trial.model.train()
        optimizer.zero_grad()
        trial.loss(batch).backward()
        optimizer.step()
        schedule.step()
"""
WORKLOADS = ("digits_mlp", "flights_delay", "kjv_char_lm")
PAIRS = 15
SECONDS = 1.5
WINDOWS = 6
AIM = 1.05


def main(arguments: Sequence[str]) -> int:
    """`pairs=15 workload=a,b`. Raises ConfigError for fewer pairs than an interval needs."""
    given = command_line.options(arguments, ("pairs", "workload"))
    pairs = command_line.whole_number(given, "pairs", PAIRS)
    interval([1.0] * pairs)
    console = PlainConsole(width=max(100, Console().width))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("workload", "plain CPU ms/step", "adapter CPU ms/step", "adapter / plain", "95 % interval", "aim"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for name in command_line.names(given.get("workload", ",".join(WORKLOADS))):
        config = load("workload", name, WorkloadConfig)
        if not data.is_present(create_workload(config.entry, config.options), data.data_folder()):
            console.print(f"{name}: left out, no data; make data WORKLOAD={name}")
            continue
        console.print(f"{name}: {pairs} pairs ...", style="dim")
        found = raced(config, pairs, SECONDS)
        ratios = [adapted / plain for plain, adapted in found]
        low, high = interval(ratios)
        table.add_row(
            name,
            f"{statistics.median(plain for plain, _ in found) * 1e3:.3f}",
            f"{statistics.median(adapted for _, adapted in found) * 1e3:.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{AIM:.2f}",
        )
    console.print(table)
    return 0


def raced(config: WorkloadConfig, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """Processor seconds per step of the plain loop and of the adapter, pair by pair."""
    judge = quick_judge(config)
    found = []
    with Sandbox(torch.device("cpu"), threads=1) as sandbox, tempfile.TemporaryDirectory() as scratch:
        plain_loop = Path(scratch) / "plain"
        plain_loop.mkdir()
        (plain_loop / "submission.py").write_text(PLAIN_LOOP, encoding="utf-8")
        plain = timed_trial(config, plain_loop, seconds=seconds, windows=WINDOWS, hyperparameters=HYPERPARAMETERS)
        adapted = timed_trial(
            config, IN_ALGOPERFS_API, seconds=seconds, windows=WINDOWS, api="algoperf", hyperparameters=HYPERPARAMETERS
        )
        step_seconds(plain, judge, sandbox)  # the first start of the server is not what is measured
        for number in range(pairs):
            turn = [plain, adapted] if number % 2 == 0 else [adapted, plain]
            took = {spec.submission["folder"]: step_seconds(spec, judge, sandbox) for spec in turn}
            found.append((took[plain.submission["folder"]], took[adapted.submission["folder"]]))
    return found


def step_seconds(spec: TrialSpec, judge: Judge, sandbox: Sandbox) -> float:
    """Of the processors' time, for a step between the first evaluation of a trial and the last.

    What other processes take of the machine does not count. Raises ConfigError where there were no two evaluations.
    """
    with tempfile.TemporaryDirectory() as scratch:
        outcome = Referee(judge, sandbox).run(spec, Path(scratch) / "trainer")
    seen = [(each.step, each.cpu_seconds) for each in outcome.observations if each.cpu_seconds is not None]
    if len(seen) < 2 or seen[0][0] == seen[-1][0]:
        raise ConfigError(
            f"a trial of {spec.submission['folder']} has no two evaluations with the processors' time: it is "
            f"{outcome.status}, {outcome.reason}. Name another workload."
        )
    (first, before), (last, after) = seen[0], seen[-1]
    return (after - before) / (last - first)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values that have their median between them in 95 of 100 such samples, whatever the distribution.

    Raises ConfigError for fewer than six, which hold no such pair.
    """
    count, ordered = len(values), sorted(values)
    # Of the values below the median there are so many or fewer in 2.5 of 100 samples.
    tail, cut = 0.0, -1
    for below in range(count):
        tail += math.comb(count, below) / 2**count
        if tail > 0.025:
            break
        cut = below
    if cut < 0:
        raise ConfigError(f"{count} pairs say nothing for sure. Use at least 6: pairs=6.")
    return ordered[cut], ordered[-1 - cut]


if __name__ == "__main__":
    sys.exit(command_line.run(main))
