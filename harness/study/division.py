"""Where each division may run: what is wrong with asking for it is said before any trial. Runs nothing."""

from __future__ import annotations

from harness.api import ConfigError, Division
from harness.config import StudyConfig, WorkloadConfig, base_workloads, load
from harness.plugins.entries import create_workload
from harness.plugins.submission import Submission

_WHY_NOT: dict[Division, str] = {
    "open": "a prediction needs more than its inputs, or they tell its targets",
    "replay": "it is no stream, so no examples are of an earlier stage",
}


def check_division(config: StudyConfig, submission: Submission, devices: int) -> None:
    """Raise ConfigError where a submission of another than the closed division cannot run as is asked for.

    A network of its own is trained in one process: what averages gradients over several knows the workload's own.
    """
    if submission.division == "closed":
        return
    if not has_division(submission.division, config.workload):
        others = [
            name
            for name in base_workloads()
            if has_division(submission.division, load("workload", name, WorkloadConfig))
        ]
        raise ConfigError(
            f"{submission.name} is of the {submission.division} division, which {config.workload.name} does not have: "
            f"{_WHY_NOT[submission.division]}. Use WORKLOAD={','.join(others)}, or some of these."
        )
    if submission.division == "replay":
        return
    if config.keep_weights != "none":
        raise ConfigError(
            f"keep_weights is {config.keep_weights}, and {submission.name} is of the open division, whose networks "
            "only their predictors can build. Use keep_weights=none."
        )
    if devices > 1:
        raise ConfigError(
            f"{submission.name} is of the open division, which needs hardware.devices=1, not {devices}. Set that."
        )


def check_reference(reference: Submission) -> None:
    """Raise ConfigError for a reference of another than the closed division: its steps are no measure for others."""
    if reference.division != "closed":
        raise ConfigError(
            f"ruleset.reference is {reference.name}, which is of the {reference.division} division. Use one of the "
            "closed division."
        )


def has_division(division: Division, workload: WorkloadConfig) -> bool:
    """Whether submissions of a division can run there."""
    if division == "closed":
        return True
    made = create_workload(workload.entry, workload.options)
    return made.has_open_division if division == "open" else made.stages > 1
