"""The rows of the two tables, from what the referee saw."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
from typing import Any

from harness.api import Target
from harness.config import ROOT
from harness.plugins.search import resolve_overrides
from harness.plugins.values import flat
from harness.race.outcome import Observation, Outcome, TrialSpec
from harness.race.protocol import as_json, from_json
from harness.records.tables import Row, TrialKey, finite_or_none
from harness.scoring.checks import OURS
from harness.study.identity import Study, identity_of, workload_hash
from harness.study.machine.calibration import NOT_MEASURED, Sandwich
from harness.study.machine.hardware import git_revision

HARNESS = "timetrial"
"""The package whose version a row names first."""


def evaluation_row(key: TrialKey, number: int, seen: Observation, metric: str) -> Row:
    """One row of the evaluations table."""
    test = seen.test or {}
    others = {f"validation_{name}": value for name, value in seen.validation.items() if name not in (metric, "loss")}
    others |= {f"test_{name}": value for name, value in test.items() if name not in (metric, "loss")}
    return {
        "trial_id": key.trial_id,
        "evaluation": number,
        "step": seen.step,
        "examples": seen.examples,
        "charged_seconds": seen.charged_seconds,
        "stages_left": seen.stages_left,
        "validation": seen.validation[metric],
        "validation_loss": seen.validation["loss"],
        "test": test.get(metric),
        "test_loss": test.get("loss"),
        "train_loss": seen.reported.get("train_loss"),
        "other_metrics": json.dumps(as_json(others), allow_nan=False),
        "reported": json.dumps(as_json(seen.reported), allow_nan=False),
    }


def observation_of(row: Row, metric: str) -> Observation:
    """The evaluation that `evaluation_row` made this row of."""
    others = from_json(json.loads(row["other_metrics"]))
    validation, test = (
        {metric: row[split], "loss": row[f"{split}_loss"]}
        | {name.removeprefix(f"{split}_"): value for name, value in others.items() if name.startswith(f"{split}_")}
        for split in ("validation", "test")
    )
    return Observation(
        step=row["step"],
        examples=row["examples"],
        charged_seconds=row["charged_seconds"],
        validation=validation,
        test=None if row["test"] is None else test,
        reported=from_json(json.loads(row["reported"])),
        stages_left=row["stages_left"],
    )


def trial_row(
    study: Study,
    trial: int,
    key: TrialKey,
    spec: TrialSpec,
    outcome: Outcome,
    started_at: datetime.datetime,
    around: Sandwich = NOT_MEASURED,
) -> Row:
    """One row of the trials table. `around`: what the reference took before and after."""
    config, machine = study.config, study.machine
    target = config.workload.target
    parameters, size = outcome.predictor_size or (None, None)
    return {
        "trial_id": key.trial_id,
        "ruleset": config.ruleset.name,
        "ruleset_version": config.ruleset.version,
        "study": config.study,
        "trial": trial,
        "seed": spec.seed,
        "study_seed": config.seed,
        "overrides": json.dumps(_overrides(study), sort_keys=True),
        "hyperparameters": json.dumps(study.points[trial], sort_keys=True),
        "division": study.submission.division,
        "status": str(outcome.status),
        "reason": outcome.reason,
        "pruned_by": outcome.pruned_by,
        "target_metric": target.metric,
        "target_goal": target.goal,
        "target_validation": target.validation,
        "target_test": target.test,
        "max_runtime": spec.max_runtime,
        "eval_period": spec.eval_period,
        "reference": study.reference.name,
        "reference_step_seconds": spec.max_runtime / config.budget.steps,
        "reference_step_seconds_before": around.before,
        "reference_step_seconds_after": around.after,
        "reference_drift": around.drift,
        "evaluate_every_steps": spec.evaluate_every_steps,
        **summary(outcome.observations, target),
        "charged_seconds": outcome.charged_seconds,
        "evaluation_seconds": outcome.evaluation_seconds,
        "total_seconds": outcome.total_seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "rehearsal_seconds": outcome.rehearsal_seconds,
        "first_step_seconds": outcome.first_step_seconds,
        "median_step_seconds": outcome.median_step_seconds,
        "p90_step_seconds": outcome.p90_step_seconds,
        "peak_host_bytes": outcome.peak_host_bytes,
        "peak_device_bytes": outcome.peak_device_bytes,
        "energy_joules": outcome.energy_joules,
        "predictor_parameters": parameters,
        "predictor_bytes": size,
        "resumes": outcome.resumes,
        "hardware": machine.hardware,
        "hardware_fingerprint": machine.fingerprint,
        "unofficial": bool(study.unofficial),
        "device": machine.device_name,
        "threads": machine.threads,
        "precision": spec.precision,
        "compiled": spec.is_compiled,
        "micro_batch": spec.micro_batch,
        "malloc": machine.properties["malloc"],
        "frozen": outcome.frozen,
        "sandboxed": outcome.sandboxed,
        "versions": json.dumps({HARNESS: importlib.metadata.version(HARNESS), **machine.versions, **study.libraries}),
        "git_revision": git_revision(ROOT),
        "submission_hash": study.submission.content_hash,
        "workload_hash": workload_hash(config.workload),
        "workload_version": config.workload.version,
        "data_hash": config.workload.data_hash(),
        "source": OURS,
        "started_at": started_at,
        "identity": identity_of(study, trial, key),
    }


def summary(seen: list[Observation], target: Target) -> Row:
    """The columns of the trials table that follow from its evaluations."""
    counted = [one for one in seen if not one.stages_left]
    hit = next((one for one in counted if target.is_reached_by(one.validation[target.metric])), None)
    best = _best(counted, target)
    last = seen[-1] if seen else None
    return {
        "time_to_target": hit.charged_seconds if hit else math.inf,
        "steps_to_target": float(hit.step) if hit else math.inf,
        "examples_to_target": float(hit.examples) if hit else math.inf,
        "best_validation": finite_or_none(best.validation[target.metric]) if best else None,
        "test_at_best": finite_or_none(best.test[target.metric]) if best and best.test else None,
        "steps": last.step if last else 0,
        "examples": last.examples if last else 0,
    }


def _overrides(study: Study) -> dict[str, Any]:
    """What `hp.` set, as the submission reads it: however it was spelt, it is the same run."""
    over_defaults = resolve_overrides(study.submission.hyperparameters, study.config.hp)
    # Of a list whose elements were set, the list.
    names = [name if name in over_defaults else name.rpartition(".")[0] for name in flat(study.config.hp)]
    return {name: over_defaults[name] for name in names}


def _best(seen: list[Observation], target: Target) -> Observation | None:
    best: Observation | None = None
    for one in seen:
        if target.is_better(one.validation[target.metric], best.validation[target.metric] if best else None):
            best = one
    return best
