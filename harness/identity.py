"""What one study and one trial are: what they share, where their rows lie, which seed they have. Runs nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from harness.config import RulesetConfig, StudyConfig
from harness.hardware import Machine, this_machine
from harness.records import TrialKey
from harness.search import resolve_overrides
from harness.submission import Submission, load_submission


@dataclass(frozen=True)
class Study:
    """One study with everything that its trials share."""

    config: StudyConfig
    submission: Submission
    hyperparameters: dict[str, Any]
    machine: Machine


def describe(config: StudyConfig) -> Study:
    """What the trials of a study share. Raises ConfigError for a submission, hyperparameter or device unknown here."""
    submission = load_submission(config.submission)
    hardware = config.hardware
    return Study(
        config=config,
        submission=submission,
        hyperparameters=dict(resolve_overrides(submission.hyperparameters, config.hp)),
        machine=this_machine(hardware.name, hardware.device, hardware.threads, hardware.memory_gib),
    )


def trial_key(study: Study, trial: int) -> TrialKey:
    """Where the rows of a trial lie: its id is a hash over all that may change its result, the machine included."""
    config = study.config
    identity = {
        "ruleset": [config.ruleset.name, config.ruleset.version],
        "workload": [config.workload.name, config.workload.content_hash()],
        "submission": [study.submission.name, study.submission.content_hash],
        "hyperparameters": study.hyperparameters,
        "hardware": [study.machine.hardware, study.machine.fingerprint],
        "evaluate_every_steps": config.evaluate_every_steps,
        "study": config.study,
        "trial": trial,
        "seed": config.seed,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return TrialKey(config.workload.name, study.submission.name, digest[:16])


def trial_seed(ruleset: RulesetConfig, workload: str, study: int, trial: int, seed: int) -> int:
    """The trial's seed: the same for all submissions, so that comparisons are paired."""
    text = f"{ruleset.name}/{ruleset.version}/{workload}/{study}/{trial}/{seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
