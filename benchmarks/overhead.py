"""What refereeing costs: charged seconds per step of a trial against the same loop in bare PyTorch, in a fresh process.

Both run the same model, data and optimizer with one thread, interleaved, so that noise of the machine falls on both;
printed are ratios, with their spread. Run by `make overhead`. `ARGS='rounds=20 workload=a,b'` for a closer look.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timed_trials import quick_judge, timed_trial
from harness import command_line
from harness.config import WorkloadConfig, load
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.race.processes import ALLOCATOR
from harness.race.referee import Referee
from harness.race.sandbox import Sandbox
from harness.study.machine.calibration import step_seconds

WINDOWS = 6
SUBMISSION = """
import time

import torch

def train(trial, hp):
    print(time.monotonic())
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=1e-3)
    for batch in trial.batches({batch_size}):
        loss = trial.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
"""


@dataclass(frozen=True)
class Case:
    """One workload with a batch size, for a number of seconds per measurement, and the ratio that is aimed at."""

    workload: str
    batch_size: int
    seconds: float
    aim: float


# Short measurements in many pairs: the speed of the machine drifts by more than what is looked for.
CASES = [
    Case("digits_mlp", 16, 3.0, 1.10),
    Case("fashion_mnist_cnn", 128, 5.0, 1.02),
    Case("kjv_char_lm", 16, 6.0, 1.02),
]


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] == "bare":
        print(bare(arguments[1], int(arguments[2]), float(arguments[3])))
        return 0
    chosen = command_line.options(arguments, ("rounds", "workload"))
    rounds = int(chosen.get("rounds", "9"))
    names = chosen.get("workload", ",".join(case.workload for case in CASES)).split(",")
    console = Console(highlight=False, width=max(100, Console().width))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (
        "workload",
        "batch",
        "bare ms/step",
        "trial ms/step",
        "trial / bare",
        "lowest-highest",
        "aim",
        "start",
        "pauses and end",
    ):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for case in (case for case in CASES if case.workload in names):
        config = load("workload", case.workload, WorkloadConfig)
        workload = create_workload(config.entry, config.options)
        if not data.is_present(workload, data.data_folder()):
            console.print(f"{case.workload}: left out, no data; make data WORKLOAD={case.workload}")
            continue
        pairs, starts, rests = [], [], []
        with Sandbox(torch.device("cpu"), threads=1) as sandbox:
            trial_seconds(case, config, sandbox)  # the first start of the server is not what is measured
            for number in range(rounds):
                console.print(f"{case.workload}: round {number + 1} of {rounds} ...", style="dim")
                bare_first = number % 2 == 0
                before = run_bare(case) if bare_first else None
                seconds, start, rest = trial_seconds(case, config, sandbox)
                pairs.append((before if before is not None else run_bare(case), seconds))
                starts.append(start)
                rests.append(rest)
        ratios = sorted(trial / alone for alone, trial in pairs)
        table.add_row(
            case.workload,
            str(case.batch_size),
            f"{statistics.median(alone for alone, _ in pairs) * 1e3:.3f}",
            f"{statistics.median(trial for _, trial in pairs) * 1e3:.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{ratios[0]:.3f}-{ratios[-1]:.3f}",
            f"{case.aim:.2f}",
            f"{statistics.median(starts):.3f} s",
            f"{statistics.median(rests):.3f} s",
        )
    console.print(table)
    return 0


def run_bare(case: Case) -> float:
    """Seconds per step of the bare loop in a fresh process."""
    bare_loop = [
        sys.executable,
        "-m",
        "benchmarks.overhead",
        "bare",
        case.workload,
        str(case.batch_size),
        str(case.seconds),
    ]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(bare_loop, env=environment, capture_output=True, encoding="utf-8", check=True)
    return float(done.stdout.strip().splitlines()[-1])


def bare(name: str, batch_size: int, seconds: float) -> float:
    """What a person would write without this suite: tensors in memory, a permutation per epoch, the plain loss."""
    torch.set_num_threads(1)
    config = load("workload", name, WorkloadConfig)
    workload = create_workload(config.entry, config.options)
    train_set = data.load_verified(workload, "train", data.data_folder(), config.content["train"])
    torch.manual_seed(0)
    model = workload.build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    points, steps = [], 0
    started = last = time.perf_counter()
    while True:
        for index in torch.randperm(len(train_set)).split(batch_size):
            if len(index) < batch_size:
                continue
            batch = train_set.gather(index)
            logits = model(batch["inputs"])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), batch["targets"].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps += 1
            now = time.perf_counter()
            if now - last >= seconds / WINDOWS:
                points.append((steps, now - started))
                last = now
                if now - started >= seconds:
                    return step_seconds(points)


def trial_seconds(case: Case, config: WorkloadConfig, sandbox: Sandbox) -> tuple[float, float, float]:
    """Charged seconds per step of a trial, hand-over at evaluations included; two more that nobody is charged for.

    These are the seconds until the submission's first line ran, and those of all pauses for evaluations (less the
    evaluations themselves) and of the end.
    """
    judge = quick_judge(config)
    with tempfile.TemporaryDirectory() as scratch:
        submission = Path(scratch) / "submission"
        submission.mkdir()
        (submission / "submission.py").write_text(SUBMISSION.format(batch_size=case.batch_size), encoding="utf-8")
        spec = timed_trial(config, submission, seconds=case.seconds, windows=WINDOWS, batch_size=case.batch_size)
        asked = time.monotonic()
        outcome = Referee(judge, sandbox).run(spec, Path(scratch) / "trainer")
    start = float(outcome.log.splitlines()[0]) - asked
    rest = outcome.total_seconds - outcome.charged_seconds - outcome.evaluation_seconds - start
    per_step = step_seconds([(seen.step, seen.charged_seconds) for seen in outcome.observations])
    return per_step, start, rest


if __name__ == "__main__":
    sys.exit(command_line.run(lambda arguments: main(list(arguments))))
