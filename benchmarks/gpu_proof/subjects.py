"""What the proof trains: a plain submission, judged by referees of the proof's own, on data that are anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.outcome import Outcome, TrialSpec
from harness.race.referee import Referee
from harness.race.sandbox import Sandbox

WORKLOAD = "digits_mlp"
"""Its images come with scikit-learn, so that it is there wherever the suite is."""
SUBMISSION = """
import torch

def train(trial, hp):
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=1e-3)
    for batch in trial.batches():
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch).backward()
        optimizer.step()
"""


@contextmanager
def submission() -> Iterator[Path]:
    """The directory of the plain submission, and beside it room for trials."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "submission"
        place.mkdir()
        (place / "submission.py").write_text(SUBMISSION, encoding="utf-8")
        yield place


def judge_on(device: torch.device) -> Judge:
    """A judge of the whole of WORKLOAD."""
    config = load("workload", WORKLOAD, WorkloadConfig)
    workload = create_workload(config.entry, config.options)
    validation, test = (workload.load(split, data_folder()) for split in ("validation", "test"))
    return Judge(workload, device, validation, test, config.eval_batch_size)


def trial(sandbox: Sandbox, judge: Judge, folder: Path, *, steps: int, freezes: bool | None = None) -> Outcome:
    """So many steps of the plain submission in `folder`, with four evaluations, however long they take."""
    config = load("workload", WORKLOAD, WorkloadConfig)
    train = create_workload(config.entry, config.options).load("train", data_folder())
    spec = TrialSpec(
        workload={
            "entry": config.entry,
            "options": config.options,
            "data_folder": str(data_folder()),
            "train_sha256": train.digest(),
        },
        submission={"folder": str(folder), "entry": None},
        hyperparameters={},
        seed=1,
        target=config.target.unreachable(),
        batch_size=config.batch_size,
        budget_steps=steps,
        step_hint=steps,
        max_runtime=60.0,
        eval_period=15.0,
        evaluate_every_steps=steps // 4,
    )
    return Referee(judge, sandbox, freezes=freezes).run(spec, folder.with_name("scratch"))


def described(outcome: Outcome) -> dict[str, Any]:
    """What an outcome says, without its log where it ended as it should."""
    return {
        "status": str(outcome.status),
        "reason": outcome.reason,
        "frozen": outcome.frozen,
        "sandboxed": outcome.sandboxed,
        "steps": [seen.step for seen in outcome.observations],
        "losses": [seen.validation["loss"] for seen in outcome.observations],
        "charged_seconds": outcome.charged_seconds,
        "evaluation_seconds": outcome.evaluation_seconds,
        "total_seconds": outcome.total_seconds,
        "median_step_seconds": outcome.median_step_seconds,
        "peak_device_bytes": outcome.peak_device_bytes,
        "log": "" if outcome.observations else outcome.log[-2000:],
    }
