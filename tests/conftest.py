"""What several test files share: a warm trainers' server, races on a small workload, the tables of AlgoPerf 0.5."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from harness.api import Target
from harness.command_line import PlainConsole
from harness.commands.imports.import_algoperf import Import, run_import
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from harness.race.outcome import Continuation, Outcome, TrialSpec
from harness.race.referee import Referee
from harness.race.sandbox import Sandbox

# How long an example takes depends on who else uses the machine.
settings.register_profile("timetrial", deadline=None)
settings.load_profile("timetrial")

BLOBS = "tests.blobs.Blobs"
ROOT = Path(__file__).resolve().parent.parent
LISTING = ROOT / "tests" / "listing"
SHARED = Path(os.environ.get("TIMETRIAL_SHARED", ROOT.parent / "shared"))
ARCHIVE = SHARED / "data" / "algoperf_v05_external_logs.tar.xz"
TARGETS = SHARED / "data" / "algoperf_v05_workload_targets.json"

# A locale without UTF-8, and no help from Python against it.
ISO = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}

SGD = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""


def pytest_configure() -> None:
    """List folders as $TIMETRIAL_TEST_LISTING says, here and in every process that a test starts.

    Where `make` started the tests, what it tells a `make` below itself is taken away: such a one says which folder it
    enters, and keeps variables of the command line, which stand in the environment as well.
    """
    given = re.findall(r"(?:^|(?<!\\)\s)(\w+)=", os.environ.get("MAKEFLAGS", "").partition("-- ")[2])
    for name in ("MAKELEVEL", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", *given):
        os.environ.pop(name, None)
    # How wide somebody's terminal is decides where lines of tables break.
    os.environ.pop("COLUMNS", None)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and what they start as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Tensors are tiny here, and a second thread spins while it waits: on a busy machine that takes twenty times longer.
    torch.set_num_threads(1)
    if os.environ.get("TIMETRIAL_TEST_LISTING"):
        found = [str(LISTING), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(found)
        runpy.run_path(str(LISTING / "sitecustomize.py"))


@pytest.fixture(scope="session", autouse=True)
def folder_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where files of nobody may turn up in folders."""
    os.environ["TIMETRIAL_TEST_FOLDER"] = str(tmp_path_factory.getbasetemp())


def environment(**changes: str) -> dict[str, str]:
    """That of a process which a test starts in any folder."""
    found = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), **changes}


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
    run_import(Import(ARCHIVE, TARGETS, results, workers=os.cpu_count() or 1), PlainConsole())
    return results / "runs"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


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
    continuation: Continuation | None = None,
    **changes: Any,
) -> Outcome:
    """One trial of a submission with this source in `sandbox`; `changes` are of the trial's specification."""
    submission = folder / "submission"
    submission.mkdir(exist_ok=True)
    (submission / "submission.py").write_text(textwrap.dedent(source), encoding="utf-8")
    spec, options = spec_for(submission, **changes)
    workload = create_workload(spec.workload["entry"], options)
    validation, test = (workload.load(split, folder / "data") for split in ("validation", "test"))
    judge = Judge(workload, sandbox.device, validation, test, batch_size=256)
    referee = Referee(judge, sandbox)
    return referee.run(
        spec,
        folder / "scratch",
        on_evaluation=on_evaluation,
        on_checkpoint=on_checkpoint,
        continuation=continuation,
    )


def spec_for(folder: Path, **changes: Any) -> tuple[TrialSpec, dict[str, Any]]:
    """A trial on the blobs workload that lasts at most two seconds; `options` are the workload's."""
    entry, options = changes.pop("entry", BLOBS), changes.pop("options", {})
    workload = create_workload(entry, options)
    data = folder.parent / "data"
    data.mkdir(exist_ok=True)
    if options.get("stored"):
        workload.store(data)
    values: dict[str, Any] = {
        "workload": {
            "entry": entry,
            "options": options,
            "data_folder": str(data),
            "train_sha256": workload.load("train", data).digest(),
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


@contextlib.contextmanager
def interrupted(watch: Callable[[threading.Event], object]) -> Iterator[None]:
    """Ctrl-C as soon as `watch` returns; it is called in a thread and told when it need not go on."""

    def interrupt(*_: object) -> None:
        if not over.is_set():
            raise KeyboardInterrupt

    def wait() -> None:
        watch(over)
        os.kill(os.getpid(), signal.SIGALRM)

    over, before = threading.Event(), signal.signal(signal.SIGALRM, interrupt)
    watcher = threading.Thread(target=wait)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGALRM, before)
