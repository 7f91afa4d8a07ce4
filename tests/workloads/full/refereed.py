"""A refereed trial of three steps and one evaluation on a full-size workload, from splits that a test has prepared."""

from __future__ import annotations

import dataclasses
import io
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from harness.api import Budget, Target
from harness.command_line import PlainConsole
from harness.config import (
    HardwareConfig,
    PruningConfig,
    RulesetConfig,
    StudyConfig,
    TrackingConfig,
    WorkloadConfig,
    load,
)
from harness.study.identity import describe
from harness.study.study import run_study

STEPS = 3
_SUBMISSION = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.AdamW(trial.model.parameters(), lr=1e-4)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""


def trial_and_evaluations(
    folder: Path, name: str, *, options: dict[str, Any], **changes: Any
) -> tuple[pd.Series, pd.DataFrame]:
    """The row of the trial and those of its evaluations. `options`, `changes`: in which its YAML is smaller."""
    submission = folder / "plain_adamw"
    submission.mkdir()
    (submission / "submission.py").write_text(textwrap.dedent(_SUBMISSION), encoding="utf-8")
    about = "title: a test\nauthors: nobody\npaper: none\nhyperparameters: {}\n"
    (submission / "submission.yaml").write_text(about, encoding="utf-8")
    settings = load("workload", name, WorkloadConfig)
    target = settings.target
    worst = sys.float_info.max
    workload = dataclasses.replace(
        settings,
        options={**settings.options, **options},
        budget=Budget(steps=STEPS, evaluations=1),
        target=Target(target.metric, target.goal, -worst if target.goal == "min" else worst),
        **changes,
    )
    config = StudyConfig(
        workload=workload,
        ruleset=RulesetConfig("quick", 1, 1, 1, "defaults", 1.0, "adamw"),
        hardware=HardwareConfig("local", "cpu", 1, 6.0, {name: 200.0}),
        tracking=TrackingConfig("off", "timetrial"),
        pruning=PruningConfig("none"),
        submission=str(submission),
        study=0,
        seed=0,
        hp={},
        results=folder / "results",
        evaluate_every_steps=STEPS,
    )
    run_study(describe(config), PlainConsole(io.StringIO(), width=200))
    trials, evaluations = (pd.read_parquet(folder / "results" / "runs" / table) for table in ("trials", "evaluations"))
    assert len(trials) == 1
    return trials.iloc[0], evaluations
