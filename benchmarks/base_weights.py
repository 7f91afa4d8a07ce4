"""Trains the networks that workloads lay adapters on, and writes them into workloads/weights; `make base-weights`.

The reference submission at its defaults, by steps, so that the machine's speed changes nothing; its processor does, in
the last bits. So the file is committed, and one that is made anew is another base, hence another version.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.target_runs import train_of
from harness import command_line
from harness.api import ConfigError, Hyperparameters, Target, Workload
from harness.plugins import data
from harness.plugins.submission import load_submission
from harness.race.evaluation import evaluate
from harness.trial.conversation import Conditions, Go, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.trial import Trial
from workloads.adapter_english import WEIGHTS, KingJamesBase
from workloads.networks.stored_weights import read_weights, write_weights

_REFERENCE = "nadamw"
_BASES: Mapping[Path, type[Workload]] = {WEIGHTS: KingJamesBase}
_SEED, _STEPS, _BATCH_SIZE = 0, 1600, 16


def main(arguments: Sequence[str]) -> int:
    """`make base-weights`. Raises ConfigError for any argument, DataError where the data cannot be had."""
    if arguments:
        raise ConfigError(f"make base-weights takes no {arguments[0]!r}.")
    torch.set_num_threads(1)
    for path, kind in _BASES.items():
        workload, folder = kind(), data.data_folder()
        data.fetch(workload, folder, print)
        model = trained(workload, steps=_STEPS)
        validation = workload.load("validation", folder)
        before = evaluate(workload, model, validation, 64)
        sha256 = write_weights(path, model.state_dict())
        model.load_state_dict(read_weights(path))
        after = evaluate(workload, model, validation, 64)
        print(f"{path.name}: {path.stat().st_size} bytes, loss {before['loss']:.4f}, rounded {after['loss']:.4f}")
        print(f"Its YAML needs another version, and data: {{weights: {sha256}}}")
    return 0


def trained(workload: Workload, *, steps: int) -> nn.Module:
    """The workload's model after so many steps of the reference at its defaults."""
    submission = load_submission(_REFERENCE)
    conditions = Conditions(
        seed=_SEED,
        device=torch.device("cpu"),
        batch_size_hint=_BATCH_SIZE,
        step_hint=steps,
        target=Target("loss", "min", 0.0),
        budget_seconds=math.inf,
        eval_period=math.inf,
        evaluate_every_steps=steps,
    )
    torch.manual_seed(stream_seed(_SEED, "model"))
    model = workload.build_model().train()
    torch.manual_seed(stream_seed(_SEED, "dropout"))
    trial = Trial(workload, model, workload.load("train", data.data_folder()), conditions, _end)
    trial.go(Go(0.0))
    with contextlib.suppress(TrialOver):
        train_of(_REFERENCE)(trial, Hyperparameters(submission.space.defaults))
    return model


def _end(model: nn.Module, progress: Progress) -> Go | None:  # noqa: ARG001
    """The first evaluation is the end."""
    return None


if __name__ == "__main__":
    sys.exit(command_line.run(main))
