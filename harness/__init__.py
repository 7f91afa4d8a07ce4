"""Timetrial: time to target for neural-network training algorithms. These names are what a submission may import."""

from harness.api import (
    ConfigError,
    DataError,
    HarnessError,
    Hyperparameters,
    LossKind,
    ParameterKind,
    SnapshotError,
    Target,
)
from harness.trial.conversation import TrialOver
from harness.trial.schedules import warmup_cosine
from harness.trial.trial import Trial

__all__ = [
    "ConfigError",
    "DataError",
    "HarnessError",
    "Hyperparameters",
    "LossKind",
    "ParameterKind",
    "SnapshotError",
    "Target",
    "Trial",
    "TrialOver",
    "warmup_cosine",
]
