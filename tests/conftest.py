"""What several test files share: a warm trainers' server, races on a small workload, the tables of AlgoPerf 0.5."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from harness.api import Target
from harness.commands.import_algoperf import Import, run_import
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.outcome import Outcome, TrialSpec
from harness.race.referee import Referee
from harness.race.sandbox import Sandbox

# How long an example takes depends on who else uses the machine.
settings.register_profile("timetrial", deadline=None)
settings.load_profile("timetrial")

BLOBS = "tests.blobs.Blobs"
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TIMETRIAL_SHARED", ROOT.parent / "shared")) / "data"
ARCHIVE = SHARED / "algoperf_v05_external_logs.tar.xz"
TARGETS = SHARED / "algoperf_v05_workload_targets.json"

SGD = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One server of trainers for the whole run, as a bench keeps one for all its trials."""
    with Sandbox(torch.device("cpu"), threads=1, memory_bytes=2 << 30) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def archive_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the first AlgoPerf competition, imported once for the whole run."""
    if not ARCHIVE.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{ARCHIVE} is absent, and CI never skips this test. Set TIMETRIAL_SHARED.")
        pytest.skip(f"{ARCHIVE} is absent. Set TIMETRIAL_SHARED to the folder that holds data/.")
    results = tmp_path_factory.mktemp("algoperf")
    run_import(Import(ARCHIVE, TARGETS, results, workers=os.cpu_count() or 1))
    return results / "runs"


@pytest.fixture
def race(sandbox: Sandbox, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs the source of a submission on the blobs workload and returns how it went."""

    return lambda source, **changes: race_on(sandbox, tmp_path, source, **changes)


def race_on(
    sandbox: Sandbox,
    folder: Path,
    source: str,
    *,
    on_evaluation: Callable[..., object] = lambda _: None,
    on_checkpoint: Callable[..., object] | None = None,
    **changes: Any,
) -> Outcome:
    """One trial of a submission with this source in `sandbox`; `changes` are of the trial's specification."""
    submission = folder / "submission"
    submission.mkdir(exist_ok=True)
    (submission / "submission.py").write_text(textwrap.dedent(source))
    spec, options = spec_for(submission, **changes)
    workload = create_workload(BLOBS, options)
    validation, test = (workload.load(split, folder) for split in ("validation", "test"))
    judge = Judge(workload, sandbox.device, validation, test, batch_size=256)
    referee = Referee(judge, sandbox)
    return referee.run(spec, folder / "scratch", on_evaluation=on_evaluation, on_checkpoint=on_checkpoint)


def spec_for(folder: Path, **changes: Any) -> tuple[TrialSpec, dict[str, Any]]:
    """A trial on the blobs workload that lasts at most two seconds; `options` are the workload's."""
    options = changes.pop("options", {})
    workload = create_workload(BLOBS, options)
    values: dict[str, Any] = {
        "workload": {
            "entry": BLOBS,
            "options": options,
            "data_folder": str(folder),
            "train_sha256": workload.load("train", folder).digest(),
        },
        "submission": {"folder": str(folder), "entry": None},
        "hyperparameters": {},
        "seed": 1,
        "target": Target("error", "min", -1.0),
        "batch_size": 32,
        "budget_steps": 400,
        "step_hint": 360,
        "max_runtime": 2.0,
        "eval_period": 0.2,
    }
    return TrialSpec(**{**values, **changes}), options
