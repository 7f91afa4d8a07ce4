"""A submission under the rulesets that rank, on a tiny problem: real referee, real clock, rows that nobody keeps."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from harness.api import SPLITS, Budget, Target
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
from harness.plugins.conformance.check import Check, judged
from harness.plugins.conformance.problems import Stripes, StripeStream
from harness.plugins.submission import Submission
from harness.records.tables import Records, Row
from harness.study.identity import describe, trial_key
from harness.study.study import run_study

RULESETS = ("external", "self")
_NAME = "stripes"
_BUDGET = Budget(steps=120, evaluations=4)
# Several times what a step takes: a trial ends at its target, and is not cut short by a slow moment of the machine.
_SECONDS_PER_STEP = 0.005


@dataclass(frozen=True)
class Refereed:
    """How the trials of one ruleset went. `ends`: number of trials by status."""

    check: Check
    ends: dict[str, int]


def run_under(ruleset: str, submission: Submission) -> Refereed:
    """All trials that `ruleset` asks for; the check fails where one of them crashes, or is refused.

    Any other end is a result, also of a method that this problem does not suit.
    """
    with tempfile.TemporaryDirectory() as results:
        rows = [row for study in _studies(ruleset, submission, Path(results)) for row in _rows_of(study)]
    ends = dict(sorted(Counter(str(row["status"]) for row in rows).items()))
    said = f"{len(rows)} trials: {', '.join(f'{count} {status}' for status, count in ends.items())}"
    failed = [row for row in rows if row["status"] in ("crashed", "refused")]
    fault = None
    if failed:
        first = failed[0]
        fault = f"{said}. The first that {first['status']}, at {first['hyperparameters']}: {first['reason']}"
    return Refereed(judged(ruleset, fault, said), ends)


def _studies(name: str, submission: Submission, results: Path) -> list[StudyConfig]:
    # Methods that keep examples run on streams alone.
    problem = StripeStream if submission.division == "replay" else Stripes
    workload = problem()
    hardware = load("hardware", "local", HardwareConfig)
    ruleset = load("ruleset", name, RulesetConfig)
    first = StudyConfig(
        workload=WorkloadConfig(
            name=_NAME,
            version=1,
            entry=f"{problem.__module__}.{problem.__name__}",
            options={},
            parameters=sum(parameter.numel() for parameter in workload.build_model().parameters()),
            batch_size=32,
            eval_batch_size=256,
            target=Target("loss", "min", 0.2, 0.2),
            budget=_BUDGET,
            data={split: workload.load(split, results).digest() for split in SPLITS},
        ),
        ruleset=ruleset,
        hardware=replace(hardware, device="cpu", seconds_per_step={_NAME: _SECONDS_PER_STEP}),
        tracking=TrackingConfig("off", project=_NAME),
        # Every point of the search space is to be seen running.
        pruning=PruningConfig("none"),
        submission=submission.given_as,
        study=0,
        seed=0,
        hp={},
        results=results,
        evaluate_every_steps=None,
    )
    return [replace(first, study=study) for study in range(ruleset.studies)]


def _rows_of(config: StudyConfig) -> list[Row]:
    study = describe(config)
    run_study(study, PlainConsole(io.StringIO()))
    records = Records(config.results / "runs")
    return [records.trial(trial_key(study, trial, records)) for trial in range(config.ruleset.trials)]
