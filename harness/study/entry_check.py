"""Says before any trial which submissions cannot run: where, or with which optimizer class, and the YAML that would."""

from __future__ import annotations

from collections.abc import Sequence

from harness.api import ConfigError
from harness.config import StudyConfig
from harness.plugins.optimizer_check import check, in_one_line
from harness.plugins.optimizer_entry import is_own
from harness.plugins.submission import load_submission
from harness.records.tables import Records
from harness.study.division import check_division
from harness.study.identity import Study, describe, trial_key


def check_entries(studies: Sequence[StudyConfig]) -> None:
    """Raise ConfigError where a class of a library that has trials to run fails on a tiny problem, or no division fits.

    Classes in files of a submission are left to its trials: what is the submission's own runs nowhere else.
    """
    waiting: dict[str, Study] = {}
    for config in studies:
        submission = load_submission(config.submission)
        check_division(config, submission, config.hardware.devices)
        if submission.entry is None or config.submission in waiting:
            continue
        if any(is_own(part.entry, submission.folder) for part in submission.entry.parts):
            continue
        study = describe(config)
        if not _is_done(study):
            waiting[config.submission] = study
    if not waiting:
        return
    # Type checkers do not see that all of these have an entry.
    asked = [(each.submission.entry, each.points[0]) for each in waiting.values() if each.submission.entry]
    device = str(next(iter(waiting.values())).machine.device)
    for study, finding in zip(waiting.values(), check(asked, device=device), strict=True):
        if finding.fault is not None:
            works = f" This works: {in_one_line(finding.mend)}" if finding.mend else ""
            raise ConfigError(
                f"{study.submission.folder / 'submission.yaml'}: {finding.fault.removesuffix('.')}.{works}"
            )


def _is_done(study: Study) -> bool:
    records = Records(study.config.results / "runs")
    keys = [trial_key(study, trial, records) for trial in range(study.config.ruleset.trials)]
    return all(records.is_done(key) for key in keys)
