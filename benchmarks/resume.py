"""Kills one checkpointed trial again and again, and compares its curve and its charge with those of untouched runs.

By `make resume-check`, in about ten minutes. Evaluated by steps on one CPU thread, every loss must be the same bit for
bit. Each step is stretched by sleep to the same length: on a machine that others use, the charge of two untouched runs
otherwise differs by far more than the 1 % that is looked for. What is killed by SIGKILL, at a random moment after the
trial was begun or taken up, is either the referee alone or all processes at once. Printed: kills, resumes, and the
charge of the killed trial over the mean of two untouched ones, beside the ratio of these two.
Exit code 1 where a loss differs, or the charge by more than 1 % and more than between the untouched ones.
Arguments: `kills=20 seed=0 workload=digits_mlp submission=schedule_free_adamw steps=600`, `pace=0.1` (seconds a step),
`folder=` (where to keep the runs).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from harness import command_line
from harness.api import ConfigError
from harness.config import ROOT, WorkloadConfig, load
from harness.plugins.submission import load_submission
from harness.records.tables import read_table

SAME = ["evaluation", "step", "examples", "validation", "validation_loss", "test", "test_loss", "other_metrics"]
"""What a kill must not change of an evaluation."""
TOLERANCE = 0.01
EVALUATIONS = 60
CHECKPOINT_EVALUATIONS = 2
_PACED = """
import time

from plain import train as plain_train


def train(trial, hp):
    batches = trial.batches

    def paced(batch_size=None):
        for batch in batches(batch_size):
            began = time.perf_counter()
            yield batch
            time.sleep(max(0.0, {pace} - (time.perf_counter() - began)))

    trial.batches = paced
    plain_train(trial, hp)
"""


@dataclass(frozen=True)
class Setting:
    """What is killed, and how often."""

    workload: str
    submission: str
    steps: int
    pace: float
    kills: int
    seed: int


@dataclass(frozen=True)
class Findings:
    """What came out."""

    kills: int
    resumes: int
    different: list[str]
    """Columns of the evaluations that differ; empty: bit-equal."""
    ratio: float
    """Charge of the killed trial over the mean of two untouched ones."""
    noise: float
    """Charge of one untouched trial over that of the other."""

    @property
    def is_as_untouched(self) -> bool:
        """No loss differs, and the charge by no more than TOLERANCE or than untouched trials do among themselves."""
        return not self.different and abs(self.ratio - 1.0) <= max(TOLERANCE, abs(self.noise - 1.0))


def measure(setting: Setting, folder: Path) -> Findings:
    """Two untouched runs and the killed one, in `folder`.

    Raises RuntimeError where the trial was over before all kills, a bench fails, or a process is left behind.
    """
    paced = _paced(setting, folder)
    bench = _bench(setting, paced)
    for name in ("untouched", "again"):
        _finish([*bench, f"results={folder / name}"])
        print(f"{name}: {_trial(folder / name)['charged_seconds']:.2f} s charged", flush=True)
    chance = random.Random(setting.seed)
    killed = [*bench, f"results={folder / 'killed'}"]
    for number in range(setting.kills):
        # A machine that others use may take long to start: from then on, moments are counted in evaluations.
        evaluations = chance.choice([None, 0, 1, 2, 3])
        seconds = chance.uniform(0.0, 2.0 if evaluations is None else setting.steps / EVALUATIONS * setting.pace)
        _kill(killed, folder / "killed", evaluations, seconds, everything=chance.random() < 0.5)
        steps = [json.loads(line)["step"] for line in _lines(folder / "killed", "checkpoint")]
        print(f"killed {number + 1} times; the last checkpoint is at step {max(steps, default=0)}", flush=True)
    _finish(killed)
    trial, whole, again = (_trial(folder / name) for name in ("killed", "untouched", "again"))
    return Findings(
        kills=setting.kills,
        resumes=int(trial["resumes"]),
        different=_differences(folder / "untouched", folder / "killed"),
        ratio=2 * trial["charged_seconds"] / (whole["charged_seconds"] + again["charged_seconds"]),
        noise=again["charged_seconds"] / whole["charged_seconds"],
    )


def _paced(setting: Setting, folder: Path) -> Path:
    """A copy of the submission whose steps take at least `pace` seconds."""
    submission = load_submission(setting.submission)
    if submission.entry is not None:
        raise ConfigError(f"{setting.submission} has no submission.py to be paced. Use one that has.")
    paced = folder / f"paced_{submission.name}"
    shutil.copytree(submission.folder, paced, ignore=shutil.ignore_patterns("__pycache__"))
    (paced / "submission.py").rename(paced / "plain.py")
    (paced / "submission.py").write_text(_PACED.format(pace=setting.pace), encoding="utf-8")
    return paced


def _bench(setting: Setting, submission: Path) -> list[str]:
    unreachable = {"min": -1e9, "max": 1e9}[load("workload", setting.workload, WorkloadConfig).target.goal]
    every = setting.steps // EVALUATIONS
    return [
        *(sys.executable, "-m", "harness.commands.bench", f"workload={setting.workload}", f"submission={submission}"),
        *("tracking=off", f"evaluate_every_steps={every}", f"workload.budget.steps={setting.steps}"),
        f"workload.target.validation={unreachable}",
        f"++workload.checkpoint_evaluations={CHECKPOINT_EVALUATIONS}",
        # The clock is no limit here; a fixed number saves each start the look for a measured one.
        f"++hardware.seconds_per_step.{setting.workload}={max(setting.pace, 0.01)}",
    ]


def _finish(bench: list[str]) -> None:
    done = subprocess.run(bench, cwd=ROOT, env=_environment(), capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(bench)} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")


def _kill(bench: list[str], results: Path, evaluations: int | None, seconds: float, *, everything: bool) -> None:
    """Start the bench, and kill it so many seconds after that many evaluations more are in its journal.

    None: after the trial has been begun or taken up, while the trainer starts.
    """
    process = subprocess.Popen(bench, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL)
    before = _lines(results, "start", "resume")
    while _lines(results, "start", "resume") in (before, []):
        _sleep(0.005, process)
    if evaluations is not None:
        wanted = len(_lines(results, "evaluation")) + evaluations
        while len(_lines(results, "evaluation")) < wanted:
            _sleep(0.005, process)
    _sleep(seconds, process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for each in below if everything else []:
        each.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=30.0)
    if alive:
        raise RuntimeError(f"a killed referee left {len(alive)} processes behind: {alive}")


def _sleep(seconds: float, process: subprocess.Popen[bytes]) -> None:
    time.sleep(seconds)
    if process.poll() is not None:
        raise RuntimeError("the trial was over before all kills. Use fewer kills or more steps.")


def _lines(results: Path, *kinds: str) -> list[str]:
    """The lines of these kinds in the journal, without one that is still being written."""
    found = []
    for path in (results / "runs" / "journal").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and any(f'"kind": "{kind}"' in line for kind in kinds):
                found.append(line)
    return found


def _trial(results: Path) -> pd.Series[float]:
    trials = read_table(results / "runs", "trials", columns=["status", "charged_seconds", "resumes"])
    row: pd.Series[float] = trials.iloc[0]
    return row


def _differences(one: Path, other: Path) -> list[str]:
    left, right = (
        read_table(results / "runs", "evaluations", columns=SAME).sort_values("evaluation", ignore_index=True)
        for results in (one, other)
    )
    if len(left) != len(right):
        return [f"{len(left)} and {len(right)} rows"]
    return [name for name in SAME if not left[name].equals(right[name])]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main(arguments: list[str]) -> int:
    chosen = {
        "kills": "20",
        "seed": "0",
        "workload": "digits_mlp",
        "submission": "schedule_free_adamw",
        "pace": "0.1",
        "steps": "600",
        "folder": "",
    }
    chosen |= command_line.options(arguments, tuple(chosen))
    setting = Setting(
        workload=chosen["workload"],
        submission=chosen["submission"],
        steps=int(chosen["steps"]),
        pace=float(chosen["pace"]),
        kills=int(chosen["kills"]),
        seed=int(chosen["seed"]),
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(setting, Path(chosen["folder"] or temporary).resolve())
    print(f"{found.kills} kills, {found.resumes} resumes")
    print(f"losses: {'the same bit for bit' if not found.different else 'differ in ' + ', '.join(found.different)}")
    print(f"charge: {found.ratio:.4f} of the mean of two untouched runs, which are at {found.noise:.4f} to each other")
    return 0 if found.is_as_untouched else 1


if __name__ == "__main__":
    sys.exit(command_line.run(lambda given: main(list(given))))
