"""What each workload computes before anything is learned, kept in results/reference/workloads.json; `make golden`.

A workload is known by the `version` in its YAML, not by the text of its modules. tests/workloads/test_golden.py
computes these values again: a workload that computes something else needs another version, and its values written anew.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from harness import command_line, config
from harness.api import ConfigError
from harness.config import WorkloadConfig
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from harness.trial.conversation import Conditions, Progress
from harness.trial.order import stream_seed
from harness.trial.pace import Streams
from harness.trial.stages import shown
from harness.trial.trial import Trial

GOLDEN = config.ROOT / "results" / "reference" / "workloads.json"
_SEED = 0
_INDICES = 10
_DIGITS = 6
# Instruction sets and numbers of threads move the gradient norm of mri_unet_tanh by 3e-5, the other values by less.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Golden:
    """What one version of a workload computes with one seed.

    `loss`, `gradient_norm`: of the initial weights on the first batch, as in training. `validation`: loss and metrics
    of the initial weights, after that batch has passed through batch norm. `order`: the first ten training examples.
    """

    version: int
    loss: float
    gradient_norm: float
    validation: dict[str, float]
    order: list[int]


def main(arguments: Sequence[str]) -> int:
    """`make golden [WORKLOAD=a,b]`: all workloads by default. Raises ConfigError as `keep`, DataError without data."""
    given = command_line.options(arguments, ["workload"])
    names = given["workload"].split(",") if given.get("workload") else config.pinned_workloads()
    torch.set_num_threads(1)
    for name in names:
        found = compute(config.load("workload", name, WorkloadConfig))
        keep(name, found, GOLDEN)
        print(f"{name} version {found.version}: loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}")
    return 0


def compute(settings: WorkloadConfig) -> Golden:
    """The values of a workload as it is now. Raises DataError where its data are not here, or others."""
    workload = create_workload(settings.entry, settings.options)
    data.check_weights(workload, settings.content)
    train_set, validation = (
        data.load_verified(workload, split, data.data_folder(), settings.content[split])
        for split in ("train", "validation")
    )
    conditions = Conditions(
        seed=_SEED,
        device=torch.device("cpu"),
        batch_size_hint=settings.batch_size,
        step_hint=settings.budget.step_hint,
        target=settings.target,
        budget_seconds=math.inf,
        eval_period=math.inf,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(_SEED, "model"))
        model = workload.build_model().train()
        torch.manual_seed(stream_seed(_SEED, "dropout"))
        trial = Trial(workload, model, train_set, conditions, _never_due)
        loss = trial.loss(trial.next_batch())
        loss.backward()
    squares = [float(each.grad.double().pow(2).sum()) for each in model.parameters() if each.grad is not None]
    metrics = evaluate(workload, model, validation, settings.eval_batch_size)
    return Golden(
        settings.version,
        _rounded(loss.item()),
        _rounded(math.sqrt(sum(squares))),
        {name: _rounded(value) for name, value in sorted(metrics.items())},
        Streams(conditions, shown(workload, train_set)).order.draw(_INDICES).tolist(),
    )


def kept(path: Path) -> dict[str, Golden]:
    """What was written down, by workload."""
    return {name: Golden(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}


def keep(name: str, found: Golden, path: Path) -> None:
    """Write the values of one workload down. Raises ConfigError where they are others under the same version."""
    known = kept(path) if path.exists() else {}
    if name in known and known[name].version == found.version and (differences := compare(known[name], found)):
        raise ConfigError(
            f"{name} version {found.version} computes something else than before: {'; '.join(differences)}. "
            f"Undo that, or give conf/workload/{name}.yaml a version of its own: {found.version + 1}."
        )
    known[name] = found
    names = set(config.pinned_workloads())
    rows = {each: asdict(values) for each, values in sorted(known.items()) if each in names or each == name}
    path.write_text(_one_line_each(rows), encoding="utf-8")


def compare(before: Golden, now: Golden) -> list[str]:
    """In what two sets of values differ by more than processors do, one phrase each."""
    pairs = {
        "loss": (before.loss, now.loss),
        "gradient norm": (before.gradient_norm, now.gradient_norm),
        **{
            f"validation {metric}": (before.validation.get(metric, math.nan), now.validation.get(metric, math.nan))
            for metric in sorted({*before.validation, *now.validation})
        },
    }
    found = [f"{what} {new:.6g} instead of {old:.6g}" for what, (old, new) in pairs.items() if not _equal(old, new)]
    if before.order != now.order:
        found.append(f"order {now.order} instead of {before.order}")
    return found


def _equal(old: float, new: float) -> bool:
    return math.isclose(old, new, rel_tol=_TOLERANCE, abs_tol=1e-9)


def _never_due(model: nn.Module, progress: Progress) -> None:
    """No evaluation comes within one step."""


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _one_line_each(rows: Mapping[str, Mapping[str, object]]) -> str:
    """JSON with a line for each workload, so that a change of one is seen as such."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in rows.items()) + "\n}\n"


if __name__ == "__main__":
    sys.exit(command_line.run(main))
