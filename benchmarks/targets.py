"""Sets a workload's target as AlgoPerf does: a small search with known methods, the best point of each on more seeds.

The validation target is the median over seeds of the best value that a run of the best method saw. It is eased until
two methods reach it on four seeds of five, and further where that lets in another method that misses it by less than
5 %: a near miss would make that method's time a toss of a coin. The test target is the worst test value of the best
method's runs that reach it. Runs have three quarters of the budget's steps, so that the budget is 4/3 of what the
target was set with. Trains in this process and counts steps, so nothing depends on the machine's speed. Each finished
run is a line in results/targets/WORKLOAD.jsonl, and is not run again. Prints the block for the YAML; changes no file.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import command, config, data
from harness.api import ConfigError, Examples, Hyperparameters, Target
from harness.config import WorkloadConfig
from harness.evaluation import evaluate
from harness.order import stream_seed
from harness.plugins import create_workload
from harness.search import draw, parse_space
from harness.submission import TrainFunction, load_submission, train_function
from harness.trial import Conditions, Evaluation, Go, Progress, Trial, TrialOver

POINTS = 8
SEED_OF_SEARCH = 0
SEEDS = (1, 2, 3, 4, 5)
NEAR_MISS = 0.05
_ADAM = {
    "learning_rate": {"min": 1e-3, "max": 3e-2, "scaling": "log"},
    "one_minus_beta1": {"min": 2e-2, "max": 2e-1, "scaling": "log"},
    "weight_decay": {"min": 5e-3, "max": 5e-1, "scaling": "log"},
    "warmup_fraction": {"values": [0.02, 0.05, 0.1]},
}
# AlgoPerf's spaces, moved to the larger rates and shorter warm-ups that runs of a thousand steps need.
SPACES = {
    "nesterov": {
        "learning_rate": {"min": 3e-2, "max": 3.0, "scaling": "log"},
        "one_minus_momentum": {"min": 2e-2, "max": 2e-1, "scaling": "log"},
        "weight_decay": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
        "warmup_fraction": {"values": [0.02, 0.05, 0.1]},
    },
    "adamw": _ADAM,
    "nadamw": _ADAM,
}
# What is not searched; so the defaults of the submissions may change without changing what targets come from.
FIXED = {"nesterov": {}, "adamw": {"beta2": 0.99}, "nadamw": {"beta2": 0.99}}
_RESULTS = config.ROOT / "results" / "targets"


@dataclass(frozen=True)
class Run:
    """One finished run: what it was, and its best validation value with the loss and the test value of that moment."""

    workload: str
    submission: str
    hyperparameters: dict[str, Any]
    seed: int
    validation: float
    loss: float
    test: float
    step: int
    seconds: float
    diverged: bool


def main(arguments: Sequence[str]) -> int:
    """`make targets WORKLOAD=a,b`. Raises ConfigError for anything else."""
    names = [name for argument in arguments for name in _names_in(argument)]
    if not names:
        raise ConfigError("say which workload: make targets WORKLOAD=name")
    for settings in [config.load("workload", name, WorkloadConfig) for name in names]:
        print(_block(settings, *_measure(settings)), flush=True)
    return 0


def _names_in(argument: str) -> list[str]:
    key, _, value = argument.partition("=")
    if key != "workload" or not value:
        raise ConfigError(f"make targets does not know {argument!r}. Use WORKLOAD=name,name.")
    return value.split(",")


def _measure(settings: WorkloadConfig) -> tuple[list[Run], list[list[Run]]]:
    """The runs of the search; and those of each method's best point on more seeds, the best method first."""
    torch.set_num_threads(1)
    bench = _Bench(settings)
    rank = functools.partial(_rank, settings.target)
    search, again = [], []
    for name, space in SPACES.items():
        defaults = {**load_submission(name).hyperparameters, **FIXED[name], "label_smoothing": 0.0}
        points = draw(parse_space(space, defaults=defaults, where="targets"), count=POINTS, seed=SEED_OF_SEARCH)
        runs = [bench.run(name, point, SEED_OF_SEARCH) for point in points]
        best = Hyperparameters(min(runs, key=rank).hyperparameters)
        search += runs
        again.append([bench.run(name, best, seed) for seed in SEEDS])
    return search, sorted(again, key=lambda runs: sorted(map(rank, runs))[len(runs) // 2])


def _rank(target: Target, run: Run) -> tuple[float, float]:
    """Smaller is better; equal values of a coarse metric are told apart by the loss."""
    if run.diverged:
        return math.inf, math.inf
    return (run.validation if target.goal == "min" else -run.validation), run.loss


class _Bench:
    """Runs one workload, or finds that a run was done before. Data and model stay as long as it lives."""

    def __init__(self, settings: WorkloadConfig) -> None:
        folder = data.data_folder()
        self._settings = settings
        self._workload = create_workload(settings.entry, settings.options)
        data.fetch(self._workload, folder)
        self._train, self._validation, self._test = (
            data.load_verified(self._workload, split, folder, settings.data[split])
            for split in ("train", "validation", "test")
        )
        self._judge = self._workload.build_model()
        self._log = _RESULTS / f"{settings.name}.jsonl"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._done = _read(self._log)

    def run(self, submission: str, hyperparameters: Hyperparameters, seed: int) -> Run:
        """One run. Its key holds what decides the outcome, so that an old result is not taken for a new one."""
        settings = self._settings
        cause = [settings.options, settings.batch_size, settings.data, asdict(settings.budget), settings.target.metric]
        code = (load_submission(submission).folder / "submission.py").read_text()
        key = hashlib.sha256(
            json.dumps([cause, submission, code, dict(hyperparameters), seed, torch.__version__]).encode()
        ).hexdigest()
        if key not in self._done:
            found = self._train_and_judge(submission, hyperparameters, seed)
            with self._log.open("a") as log:
                log.write(json.dumps({"key": key, **asdict(found)}) + "\n")
            self._done[key] = found
            print(_line(found, settings.target), flush=True)
        return self._done[key]

    def _train_and_judge(self, submission: str, hyperparameters: Hyperparameters, seed: int) -> Run:
        settings, started = self._settings, time.monotonic()
        steps = settings.budget.steps * 3 // 4
        torch.manual_seed(stream_seed(seed, "model"))
        model = self._workload.build_model().train()
        torch.manual_seed(stream_seed(seed, "dropout"))
        conditions = Conditions(
            seed=seed,
            device=torch.device("cpu"),
            batch_size_hint=settings.batch_size,
            step_hint=steps,
            target=settings.target,
            budget_seconds=math.inf,
            eval_period=math.inf,
            evaluate_every_steps=settings.budget.steps // settings.budget.evaluations,
        )
        best: dict[str, Any] = {"validation": math.inf, "loss": math.inf, "test": math.inf, "step": 0, "diverged": True}

        def hand_over(model: nn.Module, progress: Progress) -> Go | None:
            values = self._values(model, self._validation)
            value = values[settings.target.metric]
            if not math.isfinite(value):
                best["diverged"] = True
                return None
            if settings.target.is_better(value, None if best["diverged"] else best["validation"]):
                test = self._values(model, self._test)[settings.target.metric]
                best.update(validation=value, loss=values["loss"], test=test, step=progress.step, diverged=False)
            is_over = progress.is_finished or progress.step >= steps
            return None if is_over else Go(0.0, Evaluation(progress.step, 0.0, values))

        trial = Trial(self._workload, model, self._train, conditions, hand_over)
        trial.go(Go(0.0))
        with contextlib.suppress(TrialOver):
            _train_of(submission)(trial, hyperparameters)
        return Run(
            workload=settings.name,
            submission=submission,
            hyperparameters=dict(hyperparameters),
            seed=seed,
            seconds=time.monotonic() - started,
            **best,
        )

    def _values(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        self._judge.load_state_dict(model.state_dict())
        return evaluate(self._workload, self._judge, examples, self._settings.eval_batch_size)


@functools.cache
def _train_of(submission: str) -> TrainFunction:
    described = load_submission(submission)
    return train_function(described.folder, described.entry, described.schedule)


def _read(log: Path) -> dict[str, Run]:
    """Runs by key. A last line that a crash cut short is not there."""
    runs = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            key = row.pop("key")
            runs[key] = Run(**row)
    return runs


def _line(run: Run, target: Target) -> str:
    chosen = {name: value for name, value in run.hyperparameters.items() if name in SPACES[run.submission]}
    point = "  ".join(f"{name} {value:.4g}" for name, value in chosen.items())
    return (
        f"{run.workload}  {run.submission:<9} seed {run.seed}  {run.seconds:6.1f} s  best {target.metric} "
        f"{run.validation:.5g} (test {run.test:.5g}) at step {run.step}{'  diverged' * run.diverged}  | {point}"
    )


def validation_target(again: Sequence[Sequence[Run]], goal: str) -> tuple[float, list[str]]:
    """The value to reach, from the runs of each method, the best one first; and who reaches it on 4 seeds of 5."""
    value = statistics.median(run.validation for run in again[0])
    sure = {runs[0].submission: _sorted_values(runs, goal)[math.ceil(0.8 * len(runs)) - 1] for runs in again}
    for number, reached in enumerate(sorted(sure.values(), reverse=goal == "max")):
        is_easier = reached > value if goal == "min" else reached < value
        if is_easier and (number < 2 or abs(reached - value) <= NEAR_MISS * abs(value)):
            value = reached
    value = eased(value, goal)
    return value, [name for name, reached in sure.items() if (reached <= value if goal == "min" else reached >= value)]


def _sorted_values(runs: Sequence[Run], goal: str) -> list[float]:
    """Best validation values, the best first."""
    return sorted((run.validation for run in runs), reverse=goal == "max")


def _block(settings: WorkloadConfig, search: list[Run], again: list[list[Run]]) -> str:
    """The YAML's target with where it comes from."""
    target = settings.target
    validation, reached_by = validation_target(again, target.goal)
    reaching = [run for run in again[0] if replace(target, validation=validation).is_reached_by(run.validation)]
    worst = max if target.goal == "min" else min
    test = eased(worst(run.test for run in reaching), target.goal)
    median = statistics.median(run.validation for run in again[0])
    lines = [
        f"Set by make targets, {datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}",
        f"Search: {len(search)} runs of {settings.budget.steps * 3 // 4} steps, as many for each method.",
        f"Best {target.metric} at each method's best point on {len(SEEDS)} seeds:",
    ]
    for runs in again:
        point = ", ".join(f"{name} {value:.3g}" for name, value in runs[0].hyperparameters.items())
        values = ", ".join(f"{value:.5g}" for value in _sorted_values(runs, target.goal))
        lines += [f"  {runs[0].submission}: {values}", f"    at {point}"]
    lines += [
        f"Validation: the median of {again[0][0].submission} is {median:.5g}; on 4 of 5 seeds the target is reached by "
        f"{', '.join(reached_by)}.",
        f"Test: the worst of the {len(reaching)} runs of {again[0][0].submission} that reach it.",
    ]
    yaml = f"target: {{metric: {target.metric}, goal: {target.goal}, validation: {validation}, test: {test}}}"
    return "\n".join([*(f"# {line}" for line in lines), yaml])


def eased(value: float, goal: str) -> float:
    """`value` with the digits that matter, rounded towards what is easier to reach, by less than a hundredth of it."""
    if value == 0:
        return 0.0
    places = 2 - math.floor(math.log10(abs(value)))
    # The nudge keeps a value that has no more digits where it is.
    scaled = value * 10**places
    rounded = math.ceil(scaled - 1e-6) if goal == "min" else math.floor(scaled + 1e-6)
    return float(round(rounded / 10**places, places))


if __name__ == "__main__":
    sys.exit(command.run(main))
