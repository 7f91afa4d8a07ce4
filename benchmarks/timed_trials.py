"""Trials for benchmarks that look at speed alone: real ones, that reach no target and end with their seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.api import Target, TensorExamples
from harness.config import WorkloadConfig
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.outcome import TrialSpec


def quick_judge(config: WorkloadConfig) -> Judge:
    """A judge of a handful of examples: evaluation is not charged, and so not measured."""
    workload = create_workload(config.entry, config.options)
    few = data.load_verified(workload, "validation", data.data_folder(), config.content["validation"])
    handful = TensorExamples(few.gather(torch.arange(8)))
    return Judge(workload, torch.device("cpu"), handful, handful, 8)


def timed_trial(
    config: WorkloadConfig,
    submission: Path,
    *,
    seconds: float,
    windows: int,
    batch_size: int | None = None,
    api: str | None = None,
    hyperparameters: dict[str, Any] | None = None,
) -> TrialSpec:
    """A trial of the directory `submission` over so many seconds, with `windows` evaluations in them."""
    return TrialSpec(
        workload={
            "entry": config.entry,
            "options": config.options,
            "data_folder": str(data.data_folder()),
            "train_sha256": config.content["train"],
        },
        submission={"folder": str(submission), "entry": None, "api": api},
        hyperparameters=hyperparameters or {},
        seed=0,
        target=Target(config.target.metric, config.target.goal, {"min": -1e300, "max": 1e300}[config.target.goal]),
        batch_size=config.batch_size if batch_size is None else batch_size,
        budget_steps=config.budget.steps,
        step_hint=config.budget.step_hint,
        max_runtime=seconds,
        eval_period=seconds / windows,
    )
