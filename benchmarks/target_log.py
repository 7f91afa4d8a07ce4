"""Keeps the runs that targets are set with as lines of a file, and does those that are missing, a few at a time.

A run is known by what decides its outcome: what was run before is not run again, and an old result is never taken for a
new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.target_runs import Bench, Plan, Probe, Run
from harness.api import Target
from harness.config import ROOT, WorkloadConfig
from harness.plugins.submission import load_submission

REFERENCE = ROOT / "results" / "reference" / "targets"


class Log:
    """The finished runs of one workload, a line each."""

    def __init__(self, path: Path, settings: WorkloadConfig, probe: Probe, *, until: Target | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        budget, metric = asdict(settings.budget), settings.target.metric
        self._path = path
        self._cause = [settings.options, settings.batch_size, settings.data, budget, metric, probe.fingerprint]
        if until is not None:
            self._cause.append(asdict(until))
        self._found = dict(_lines(path))

    def get(self, plan: Plan) -> Run | None:
        """The run, if it was done before."""
        return self._found.get(self._key(plan))

    def add(self, plan: Plan, run: Run) -> None:
        """Write a finished run down."""
        key = self._key(plan)
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"key": key, **asdict(run)}) + "\n")
        self._found[key] = run

    def _key(self, plan: Plan) -> str:
        code = (load_submission(plan.submission).folder / "submission.py").read_text(encoding="utf-8")
        what = [self._cause, plan.submission, code, dict(plan.hyperparameters), plan.seed, torch.__version__]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _lines(path: Path) -> Iterator[tuple[str, Run]]:
    """Runs with their keys. A last line that a crash cut short is left out, and lines of an older form."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            yield row.pop("key"), _run_of(row)


def read_runs(path: Path) -> list[Run]:
    """The runs that `write_runs` wrote; none where there is no file."""
    return (
        [_run_of(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """`runs`, a line each, without seconds, which say nothing about another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(run), "train_seconds": 0.0, "evaluation_seconds": 0.0} for run in runs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _run_of(row: dict[str, Any]) -> Run:
    return Run(**{**row, "curve": [(step, value) for step, value in row["curve"]]})


def run_all(plans: Sequence[Plan], bench: Bench, log: Log, *, settings: WorkloadConfig, jobs: int) -> list[Run]:
    """The runs of `plans`, in their order; those that the log lacks are done now, `jobs` at a time, and logged."""
    missing = [plan for plan in plans if log.get(plan) is None]
    for plan, finished in _finished(missing, bench, settings, jobs):
        log.add(plan, finished)
        print(line_of(finished, settings.target), flush=True)
    return [run for plan in plans if (run := log.get(plan))]


def _finished(plans: Sequence[Plan], bench: Bench, settings: WorkloadConfig, jobs: int) -> Iterator[tuple[Plan, Run]]:
    if jobs == 1 or len(plans) < 2:
        yield from ((plan, bench.run(plan)) for plan in plans)
        return
    fresh = multiprocessing.get_context("spawn")  # a fork of a process in which torch has run may hang
    with ProcessPoolExecutor(jobs, mp_context=fresh, initializer=_open, initargs=(settings,)) as pool:
        futures = {pool.submit(_run_in_worker, plan): plan for plan in plans}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


_OF_THIS_WORKER: list[Bench] = []


def _open(settings: WorkloadConfig) -> None:
    _OF_THIS_WORKER[:] = [Bench(settings)]


def _run_in_worker(plan: Plan) -> Run:
    return _OF_THIS_WORKER[0].run(plan)


def line_of(run: Run, target: Target) -> str:
    """A finished run for people to read."""
    point = "  ".join(f"{name} {value:.4g}" for name, value in run.hyperparameters.items())
    seconds = run.train_seconds + run.evaluation_seconds
    return (
        f"{run.workload}  {run.submission:<10} seed {run.seed:<2} {seconds:6.1f} s  best {target.metric} "
        f"{run.validation:.5g} (test {run.test:.5g}) at step {run.step}  | {point}"
    )
