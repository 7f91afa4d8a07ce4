"""What one study and one trial are: what they share, where their rows lie, which seed they have. Runs nothing."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.api import PREPARED, SPLITS, DataError
from harness.config import HardwareConfig, RulesetConfig, StudyConfig, WorkloadConfig
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload
from harness.plugins.search import deal
from harness.plugins.submission import Submission, load_submission
from harness.plugins.submission_files import library_versions
from harness.records.tables import Records, TrialKey
from harness.study.division import check_division, check_reference
from harness.study.machine.hardware import Machine, departures, machine_of


@dataclass(frozen=True)
class Study:
    """One study with everything that its trials share. `points`: hyperparameters of its trials, in their order."""

    config: StudyConfig
    submission: Submission
    points: list[dict[str, Any]]
    machine: Machine
    libraries: dict[str, str]
    """Versions of the packages that the submission brings in."""
    reference: Submission
    """Whose steps its budget is counted in."""
    frozen_seconds: float | None
    """Seconds per step of the reference that the hardware's file gives; None: they are measured."""
    unofficial: list[str]
    """Why its rows are not official under the name of the hardware that was asked for; empty where they are."""


def describe(config: StudyConfig) -> Study:
    """What the trials of a study share. Raises ConfigError for a submission, hyperparameter or device unknown here."""
    config = replace(config, workload=with_content(config.workload, data_folder()))
    submission = load_submission(config.submission)
    hardware = config.hardware
    check_division(config, submission, hardware.devices)
    machine = machine_of(hardware)
    reference = load_submission(config.ruleset.reference)
    check_reference(reference)
    frozen, why_not = _frozen_seconds(hardware, config.workload, reference)
    unofficial = []
    if hardware.machine is not None:
        unofficial = [*departures(machine, hardware.machine), *([why_not] if why_not else [])]
    return Study(
        config=config,
        submission=submission,
        points=_points(config, submission),
        machine=machine,
        libraries=_libraries(submission),
        reference=reference,
        frozen_seconds=frozen,
        unofficial=unofficial,
    )


def _frozen_seconds(
    hardware: HardwareConfig, workload: WorkloadConfig, reference: Submission
) -> tuple[float | None, str | None]:
    """The seconds per step that a hardware's file gives, and why they make no official budget, if they do not."""
    found, of = hardware.seconds_per_step.get(workload.name), hardware.reference
    if of is None:
        return found, "its file does not say whose seconds per step it has (reference)"
    if of.name != reference.name:
        return None, f"its seconds per step are of {of.name} instead of {reference.name}"
    if of.content != reference.content_hash:
        then, now = of.content[:12], reference.content_hash[:12]
        return None, f"its seconds per step are of {of.name} as it was ({then} instead of {now})"
    if found is None or hardware.workload_versions.get(workload.name) != workload.version:
        return None, f"no seconds per step of {workload.name} version {workload.version} are frozen"
    return found, None


def sibling(study: Study, number: int) -> Study:
    """Study `number` of the same submission, as it was read for `study`, on the same workload."""
    config = replace(study.config, study=number)
    return replace(study, config=config, points=_points(config, study.submission))


def entered_by(study: Study, submission: Submission, number: int) -> Study:
    """Study `number` of another submission under the same conditions. Raises ConfigError where it may not run there."""
    config = replace(study.config, submission=submission.given_as, study=number)
    check_division(config, submission, study.machine.devices)
    return replace(
        study,
        config=config,
        submission=submission,
        points=_points(config, submission),
        libraries=_libraries(submission),
    )


def _libraries(submission: Submission) -> dict[str, str]:
    """Versions of the packages that a submission brings in."""
    entries = [part.entry for part in submission.entry.parts] if submission.entry else []
    return library_versions(submission.folder, entries)


def _points(config: StudyConfig, submission: Submission) -> list[dict[str, Any]]:
    """The point of each trial: from the search space where the ruleset tunes, with `hp` written over it."""
    ruleset = config.ruleset
    space = submission.space.overridden(config.hp)
    if ruleset.tuning != "search_space":
        return [dict(space.defaults) for _ in range(ruleset.trials)]
    # No workload in the seed: a submission tries the same points on all of them, as AlgoPerf has it.
    seed = int.from_bytes(_digest(f"{ruleset.name}/{ruleset.version}/points/{config.seed}")[:4], "big")
    points = deal(space, study=config.study, studies=ruleset.studies, trials=ruleset.trials, seed=seed)
    return [dict(point) for point in points]


def trial_key(study: Study, trial: int, records: Records | None = None) -> TrialKey:
    """Where the rows of a trial lie: its id is a hash over all that may change its result, the machine included.

    `records`: where `make retry` may have asked for the trial again; then the id is that of the newest attempt.
    """
    keys = (_key_of(study, _identity(study, trial, attempt)) for attempt in itertools.count())
    return next(key for key in keys if records is None or not records.is_retried(key))


def identity_of(study: Study, trial: int, key: TrialKey) -> str:
    """What the id of a trial of `study` is a hash over, as JSON."""
    attempts = (_identity(study, trial, attempt) for attempt in itertools.count())
    return next(text for text in attempts if trial_id(text) == key.trial_id)


def trial_id(identity: str) -> str:
    """The id of the trial with this identity."""
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def contents_of(study: Study) -> list[str]:
    """What each trial of a study is, as `content_of` has it."""
    return [content_of(_identity(study, trial, 0)) for trial in range(study.config.ruleset.trials)]


def content_of(identity: str) -> str:
    """What of an identity is the same on any machine, however often the trial was asked for: code, points, rules, seed.

    Raises DataError for a text that is no identity.
    """
    try:
        parts = json.loads(identity)
        return json.dumps({name: parts[name] for name in parts if name not in ("hardware", "attempt")}, sort_keys=True)
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{identity[:80]!r} is no identity of a trial.") from None


def _key_of(study: Study, identity: str) -> TrialKey:
    return TrialKey(study.config.workload.name, study.submission.name, trial_id(identity))


def _identity(study: Study, trial: int, attempt: int) -> str:
    """All that may change the result of a trial, as JSON. `attempt`: how often it was asked for again."""
    config = study.config
    ruleset, rehearsal = config.ruleset, config.ruleset.rehearsal
    # What the fingerprint holds already is no second reason for another id.
    libraries = {name: version for name, version in study.libraries.items() if name not in study.machine.properties}
    parts = {
        "ruleset": [config.ruleset.name, config.ruleset.version],
        "workload": [config.workload.name, workload_hash(config.workload)],
        "submission": [study.submission.name, study.submission.content_hash],
        "hyperparameters": study.points[trial],
        "hardware": [
            study.machine.hardware,
            study.machine.fingerprint,
            # A value frozen later makes another budget, hence another trial.
            study.frozen_seconds,
            bool(study.unofficial),
        ],
        "evaluate_every_steps": config.evaluate_every_steps,
        "study": config.study,
        "trial": trial,
        "seed": config.seed,
        **({"rehearsal": [rehearsal.seconds, rehearsal.steps]} if rehearsal.steps else {}),
        **({} if ruleset.train_batches is None else {"train_batches": ruleset.train_batches}),
        **({} if ruleset.ends_at_target else {"ends_at_target": False}),
        **({"libraries": libraries} if libraries else {}),
        **({"attempt": attempt} if attempt else {}),
    }
    return json.dumps(parts, sort_keys=True)


def trial_seed(ruleset: RulesetConfig, workload: str, study: int, trial: int, seed: int) -> int:
    """The trial's seed: the same for all submissions, so that comparisons are paired."""
    return seed_of((ruleset.name, ruleset.version), workload, study, trial, seed)


def seed_of(ruleset: tuple[str, int], workload: str, study: int, trial: int, seed: int) -> int:
    """The seed of a trial under the ruleset of this name and version."""
    name, version = ruleset
    text = f"{name}/{version}/{workload}/{study}/{trial}/{seed}"
    return int.from_bytes(_digest(text)[:8], "big") >> 1


def with_content(config: WorkloadConfig, folder: Path) -> WorkloadConfig:
    """The settings with the hash of each split that was prepared in `folder`; as they are where none was, or none is.

    So what is known of a trial, its id too, follows from what it was really run on.
    """
    if config.data != PREPARED:
        return config
    workload = create_workload(config.entry, config.options)
    if not is_present(workload, folder):
        return config
    return replace(config, data={split: workload.load(split, folder).digest() for split in SPLITS})


def workload_hash(config: WorkloadConfig) -> str:
    """SHA-256 over what the YAML says, the version included; `entry`, `published` and `family` change no behaviour.

    Source text is no part of it: benchmarks/golden.py sees whether a version still computes what it did.
    """
    values = _workload_values().dump_python(config)
    del values["entry"], values["published"], values["family"]
    if config.coarse is None:
        del values["coarse"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@functools.cache
def _workload_values() -> TypeAdapter[WorkloadConfig]:
    """Made once: it takes nine milliseconds, and the boards of this repository have thousands of trials."""
    return TypeAdapter(WorkloadConfig)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
