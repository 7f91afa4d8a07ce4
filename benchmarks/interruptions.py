"""Kills a tuned bench again and again, and compares its tables with those of a run that nobody touched.

Two submissions on two workloads under the ruleset `external`, evaluated by steps so that every number but the times
is the same on each run. The interrupted one is killed by SIGKILL at random moments and started again with the same
command. Exit code 1, and the first differences, where a row differs, lacks or is there twice. Arguments: `kills=10
seed=0 every=100 folder=` (where to keep both runs), and any override of make bench, such as `workload=kjv_char_lm`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from harness.config import ROOT
from harness.records.tables import read_table

SAME_TRIALS = [
    *("trial_id", "workload", "submission", "ruleset", "study", "trial", "seed", "hyperparameters", "status"),
    *("pruned_by", "target_validation", "steps_to_target", "examples_to_target", "best_validation", "test_at_best"),
    *("steps", "examples", "submission_hash", "workload_hash", "data_hash"),
]
"""What an interruption must not change of the trials table; the rest are times, sizes and versions of a moment."""
SAME_EVALUATIONS = [
    *(
        "trial_id",
        "evaluation",
        "step",
        "examples",
        "stages_left",
        "validation",
        "validation_loss",
        "test",
        "test_loss",
        "other_metrics",
    )
]
_DEFAULTS = ["workload=digits_mlp,fashion_mnist_cnn", "submission=adamw,nesterov", "ruleset=external", "tracking=off"]


def tables(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the columns that must be the same, in one order."""
    trials = read_table(results / "runs", "trials", columns=SAME_TRIALS)
    evaluations = read_table(results / "runs", "evaluations", columns=SAME_EVALUATIONS)
    return (
        trials.sort_values(["trial_id"], ignore_index=True),
        evaluations.sort_values(["trial_id", "evaluation"], ignore_index=True),
    )


def differences(one: Path, other: Path) -> list[str]:
    """One line for each table that is not the same in both folders."""
    found = []
    for name, left, right in zip(("trials", "evaluations"), tables(one), tables(other), strict=True):
        if len(left) != len(right):
            found.append(f"{name}: {len(left)} rows and {len(right)}")
        elif not left.equals(right):
            unequal = left.compare(right)
            found.append(f"{name}: {len(unequal)} rows differ, the first:\n{unequal.head(3).to_string()}")
    return found


def run(overrides: list[str], results: Path, *, kill_after: float | None = None) -> bool:
    """Run the bench; True where it came to its end. `kill_after`: seconds until the referee is killed.

    Raises RuntimeError where a killed referee leaves a process behind.
    """
    command = [sys.executable, "-m", "harness.commands.bench", *overrides, f"results={results}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        process.wait(kill_after)
        return True
    except subprocess.TimeoutExpired:
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(below, timeout=30.0)
        if alive:
            raise RuntimeError(f"a killed referee left {len(alive)} processes behind: {alive}") from None
        return False


def main(arguments: list[str]) -> int:
    """Both runs and the comparison; returns the exit code."""
    options = {"kills": "10", "seed": "0", "every": "100", "folder": ""}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in options:
            options[key] = value
    given = [argument for argument in arguments if argument.partition("=")[0] not in options]
    names = {argument.partition("=")[0] for argument in given}
    defaults = [each for each in _DEFAULTS if each.partition("=")[0] not in names]
    overrides = [*defaults, f"evaluate_every_steps={options['every']}", *given]
    chance = random.Random(int(options["seed"]))
    kills = int(options["kills"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options["folder"] or temporary)
        started = time.monotonic()
        run(overrides, folder / "untouched")
        whole = time.monotonic() - started
        trials, evaluations = tables(folder / "untouched")
        print(f"untouched: {len(trials)} trials, {len(evaluations)} evaluations in {whole:.0f} s", flush=True)
        done = 0
        started = time.monotonic()
        while done < kills:
            # On average all kills together fall within four fifths of the work.
            if run(overrides, folder / "interrupted", kill_after=chance.uniform(0.0, 1.6 * whole / (kills + 1))):
                print(f"the work was done after {done} kills", flush=True)
                break
            done += 1
            rows = len(read_table(folder / "interrupted" / "runs", "trials", columns=["trial_id"]))
            print(f"killed {done} times, {rows} trials have a row", flush=True)
        run(overrides, folder / "interrupted")
        print(f"interrupted: {done} kills, {time.monotonic() - started:.0f} s in all", flush=True)
        found = differences(folder / "untouched", folder / "interrupted")
        left = list((folder / "interrupted" / "runs" / "journal").glob("*"))
    for line in found:
        print(line)
    if left:
        print(f"{len(left)} journals were left behind")
    print("the tables differ" if found else f"the same {len(trials)} trials and {len(evaluations)} evaluations")
    return 1 if found or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
