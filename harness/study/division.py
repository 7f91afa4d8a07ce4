"""Where the open division may run: what is wrong with asking for it is said before any trial. Runs nothing."""

from __future__ import annotations

from harness.api import ConfigError
from harness.config import StudyConfig, WorkloadConfig, base_workloads, load
from harness.plugins.entries import create_workload
from harness.plugins.submission import Submission


def check_division(config: StudyConfig, submission: Submission, devices: int) -> None:
    """Raise ConfigError where a submission that brings its own network cannot run as is asked for: workload, devices.

    Such a network is trained in one process: what averages gradients over several knows the workload's own.
    """
    if submission.division == "closed":
        return
    if not _has_open_division(config.workload):
        others = [name for name in base_workloads() if _has_open_division(load("workload", name, WorkloadConfig))]
        raise ConfigError(
            f"{submission.name} is of the open division, which {config.workload.name} does not have: a prediction "
            f"needs more than its inputs, or they tell its targets. Use WORKLOAD={','.join(others)}, or some of these."
        )
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
    """Raise ConfigError for a reference of the open division: its steps are of no network that others train."""
    if reference.division == "open":
        raise ConfigError(
            f"ruleset.reference is {reference.name}, which is of the open division. Use one of the closed division."
        )


def _has_open_division(workload: WorkloadConfig) -> bool:
    return create_workload(workload.entry, workload.options).has_open_division
