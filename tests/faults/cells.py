"""The states of a trial, the faults that strike there, and the end that each must have. Runs nothing by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.records.tables import Records
from tests.blobs import FILE
from tests.faults import stage
from tests.faults.conductor import Performance, World

Strike = Callable[[Performance], Callable[[], bool] | None]


@dataclass(frozen=True)
class State:
    """A place in the life of the struck trial: the `count`th time that it comes to `name`.

    `again`: of a trial whose referee was killed before, and that goes on from its checkpoint.
    """

    name: str
    count: int = 1
    again: bool = False

    @property
    def title(self) -> str:
        """In words."""
        number = f" ({self.count})" if self.count > 1 else ""
        return f"{self.name}{number}{', going on' if self.again else ''}"


# --- the states, in the order in which a trial comes to them ---

OPENING = State("opening the journal")
SCRATCH = State("making the scratch folder")
SERVER = State("starting the server")
BUILDING = State("building")
IMPORTING = State("importing")
FIRST = State("in step 1")
HANDING_OVER = State("before an evaluation")
JUDGING = State("judging")
TESTING = State("judging", 2)
TOLD = State("after an evaluation")
SAVING = State("saving its state")
TAKING = State("taking a checkpoint over")
KEPT = State("in step 10")
TAKING_AGAIN = State("taking a checkpoint over", 2)
FORGETTING = State("removing checkpoints", 4)
LATE = State("in step 22")
ENDED = State("after its end")
WRITING_EVALUATIONS = State("writing the evaluations")
NAMING_EVALUATIONS = State("naming the evaluations")
WRITING = State("writing the trial")
NAMING = State("naming the trial")
UNNAMING = State("removing the second name")
LOGGING = State("writing the log")
CLOSING = State("removing the journal")
CLEARING = State("removing checkpoints", 5)
NEXT = State("opening the journal", 2)

BUILDING_AGAIN = State("building", again=True)
IMPORTING_AGAIN = State("importing", again=True)
FIRST_AGAIN = State("in step 1", again=True)
LOADING = State("loading its state", again=True)
RESTORED = State("in step 10", again=True)
JUDGING_AGAIN = State("judging", again=True)
TAKING_LATER = State("taking a checkpoint over", again=True)
WRITING_AGAIN = State("writing the trial", again=True)

WITHOUT_SERVER = [OPENING, SCRATCH, SERVER]
TRAINING = [
    IMPORTING,
    FIRST,
    HANDING_OVER,
    JUDGING,
    TESTING,
    TOLD,
    SAVING,
    TAKING,
    KEPT,
    TAKING_AGAIN,
    FORGETTING,
    LATE,
]
RECORDING = [WRITING_EVALUATIONS, NAMING_EVALUATIONS, WRITING, NAMING, UNNAMING, LOGGING, CLOSING, CLEARING, NEXT]
CATCHING_UP = [BUILDING_AGAIN, IMPORTING_AGAIN, FIRST_AGAIN, LOADING]
GOING_ON = [RESTORED, JUDGING_AGAIN, TAKING_LATER]
WITH_SERVER = [BUILDING, *TRAINING, ENDED, *RECORDING, *CATCHING_UP, *GOING_ON, WRITING_AGAIN]
ALL = [*WITHOUT_SERVER, *WITH_SERVER]


@dataclass(frozen=True)
class Cell:
    """One fault at one state, and how the bench must end.

    `codes`: exit codes that it may end with; `says`: words that it must say; `crash`: the struck trial may have a row
    that says so; `is_lost`: a finished row is what the fault destroys, so that it must be run again.
    """

    fault: str
    state: State
    strike: Strike
    codes: tuple[int, ...] = (0,)
    says: str = ""
    crash: bool = False
    is_lost: bool = False
    heal: Callable[[Performance], object] = lambda _: None
    """What a person does before the next bench."""
    set_up: Callable[[World, Path, Path], Performance] = Performance
    """What plays: from the world, the cell's folder, and its results."""
    play: Callable[[stage.Scene], None] | None = None
    needs: str = ""
    """What the machine must have for it."""
    launched: bool = False

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.fault}: {self.state.title}"


# --- what strikes ---


def _referee(number: int) -> Strike:
    return lambda one: one.kill(one.pid, number)


def _twice(number: int) -> Strike:
    def strike(one: Performance) -> None:
        one.kill(one.pid, number)
        # In the middle of the clean end, wherever that is by then.
        time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            one.kill(one.pid, number)

    return strike


def _server(one: Performance) -> None:
    server = one.server()
    one.kill(server.pid if server else None)


def _trainer(one: Performance) -> None:
    trainer = one.trainer()
    one.kill(trainer.pid if trainer else None)


def _helpers(one: Performance) -> None:
    """The processes that keep the trainer's namespaces."""
    server, trainer = one.server(), one.trainer()
    helpers = [each for each in one.below() if each not in (server, trainer)]
    assert helpers
    for each in helpers:
        one.kill(each.pid)


def _fill(one: Performance) -> None:
    with (one.results.parent / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1 << 12))


def _make_read_only(one: Performance) -> None:
    # Over the folder, since what is open for writing keeps a file system from being made read-only.
    place = str(one.results)
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)


def _make_writable(one: Performance) -> None:
    subprocess.run(["umount", "--lazy", str(one.results)], check=True)


def _alter(one: Performance) -> None:
    path = one.folder / "data" / FILE
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(each ^ 0x40 for each in content))


def _starve(one: Performance) -> None:
    used = next(line for line in Path(f"/proc/{one.pid}/status").read_text().splitlines() if line.startswith("VmSize"))
    allowed = (int(used.split()[1]) << 10) + (256 << 20)
    resource.prlimit(one.pid, resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))


def _another(**changes: object) -> Strike:
    def strike(one: Performance) -> Callable[[], bool]:
        other = one.beside(**changes)
        return lambda: not other.is_alive()

    return strike


def _cut(table: str) -> Strike:
    def strike(one: Performance) -> None:
        path = Records(one.results / "runs").path(table, one.world.keys(one.results)[0])
        os.truncate(path, path.stat().st_size // 2)

    return strike


def _set_clock(seconds: int) -> Strike:
    def strike(one: Performance) -> None:
        (one.folder / "clock").write_text(f"{seconds}\n")

    return strike


def _worker(number: int) -> Strike:
    def strike(one: Performance) -> None:
        server = one.server()
        worker = server.parent() if server else None
        one.kill(worker.pid if worker else None, number)

    return strike


# --- what a person does then ---


def _tear(how: str) -> Callable[[Performance], None]:
    def heal(one: Performance) -> None:
        key = one.world.keys(one.results)[stage.STRUCK]
        path = one.results / "runs" / "journal" / f"{key.trial_id}.jsonl"
        content = path.read_bytes()
        torn = {
            "half a line more": content + b'{"kind": "evalua',
            "its last line cut": content[:-9],
            "zeros at its end": content + bytes(512),
        }[how]
        path.write_bytes(torn)

    return heal


def _move_away(one: Performance) -> None:
    for table in ("trials", "evaluations"):
        Records(one.results / "runs").path(table, one.world.keys(one.results)[0]).unlink()


# --- where it plays ---


def _on_small_disk(world: World, folder: Path, results: Path) -> Performance:
    disk = folder / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    shutil.copytree(results, disk / "results")
    shutil.rmtree(results)
    return Performance(world, folder, disk / "results")


def _with_data_of_its_own(world: World, folder: Path, results: Path) -> Performance:
    shutil.copytree(world.data, folder / "data")
    return Performance(world, folder, results, data=folder / "data")


def _with_wandb(source: str) -> Callable[[World, Path, Path], Performance]:
    """With a `wandb` of this source."""

    def set_up(world: World, folder: Path, results: Path) -> Performance:
        package = folder / "first" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return Performance(world, folder, results, tracking="offline", first_path=str(folder / "first"))

    return set_up


def _wandb(**deeds: str) -> str:
    """Source of a `wandb` that does as the real one, keeps nothing, and does these deeds instead."""
    body = {"init": "return Run()", "log": "pass", "finish": "pass", **deeds}
    return f"""
        import time

        class Settings:
            def __init__(self, **options): ...

        class Run:
            dir = "."
            summary = {{}}
            def define_metric(self, *names, **options): ...
            def log(self, values): {body["log"]}
            def finish(self, exit_code): {body["finish"]}

        def init(**options): {body["init"]}
    """


_RAISE = "raise RuntimeError('W&B is down')"
_HANG = "time.sleep(1000)"

_CLOCK = Path(__file__).with_name("clock.c")
_DAYS = 86_400


def wrong_clock(folder: Path) -> dict[str, str]:
    """The environment of a program whose wall clock goes wrong by the seconds in the file `clock` of `folder`."""
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(_CLOCK)], check=True)
    (folder / "clock").write_text("0\n")
    return {"LD_PRELOAD": str(library), "CLOCK_FILE": str(folder / "clock")}


def play_with_clock(scene: stage.Scene) -> None:
    """The bench with a wall clock that goes wrong by what the file `clock` says."""
    os.environ.update(wrong_clock(scene.folder))
    os.execv(sys.executable, [sys.executable, "-m", "tests.faults.stage", scene.written()])


def play_launched(scene: stage.Scene) -> None:
    """The bench of two submissions on joblib's processes."""
    scene.play(stage.bench_launched)


def cells() -> list[Cell]:
    """All of them."""
    ns, killed = signal, -signal.SIGKILL
    found = [Cell("kill -9 of the referee", state, _referee(ns.SIGKILL), (killed,)) for state in ALL]
    found += [Cell("SIGINT", state, _referee(ns.SIGINT), (130,)) for state in ALL]
    some = [OPENING, SERVER, BUILDING, FIRST, JUDGING, SAVING, TAKING, KEPT, ENDED, WRITING, NAMING, CLOSING, LOADING]
    found += [Cell("SIGTERM", state, _referee(ns.SIGTERM), (143,)) for state in [*some, RESTORED]]
    for number, code in ((ns.SIGINT, 130), (ns.SIGTERM, 143)):
        found += [
            Cell(f"{number.name} twice", state, _twice(number), (code, -number))
            for state in (BUILDING, JUDGING, TAKING, KEPT, WRITING, LOADING)
        ]
    found += [Cell("kill -9 of the fork server", state, _server) for state in WITH_SERVER]
    before_ready = (BUILDING, BUILDING_AGAIN)
    found += [
        Cell("kill -9 of the trainer", each, _trainer, (2,), "no trial could be started") for each in before_ready
    ]
    found += [Cell("kill -9 of the trainer", state, _trainer, crash=True) for state in [*TRAINING, *GOING_ON]]
    found += [
        Cell("kill -9 of the trainer", state, _trainer) for state in [ENDED, *CATCHING_UP] if state not in before_ready
    ]
    found += [
        Cell("kill -9 of the namespaces' keepers", state, _helpers, (0, 2), crash=True, needs="sandbox")
        for state in (FIRST, JUDGING, KEPT)
    ]
    disk = [OPENING, SCRATCH, IMPORTING, JUDGING, SAVING, TAKING, KEPT, TAKING_AGAIN, FORGETTING, LATE]
    for fault, strike, heal, words in (
        ("disk full", _fill, lambda one: (one.results.parent / "filler").unlink(), ""),
        ("disk read-only", _make_read_only, _make_writable, ""),
    ):
        found += [
            Cell(fault, state, strike, (0, 2), words, heal=heal, set_up=_on_small_disk, needs="mount")
            for state in [*disk, *RECORDING]
        ]
    for how in ("half a line more", "its last line cut", "zeros at its end"):
        found += [
            Cell(f"kill -9, then a journal with {how}", state, _referee(ns.SIGKILL), (killed,), heal=_tear(how))
            for state in (FIRST, TOLD, KEPT, WRITING_EVALUATIONS, NAMING)
        ]
    for table in ("trials", "evaluations"):
        found += [
            Cell(f"{table} row cut in half", state, _cut(table), heal=_move_away, is_lost=True)
            for state in (OPENING, KEPT, NAMING)
        ]
    for state, deed in ((BUILDING, "init"), (TOLD, "log"), (CLOSING, "finish")):
        for fault, source in (("W&B raises", _RAISE), ("W&B hangs", _HANG)):
            set_up = _with_wandb(_wandb(**{deed: source}))
            found.append(Cell(f"{fault} in {deed}", state, lambda _: None, says="W&B", set_up=set_up))
    absent = _with_wandb("raise ImportError('there is no W&B')")
    found.append(Cell("W&B is absent", BUILDING, lambda _: None, says="W&B", set_up=absent))
    for days in (10, -10):
        found += [
            Cell(f"clock jumps by {days:+} days", state, _set_clock(days * _DAYS), play=play_with_clock, needs="cc")
            for state in (SERVER, FIRST, JUDGING, WRITING)
        ]
    found += [
        Cell("a second bench", state, _another())
        for state in (OPENING, SERVER, FIRST, JUDGING, TAKING, NAMING, CLOSING)
    ]
    found += [
        Cell("a second user's bench", state, _another(user=65534), needs="root")
        for state in (OPENING, FIRST, JUDGING, NAMING)
    ]
    found += [
        Cell("data file altered", state, _alter, (2,), "data", set_up=_with_data_of_its_own)
        for state in (OPENING, BUILDING, JUDGING, KEPT, LATE, NEXT)
    ]
    found += [
        Cell("out of memory in an evaluation", state, _starve, (2,), "out of memory")
        for state in (JUDGING, TESTING, JUDGING_AGAIN)
    ]
    for number in (ns.SIGKILL, ns.SIGTERM):
        found += [
            Cell(f"{number.name} of a launcher's worker", state, _worker(number), (2,), "lost",
                 play=play_launched, launched=True)
            for state in (FIRST, JUDGING, KEPT)
        ]  # fmt: skip
    return found
