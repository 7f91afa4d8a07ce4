"""Runs one cell: a bench that a fault strikes at a state, what it must leave, and the bench that follows it."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from harness.command_line import PlainConsole
from harness.commands import bench as commands_bench
from harness.config import StudyConfig
from harness.records.files import is_held
from harness.records.tables import Records, TrialKey
from harness.study.identity import describe, trial_key
from harness.study.study import run_study
from tests.faults import stage
from tests.faults.staged import Staged

_WAIT = 150.0


def preloaded() -> Any:
    """The context of processes that have imported everything before they are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.stage", "harness.commands.bench"])
    return context


class World:
    """What all cells share: the submission, its data, and the results of benches that nobody touched."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)  # another user is to look at results, too
        self.folder = folder
        self.submission = folder / "s" / "walk"
        self.data = folder / "data"
        if not self.submission.exists():
            stage.write_submission(self.submission)
            self.data.mkdir()
            Staged().store(self.data)

    def config(self, results: Path, *, tracking: str = "off") -> StudyConfig:
        """The study of all cells."""
        return stage.study_config(results, self.submission, tracking=tracking)

    @property
    def untouched(self) -> Path:
        """Results of a bench that nothing happened to."""
        return self._made("untouched", self.follow)

    @property
    def begun(self) -> Path:
        """Of one that was stopped between its first trial and its second one."""

        def make(results: Path) -> None:
            shutil.copytree(self.untouched, results)
            for key in self.keys(results)[stage.STRUCK :]:
                for table in ("trials", "evaluations"):
                    Records(results / "runs").path(table, key).unlink()

        return self._made("begun", make)

    @property
    def killed(self) -> Path:
        """Of one whose referee was killed in the second trial, after a checkpoint."""

        def make(results: Path) -> None:
            shutil.copytree(self.begun, results)
            performance = Performance(self, self.folder / "k", results)
            performance.run(("in step 10", 1), lambda one: one.kill(one.pid))
            performance.clear()

        return self._made("killed", make)

    @property
    def launched(self) -> Path:
        """Of a bench of two submissions with a launcher."""
        return self._made("launched", lambda results: self.follow_launched(results))

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        whole = self.folder / name
        if not whole.exists():
            make(self.folder / f"{name}.part")
            (self.folder / f"{name}.part").rename(whole)
        return whole

    def prepare(self, cells: Iterable[Any]) -> None:
        """Make what these cells start from, before several processes want it at once."""
        wanted = {"launched" if cell.launched else "killed" if cell.state.again else "begun" for cell in cells}
        for name in sorted(wanted):
            getattr(self, name)

    def keys(self, results: Path) -> list[TrialKey]:
        """The trials of the study, as they stand in `results`."""
        study = describe(self.config(results))
        return [trial_key(study, trial, Records(results / "runs")) for trial in range(stage.TRIALS)]

    def follow(self, results: Path) -> str:
        """What the same command says that is run again, in this process, where nothing happens to it."""
        said = io.StringIO()
        with _reading(self.data), _let_go_below(results):
            run_study(describe(self.config(results)), PlainConsole(said, width=200))
        return said.getvalue()

    def follow_launched(self, results: Path) -> str:
        """The same for the bench with a launcher, without one."""
        with _reading(self.data), _let_go_below(results):
            code = commands_bench.main(stage.overrides(results, self.submission))
        return f"exit code {code}"


@contextlib.contextmanager
def _reading(data: Path) -> Iterator[None]:
    """In here this process reads its data from this folder."""
    before = os.environ.get("TIMETRIAL_DATA")
    os.environ["TIMETRIAL_DATA"] = str(data)
    try:
        yield
    finally:
        del os.environ["TIMETRIAL_DATA"]
        if before is not None:
            os.environ["TIMETRIAL_DATA"] = before


@contextlib.contextmanager
def _let_go_below(results: Path) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            with contextlib.suppress(OSError):  # a folder that has just gone
                for mark in (results / "runs" / "scratch").glob("*/at-*"):
                    mark.unlink(missing_ok=True)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


Wanted = tuple[str, int]


class Performance:
    """One bench on the stage, in `results`, with `folder` for all the rest that it leaves."""

    def __init__(self, world: World, folder: Path, results: Path, *, tracking: str = "off", **more: Any) -> None:
        self.world = world
        self.folder = folder
        self.results = results
        self.config = world.config(results, tracking=tracking)
        self.reached: list[str] = []
        self.was_struck = False
        self.pid = 0
        self.others: list[BaseProcess] = []
        self._directories: dict[Path, int] = {}
        self.code: int | None = None
        (folder / "stage").mkdir(parents=True)
        (folder / "t").mkdir()
        (folder / "t").chmod(0o1777)
        self._more = more
        self._process: BaseProcess | None = None

    def run(
        self,
        wanted: Wanted | None,
        strike: Callable[[Performance], Callable[[], bool] | None],
        *,
        play: Callable[[stage.Scene], None] | None = None,
    ) -> None:
        """Run until the process has ended; `strike` when the state `wanted` is reached, which lasts until it is over.

        `strike` may return a question that is asked until it is true.
        """
        scene = stage.Scene(self.config, self.folder, **{"data": self.world.data, **self._more})
        self._process = preloaded().Process(target=play or _play, args=(scene,))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        deadline = time.monotonic() + _WAIT
        counts: Counter[str] = Counter()
        held: tuple[Path, Callable[[], bool]] | None = None
        while self._process.is_alive() or any(other.is_alive() for other in self.others):
            if time.monotonic() > deadline:
                self.end()
                raise TimeoutError(f"did not end within {_WAIT:.0f} s; reached {self.reached[-3:]}\n{self.said}")
            if held is not None and held[1]():
                self._let_go(held[0])
                held = None
            for mark in self._marks():
                if held is not None and mark == held[0]:
                    continue
                state = mark.name.removeprefix("at-")
                counts[state] += 1
                self.reached.append(state)
                self._directory(mark)
                if wanted == (state, counts[state]) and not self.was_struck:
                    self.was_struck = True
                    is_over = strike(self)
                    if is_over is not None:
                        held = mark, is_over
                        continue
                self._let_go(mark)
            time.sleep(0.005)
        self._process.join()
        self.code = self._process.exitcode
        for directory in self._directories.values():
            os.close(directory)

    def beside(self, **changes: Any) -> BaseProcess:
        """Another bench on the same results, which stops at no state of its referee."""
        folder = self.folder / f"beside{len(self.others)}"
        folder.mkdir()
        (folder / "t").mkdir()
        (folder / "t").chmod(0o1777)
        scene = stage.Scene(
            self.config, folder, **{"data": self.world.data, "is_watched": False, **self._more, **changes}
        )
        other: BaseProcess = preloaded().Process(target=_play, args=(scene,))
        other.start()
        self.others.append(other)
        return other

    def _directory(self, mark: Path) -> int:
        """The folder of a mark, by which it can be removed when that lies on a disk that is read-only by then."""
        if mark.parent not in self._directories:
            self._directories[mark.parent] = os.open(mark.parent, os.O_PATH)
        return self._directories[mark.parent]

    def _let_go(self, mark: Path) -> None:
        try:
            mark.unlink()
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(mark.name, dir_fd=self._directory(mark))

    def _marks(self) -> list[Path]:
        places = [self.folder / "stage", *(self.results / "runs" / "scratch").glob("*")]
        found = []
        for place in places:
            with contextlib.suppress(OSError):  # a folder that has just gone
                found += place.glob("at-*")
        return found

    def kill(self, pid: int | None, number: int = signal.SIGKILL) -> None:
        """Signal a process of this bench."""
        assert pid is not None, f"there is no such process; reached {self.reached[-3:]}"
        os.kill(pid, number)

    @property
    def said(self) -> str:
        """What the bench has printed."""
        return _words_of(self.folder)

    def said_beside(self) -> list[str]:
        """What each bench beside it has printed, in the order in which they were started."""
        return [_words_of(self.folder / f"beside{number}") for number in range(len(self.others))]

    def below(self) -> list[psutil.Process]:
        """Every process that this bench has started, wherever it hangs now."""
        marks = {stage.marker(folder).encode() for folder in (self.folder, *self.folder.glob("beside*"))}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                content = Path(f"/proc/{process.pid}/environ").read_bytes()
                if any(b"LOGNAME=" + mark + b"\0" in content for mark in marks):
                    found.append(process)
        return found

    def server(self) -> psutil.Process | None:
        """The server of trainers: what it forks has its words, but not its session."""
        for each in self.below():
            with contextlib.suppress(OSError, psutil.Error):
                if "harness.race.forkserver" in each.cmdline() and os.getsid(each.pid) == each.pid:
                    return each
        return None

    def trainer(self) -> psutil.Process | None:
        """The trainer: the first process of a group of its own."""
        for each in self.below():
            with contextlib.suppress(OSError):
                if os.getpgid(each.pid) == each.pid and os.getsid(each.pid) != each.pid:
                    return each
        return None

    def end(self) -> None:
        """Kill what still runs."""
        processes = [each for each in [self._process, *self.others] if each is not None]
        for process in processes:
            process.kill()
            process.join()
        for left in self.below():
            with contextlib.suppress(psutil.Error):
                left.kill()

    def left(self) -> list[str]:
        """What must not be left by now: processes, mounts, temporary files."""
        deadline = time.monotonic() + 15.0
        while (alive := self.below()) and time.monotonic() < deadline:
            time.sleep(0.02)
        found = [f"a process is left: {each}" for each in alive]
        for folder in (self.folder, *self.folder.glob("beside*")):
            while (files := list((folder / "t").iterdir())) and time.monotonic() < deadline:
                time.sleep(0.02)  # the server of a referee that was killed clears up after it
            found += [f"a temporary file is left: {path}" for path in files]
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        found += [f"a mount is left: {line}" for line in mounts.splitlines() if f" {self.results}" in line]
        for path in (path for path in self.results.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                if is_held(file):
                    found.append(f"a lock is left: {path}")
        return found

    def clear(self) -> None:
        """Remove what is not the results."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _words_of(folder: Path) -> str:
    path = folder / "said.txt"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _play(scene: stage.Scene) -> None:
    scene.play(stage.bench)
