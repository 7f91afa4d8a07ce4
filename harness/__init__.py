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
from harness.trial.averaging import AveragedWeights
from harness.trial.conversation import TrialOver
from harness.trial.loop import train_loop
from harness.trial.matrices import by_shape, newton_schulz, orthogonalised
from harness.trial.multi_tensor import MultiTensorOptimizer, collected, corrections, zeros_like
from harness.trial.parameter_kinds import HIDDEN_MATRICES, hidden_matrices_and_rest
from harness.trial.schedules import warmup_constant, warmup_cosine, warmup_linear
from harness.trial.trial import Trial

__all__ = [
    "HIDDEN_MATRICES",
    "AveragedWeights",
    "ConfigError",
    "DataError",
    "HarnessError",
    "Hyperparameters",
    "LossKind",
    "MultiTensorOptimizer",
    "ParameterKind",
    "SnapshotError",
    "Target",
    "Trial",
    "TrialOver",
    "by_shape",
    "collected",
    "corrections",
    "hidden_matrices_and_rest",
    "newton_schulz",
    "orthogonalised",
    "train_loop",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "zeros_like",
]
