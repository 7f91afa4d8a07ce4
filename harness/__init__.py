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
from harness.trial.directions import largest_allowed, without_radial_part
from harness.trial.loop import train_loop, train_matrices_and_rest
from harness.trial.matrices import by_shape, newton_schulz, orthogonalised
from harness.trial.multi_tensor import MultiTensorOptimizer, collected, corrections, move_moments, zeros_like
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
    "largest_allowed",
    "move_moments",
    "newton_schulz",
    "orthogonalised",
    "train_loop",
    "train_matrices_and_rest",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "without_radial_part",
    "zeros_like",
]
