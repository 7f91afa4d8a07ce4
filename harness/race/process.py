"""An untrusted process with all its children, as the referee handles it: heard, stopped, continued, limited, killed."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from harness.race.channel import Channel, ChannelClosed, Message
from harness.race.processes import exit_text

_WATCH_PERIOD = 0.5
_PROCESSES_AT_MOST = 256
_FILES_AT_MOST = 10_000
_STOP_SECONDS = 5.0
_LAST_WORDS = 32
_LOG_HEAD_BYTES = 1 << 18
_LOG_TAIL_BYTES = 1 << 16


class ProcessGone(Exception):  # noqa: N818 - the referee turns it into a status
    """The process has ended or was ended, for the reason given."""


class ServerGone(ProcessGone):
    """It has ended because the server that it came from has, which no submission can reach from its sandbox."""


class Untrusted:
    """One untrusted process with all its children, as the referee handles it. `role`: what it is called in reasons."""

    def __init__(
        self,
        pid: int,
        server: int,
        channel: Channel,
        exits: Channel,
        log: int,
        temporary: Path,
        memory_bytes: int,
        *,
        has_ranks: bool = False,
        builder: int | None = None,
        keeper: int | None = None,
        scratch: Path | None = None,
        disk_bytes: int = 1 << 40,
        role: str = "trainer",
    ) -> None:
        self.pid = pid
        self.is_over = False
        """Whether `end` has come to its end: no process and no file is left."""
        self._role = role
        self._keeper = keeper
        self._helpers = (builder, keeper)
        self._peak_of_one: int | None = None
        self._peak_of_all = 0
        self._has_ranks = has_ranks
        self._server = server
        self._channel = channel
        self._exits = exits
        self._log = log
        self._temporary = temporary
        self._memory_bytes = memory_bytes
        self._exit: int | None = None
        self._is_server_gone = False
        self._others = _system_processes()
        self._scratch = scratch
        self._disk_bytes = disk_bytes
        self._escaped: list[psutil.Process] = []
        self._head = bytearray()
        self._tail = bytearray()

    def send(self, message: Message) -> None:
        """Send one message; a process that has gone is noticed at the next receive."""
        with contextlib.suppress(ChannelClosed):
            self._channel.send(message)

    def receive(self, deadline: float, tick: Callable[[], object] | None = None) -> Message:
        """Its next message. `deadline` is on the monotonic clock; `tick` is called about twice a second.

        Raises TimeoutError at the deadline, ProcessGone where it ended or broke a limit (ServerGone where its
        server did), SnapshotError for nonsense.
        """
        next_watch = time.monotonic() + _WATCH_PERIOD
        while (message := self._channel.take()) is None:
            if self._exit is not None:
                raise self._gone()
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if now >= next_watch:
                next_watch = now + _WATCH_PERIOD
                self._watch()
                if tick is not None:
                    tick()
            self._wait(min(deadline, next_watch) - now)
        return message

    def freeze(self) -> None:
        """Stop every thread and child of the process, those too that have left its process group."""
        _signal_group(self.pid, signal.SIGSTOP)
        self._escaped = []
        deadline = time.monotonic() + _STOP_SECONDS
        # One that is not stopped yet may start others, so that they are looked for until all that are seen stand still.
        processes = self._processes()
        while running := [process for process in processes if not _is_stopped(process)]:
            escaped = [process for process in running if _has_left(process, self.pid)]
            _signal_each(escaped, signal.SIGSTOP)
            self._escaped += escaped
            if time.monotonic() > deadline:
                raise ProcessGone(f"{len(running)} of the {self._role}'s processes could not be stopped")
            time.sleep(0.0005)
            processes = self._processes()
        if self._has_ranks:
            self._resident_bytes(processes)

    def thaw(self) -> None:
        """Let them run on. Quick, because the clock runs already."""
        _signal_group(self.pid, signal.SIGCONT)
        _signal_each(self._escaped, signal.SIGCONT)

    def end(self, *, patience: float) -> None:
        """Wait `patience` seconds for the process to end by itself, then kill it and all its children; reap. Once."""
        if self.is_over:
            return
        deadline = time.monotonic() + patience
        while self._exit is None and time.monotonic() < deadline:
            with contextlib.suppress(ProcessGone):
                self._wait(deadline - time.monotonic())
        _signal_group(self.pid, signal.SIGKILL)
        if self._keeper is not None:  # with it everything in its namespace ends, however fast that starts more
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._keeper, signal.SIGKILL)
        for _ in range(2):  # a second look catches what was started meanwhile
            _signal_each(self._processes(), signal.SIGKILL)
        reaped_by = time.monotonic() + 10.0
        while self._exit is None and time.monotonic() < reaped_by:
            with contextlib.suppress(ProcessGone):
                self._wait(0.2)
        self._drain_log()
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._channel.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self.is_over = True

    def cpu_seconds(self) -> float:
        """What it and its children have used up to now, those that have ended included."""
        kept = [process for process in descendants(self._server) if process.pid in self._helpers]
        return sum(map(_cpu_seconds, self._processes())) + sum(map(_cpu_seconds_of_children, kept))

    @property
    def peak_host_bytes(self) -> int | None:
        """Most memory that it held at once; with ranks, all processes together, as often as was looked."""
        if self._peak_of_one is None or not self._has_ranks:
            return self._peak_of_one
        return max(self._peak_of_one, self._peak_of_all)

    @property
    def log(self) -> str:
        """What it printed: the beginning and the end of it where it is long."""
        head = self._head.decode(errors="replace")
        if not self._tail:
            return head
        return f"{head}\n[... cut ...]\n{self._tail.decode(errors='replace')}"

    def _wait(self, seconds: float) -> None:
        sources: list[Any] = [self._exits]
        if self._exit is None:
            sources.append(self._channel)
        if self._log >= 0:
            sources.append(self._log)
        readable = select.select(sources, [], [], max(0.0, seconds))[0]
        if self._log in readable:
            self._read_log()
        if self._channel in readable:
            try:
                self._channel.read()
            except ChannelClosed:
                self._await_exit()
                raise self._gone() from None
        if self._exits in readable:
            self._read_exits()
            if self._exit is not None and self._channel not in readable:
                # Its last words may have arrived together with its end.
                with contextlib.suppress(ChannelClosed):
                    for _ in range(_LAST_WORDS):  # children may hold the channel, and write for ever
                        if select.select([self._channel], [], [], 0)[0]:
                            self._channel.read()
                raise self._gone()

    def _await_exit(self) -> None:
        """The channel has closed: the process is ending, or has closed its end and runs on."""
        deadline = time.monotonic() + 2.0
        while self._exit is None and time.monotonic() < deadline:
            if select.select([self._exits], [], [], 0.1)[0]:
                self._read_exits()

    def _read_exits(self) -> None:
        try:
            self._exits.read()
        except ChannelClosed:
            if self._exit is None:
                self._exit, self._is_server_gone = -signal.SIGKILL, True
            return
        while (message := self._exits.take()) is not None:
            if message.get("exited") == self.pid:
                self._exit = message["status"]
                self._peak_of_one = message["peak_host_bytes"]

    def _gone(self) -> ProcessGone:
        if self._exit is None:
            return ProcessGone(f"the {self._role} closed its channel")
        if self._is_server_gone:
            return ServerGone(f"the server of {self._role}s was killed (the system may have been out of memory)")
        return ProcessGone(f"the {self._role} {exit_text(self._exit)}")

    def _watch(self) -> None:
        """Raise ProcessGone where process and children together break a limit."""
        is_crowded = _system_processes() > self._others + _PROCESSES_AT_MOST
        if is_crowded:  # hundreds that run would keep the processor from this one, which counts them
            _signal_group(self.pid, signal.SIGSTOP)
        processes = self._processes()
        if len(processes) > _PROCESSES_AT_MOST:
            raise ProcessGone(f"the {self._role} started {len(processes)} processes; {_PROCESSES_AT_MOST} are allowed")
        if is_crowded:
            _signal_group(self.pid, signal.SIGCONT)
        self._watch_disk()
        if self._resident_bytes(processes) <= self._memory_bytes:
            return
        used = _sum_over(processes, _proportional_bytes)
        if used > self._memory_bytes:
            raise ProcessGone(
                f"the {self._role} used {used / 2**30:.1f} GiB of memory; "
                f"{self._memory_bytes / 2**30:.1f} GiB are allowed (hardware.memory_gib)"
            )

    def _watch_disk(self) -> None:
        files, total = _stored(self._scratch) if self._scratch is not None else (0, 0)
        if files > _FILES_AT_MOST:
            raise ProcessGone(f"the {self._role} wrote more than {_FILES_AT_MOST} files")
        if total > self._disk_bytes:
            allowed = f"{self._disk_bytes / 2**30:.3g} are allowed"
            raise ProcessGone(f"the {self._role} wrote {total / 2**30:.3g} GiB; {allowed}")

    def _resident_bytes(self, processes: list[psutil.Process]) -> int:
        """Resident sizes, which count shared pages once per process: cheap, and never too low."""
        resident = _sum_over(processes, lambda process: int(process.memory_info().rss))
        self._peak_of_all = max(self._peak_of_all, resident)
        return resident

    def _processes(self) -> list[psutil.Process]:
        # The server runs one process at a time, so all that is below it belongs to this one, orphans included.
        return [process for process in descendants(self._server) if process.pid not in self._helpers]

    def _read_log(self) -> None:
        chunk = os.read(self._log, 1 << 16)
        if not chunk:
            os.close(self._log)
            self._log = -1
            return
        room = _LOG_HEAD_BYTES - len(self._head)
        self._head += chunk[:room]
        self._tail = (self._tail + chunk[room:])[-_LOG_TAIL_BYTES:]

    def _drain_log(self) -> None:
        while self._log >= 0 and select.select([self._log], [], [], 0)[0]:
            self._read_log()


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below `pid`; none where it has gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


Number = TypeVar("Number", int, float)


def _sum_over(processes: list[psutil.Process], measure: Callable[[psutil.Process], Number]) -> Number:
    total: Number = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += measure(process)
    return total


def _proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process with shared pages divided among those who share them, where the system tells (Linux)."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.uss))


def _system_processes() -> int:
    """How many processes the whole system has, where one look tells it (Linux)."""
    return Path("/proc").stat().st_nlink if sys.platform == "linux" else 0


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return True


def _cpu_seconds(process: psutil.Process) -> float:
    """Of the process, its threads, and its children that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system + _of_children(times)


def _cpu_seconds_of_children(process: psutil.Process) -> float:
    try:
        return _of_children(process.cpu_times())
    except psutil.Error:
        return 0.0


def _of_children(times: Any) -> float:
    """Of children that have ended, where the system tells."""
    return float(getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))


def _stored(folder: Path) -> tuple[int, int]:
    """Files and bytes below `folder`; of too many files the first ones."""
    files = total = 0
    waiting = [folder]
    while waiting and files <= _FILES_AT_MOST:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                files += 1
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                if files > _FILES_AT_MOST:
                    break
    return files, total


def _has_left(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) != group
    except OSError:
        return False


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_each(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
