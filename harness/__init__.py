"""Timetrial: time to target for neural-network training algorithms. These names are what a submission may import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from harness.trial.domains import DomainSampler
    from harness.trial.optim.averaging import AveragedWeights
    from harness.trial.optim.cosines import cosine_basis, low_rank, strongest_columns
    from harness.trial.optim.counts import Counts
    from harness.trial.optim.directions import largest_allowed, scale_invariant_rows, without_radial_part
    from harness.trial.optim.eight_bit_optimizer import EightBitOptimizer, bitsandbytes_optimizer, eight_bit_groups
    from harness.trial.optim.grafted import GraftedOptimizer
    from harness.trial.optim.growing_batch import GrowingBatch, passing_size, train_with_growing_batch
    from harness.trial.optim.kronecker import (
        as_matrix,
        begin_bases,
        between,
        inverse_roots,
        move_factors,
        refresh_bases,
        transposed,
        zero_factors,
    )
    from harness.trial.optim.loop import train_loop, train_matrices_and_rest, train_on_rewards
    from harness.trial.optim.matrices import (
        MatrixMomentum,
        by_shape,
        newton_schulz,
        orthogonalised,
        positions_by_shape,
        stacked,
    )
    from harness.trial.optim.multi_tensor import (
        MultiTensorOptimizer,
        adam_scale,
        collected,
        corrections,
        divided,
        in_cache,
        move_moments,
        zeros_like,
    )
    from harness.trial.optim.schedules import warmup_constant, warmup_cosine, warmup_linear
    from harness.trial.optim.terms import train_on_terms
    from harness.trial.parameter_kinds import HIDDEN_MATRICES, freeze_all_but, hidden_matrices_and_rest
    from harness.trial.passes.rows import has_rows, input_moment
    from harness.trial.trial import Trial
    from harness.trial.workers.cluster import ResumableTensors, SimulatedCluster
    from harness.trial.workers.ledger import Ledger
    from harness.trial.workers.topology import consensus_rate, edges, mixing_matrix

__all__ = [
    "HIDDEN_MATRICES",
    "AveragedWeights",
    "ConfigError",
    "Counts",
    "DataError",
    "DomainSampler",
    "EightBitOptimizer",
    "GraftedOptimizer",
    "GrowingBatch",
    "HarnessError",
    "Hyperparameters",
    "Ledger",
    "LossKind",
    "MatrixMomentum",
    "MultiTensorOptimizer",
    "ParameterKind",
    "ResumableTensors",
    "SimulatedCluster",
    "SnapshotError",
    "Target",
    "Trial",
    "TrialOver",
    "adam_scale",
    "as_matrix",
    "begin_bases",
    "between",
    "bitsandbytes_optimizer",
    "by_shape",
    "collected",
    "consensus_rate",
    "corrections",
    "cosine_basis",
    "divided",
    "edges",
    "eight_bit_groups",
    "freeze_all_but",
    "has_rows",
    "hidden_matrices_and_rest",
    "in_cache",
    "input_moment",
    "inverse_roots",
    "largest_allowed",
    "low_rank",
    "mixing_matrix",
    "move_factors",
    "move_moments",
    "newton_schulz",
    "orthogonalised",
    "passing_size",
    "positions_by_shape",
    "refresh_bases",
    "scale_invariant_rows",
    "stacked",
    "strongest_columns",
    "train_loop",
    "train_matrices_and_rest",
    "train_on_rewards",
    "train_on_terms",
    "train_with_growing_batch",
    "transposed",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "without_radial_part",
    "zero_factors",
    "zeros_like",
]

# Looked up when they are asked for: the trainers' server must be small, and without torch's threads, when it starts.
_HOMES = {
    "harness.api": "ConfigError DataError HarnessError Hyperparameters LossKind ParameterKind SnapshotError Target",
    "harness.trial.optim.averaging": "AveragedWeights",
    "harness.trial.conversation": "TrialOver",
    "harness.trial.domains": "DomainSampler",
    "harness.trial.optim.counts": "Counts",
    "harness.trial.optim.directions": "largest_allowed scale_invariant_rows without_radial_part",
    "harness.trial.optim.grafted": "GraftedOptimizer",
    "harness.trial.optim.kronecker": "as_matrix begin_bases between inverse_roots move_factors refresh_bases "
    "transposed zero_factors",
    "harness.trial.optim.loop": "train_loop train_matrices_and_rest train_on_rewards",
    "harness.trial.optim.cosines": "cosine_basis low_rank strongest_columns",
    "harness.trial.optim.eight_bit_optimizer": "EightBitOptimizer bitsandbytes_optimizer eight_bit_groups",
    "harness.trial.optim.growing_batch": "GrowingBatch passing_size train_with_growing_batch",
    "harness.trial.optim.matrices": "MatrixMomentum by_shape newton_schulz orthogonalised positions_by_shape stacked",
    "harness.trial.optim.multi_tensor": "MultiTensorOptimizer adam_scale collected corrections divided in_cache "
    "move_moments zeros_like",
    "harness.trial.parameter_kinds": "HIDDEN_MATRICES freeze_all_but hidden_matrices_and_rest",
    "harness.trial.passes.rows": "has_rows input_moment",
    "harness.trial.optim.terms": "train_on_terms",
    "harness.trial.optim.schedules": "warmup_constant warmup_cosine warmup_linear",
    "harness.trial.trial": "Trial",
    "harness.trial.workers.cluster": "SimulatedCluster ResumableTensors",
    "harness.trial.workers.ledger": "Ledger",
    "harness.trial.workers.topology": "consensus_rate edges mixing_matrix",
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
