"""Trains the networks that workloads begin with, and writes them into workloads/weights; `make base-weights`.

The reference submission at its defaults, by steps, so that the machine's speed changes nothing; its processor does, in
the last bits. So the file is committed, and one that is made anew is another base, hence another version.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.target_runs import train_of
from harness import command_line
from harness.api import ConfigError, Hyperparameters, Target, Workload, near_matches
from harness.plugins import data
from harness.plugins.submission import load_submission
from harness.race.evaluation import evaluate
from harness.trial.conversation import Conditions, Go, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.trial import Trial
from workloads import adapter_english
from workloads.frontier.facts import facts_editor, facts_memory
from workloads.frontier.fashion import fashion_concept, fashion_unlearning
from workloads.networks.stored_weights import take_weights, write_weights

_REFERENCE = "nadamw"
_SEED = 0


@dataclass(frozen=True)
class Base:
    """A network that workloads start from: where its weights lie, and what it was trained on, for how long."""

    path: Path
    make: Callable[[], Workload]
    steps: int
    batch_size: int


TO_FORGET = Base(
    fashion_unlearning.WEIGHTS, lambda: fashion_unlearning.FirstTraining(retains=False), steps=2500, batch_size=64
)

BASES: Mapping[str, Base] = {
    each.path.stem: each
    for each in (
        Base(adapter_english.WEIGHTS, adapter_english.KingJamesBase, steps=1600, batch_size=16),
        Base(fashion_concept.WEIGHTS, lambda: fashion_concept.BASE, steps=3000, batch_size=32),
        TO_FORGET,
        Base(facts_editor.WEIGHTS, facts_editor.facts_known, steps=200, batch_size=256),
        Base(facts_memory.WEIGHTS, facts_memory.facts_known, steps=200, batch_size=32),
    )
}


def main(arguments: Sequence[str]) -> int:
    """`make base-weights [BASE=a,b]`: all by default. Raises ConfigError for others, DataError without their data."""
    names = command_line.options(arguments, ["base"]).get("base", ",".join(BASES)).split(",")
    if unknown := [name for name in names if name not in BASES]:
        raise ConfigError(f"there is no base {unknown[0]!r}. {near_matches(unknown[0], BASES)}")
    torch.set_num_threads(1)
    for base in (BASES[name] for name in names):
        workload, folder = base.make(), data.data_folder()
        data.fetch(workload, folder, print)
        model = trained(workload, steps=base.steps, batch_size=base.batch_size)
        validation = workload.load("validation", folder)
        before = evaluate(workload, model, validation, 64)
        sha256 = write_weights(base.path, dict(model.named_parameters()))
        take_weights(model, base.path)
        after = evaluate(workload, model, validation, 64)
        print(f"{base.path.name}: {base.path.stat().st_size} bytes")
        for name, value in before.items():
            print(f"  {name} {value:.4f}, rounded {after[name]:.4f}")
        print(f"Its YAML needs another version, and data: {{weights: {sha256}}}")
    return 0


def trained(workload: Workload, *, steps: int, batch_size: int, seed: int = _SEED) -> nn.Module:
    """The workload's model after so many steps of the reference at its defaults."""
    submission = load_submission(_REFERENCE)
    conditions = Conditions(
        seed=seed,
        device=torch.device("cpu"),
        batch_size_hint=batch_size,
        step_hint=steps,
        target=Target("loss", "min", 0.0),
        budget_seconds=math.inf,
        eval_period=math.inf,
        evaluate_every_steps=steps,
    )
    torch.manual_seed(stream_seed(seed, "model"))
    model = workload.build_model().train()
    torch.manual_seed(stream_seed(seed, "dropout"))
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
