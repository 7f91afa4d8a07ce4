"""Random tables and scoring rules, with everything that makes pruning hard to get right. Not a test."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd

from harness.scoring.rules import ScoringRules

TARGET = 0.1
BUDGET = 100.0
HELD_OUT = {"base_variant": "base"}
FIRST_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def random_tables(random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables: few distinct seconds, so that ties are common; curves that cross the target and come back; hits
    after the budget; trials that died before an evaluation; missing trials and studies; shared hyperparameters."""
    workloads = ["base", "base_variant", "other"][: random.integers(1, 4)]
    studies, trials = int(random.integers(1, 6)), int(random.integers(1, 4))
    # The two spreads make boards on which nearly all, or hardly any, submissions are within a factor of four.
    spread = random.choice([0.3, 1.5])
    rows, evaluations = [], []
    for workload in workloads:
        for submission in range(random.integers(1, 5)):
            speed = np.exp(random.normal(0.0, spread))
            for study in range(studies):
                for trial in range(trials):
                    if random.random() < 0.05 and (study or trial):
                        continue
                    trial_id = f"{workload}-{submission}-{study}-{trial}"
                    curve = _curve(random, trial_id, speed)
                    rows.append(_trial(random, workload, submission, study, trial, trial_id, curve))
                    evaluations += curve
    columns = ["trial_id", "evaluation", "step", "examples", "charged_seconds", "stages_left", "validation"]
    return pd.DataFrame(rows), pd.DataFrame(evaluations, columns=columns)


def random_rules(random: np.random.Generator) -> ScoringRules:
    """Any reading of any rules: each switch by chance."""
    return ScoringRules(
        "random",
        studies=random.choice([None, 3, 5]),
        study_trial=str(random.choice(["fastest", "fastest", "first_evaluation"])),
        area=str(random.choice(["exact", "trapezoid"])),
        enforce_budget=bool(random.integers(2)),
        trials_without_evaluations=str(random.choice(["missed", "missed", "left_out"])),
        held_out=HELD_OUT if random.integers(2) else {},
        tau_max=float(random.choice([1.5, 4.0])),
    )


def _curve(random, trial_id, speed):
    if random.random() < 0.08:
        return []
    count = int(random.integers(1, 9))
    period = speed * random.choice([2.0, 5.0, 5.0, 8.0])
    seconds = np.cumsum(np.full(count, period)) if random.random() < 0.7 else np.sort(random.uniform(0, 130, count))
    values = random.choice([0.05, 0.1, 0.2, 0.3], size=count, p=[0.1, 0.05, 0.5, 0.35])
    return [
        {
            "trial_id": trial_id,
            "evaluation": number,
            "step": number + 1,
            "examples": number + 1,
            "charged_seconds": float(seconds[number]),
            "stages_left": 0,
            "validation": float(values[number]),
        }
        for number in range(count)
    ]


def _trial(random, workload, submission, study, trial, trial_id, curve):
    return {
        "workload": workload,
        "submission": f"s{submission}",
        "trial_id": trial_id,
        "study": study,
        "trial": trial,
        "status": "reached" if curve else "crashed",
        "target_goal": "min",
        "target_validation": TARGET,
        "max_runtime": BUDGET,
        "charged_seconds": max((row["charged_seconds"] for row in curve), default=0.0),
        "hyperparameters": str(random.integers(3)),
        "ruleset": "random",
        "ruleset_version": 1,
        "hardware": "desk",
        "hardware_fingerprint": "0",
        "started_at": FIRST_DAY + datetime.timedelta(days=int(random.integers(3))),
    }
