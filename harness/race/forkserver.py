"""A small process that starts trainers, reaps them, and takes all of them down when the referee goes away.

Run as `python -m harness.race.forkserver FD WARM`, by `sandbox.py` alone. With WARM=1 it holds torch and the training
split of the workload ready, and forks trainers from itself; otherwise each trainer is a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api import HarnessError
from harness.race.confinement import limits, namespaces
from harness.race.processes import adopt_orphans, die_with_parent, kill_descendants

if TYPE_CHECKING:
    from harness.race.confinement.training_split import TrainingSplit

_START_SECONDS = 60.0
_SHARED_BYTES = 4 << 30


@dataclass
class _Running:
    """A trainer by its number here, the processes that keep it, and where these say how it ended (None: none do)."""

    pid: int
    keepers: list[int]
    report: socket.socket | None


def main(descriptor: int, *, warm: bool) -> None:
    """Serve requests from the socket `descriptor` until its other end closes."""
    control = socket.socket(fileno=descriptor)
    # Before torch makes threads: a process with threads cannot enter a user namespace.
    missing = namespaces.missing()
    if missing is None:
        namespaces.enter_user_namespace()
    _reply(control, {"missing": missing})
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    adopt_orphans()
    if warm:
        _warm_up()
    prepared = _Prepared(warm=warm)
    trainers: dict[int, _Running] = {}
    waits: list[Any] = [control, wake_read]
    while True:
        readable = select.select(waits, [], [])[0]
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(control, trainers)
        if control in readable:
            request, descriptors = _request(control)
            if request is None:
                kill_descendants()
                os._exit(0)
            try:
                prepared.prepare(request)
                child, running = _start(request, descriptors, prepared, keeps=missing is None)
            except (OSError, HarnessError) as error:
                _reply(control, {"error": f"cannot start a trainer: {getattr(error, 'strerror', None) or error}"})
            else:
                trainers[child] = running
                _reply(control, {"pid": running.pid, "keepers": running.keepers})
            for passed in descriptors:
                os.close(passed)


def _warm_up() -> None:
    import torch

    from harness.race import device, trainer  # noqa: F401 - the trainer's imports are what is warmed

    torch.set_num_threads(1)
    device.warm_up(torch.device("cpu"))
    gc.collect()
    gc.freeze()


class _Prepared:
    """The training split of the requested workload, and in a warm server what forked trainers share."""

    def __init__(self, *, warm: bool) -> None:
        self.is_warm = warm
        self._key = ""
        self.split: TrainingSplit | None = None
        self.for_trainer: Any = None
        """A trainer.Prepared, or the split, from which the trainer makes it or says why it cannot."""

    def prepare(self, request: dict[str, Any]) -> None:
        """Read the split, unless it is the one that is there. Raises OSError where no process can be started."""
        from harness.race.confinement import training_split

        key = json.dumps(request["workload"], sort_keys=True)
        if key == self._key and self.split is not None and self.split.is_whole:
            return
        if self.split is not None:
            self.split.close()
        self.split = self.for_trainer = None
        read = training_split.read_forked if self.is_warm else training_split.read_fresh
        self._key, self.split = key, read(request["workload"])
        self.for_trainer = self.split
        if self.is_warm and self.split.is_whole:
            from harness.race import trainer

            # What is wrong with the workload is said by the trainer, which meets it again.
            with contextlib.suppress(Exception):
                self.for_trainer = trainer.prepare(request["workload"], self.split)
            gc.collect()
            gc.freeze()


def _start(
    request: dict[str, Any], descriptors: list[int], prepared: _Prepared, *, keeps: bool
) -> tuple[int, _Running]:
    """Start a trainer; returns the number of the child that is to be waited for, and the trainer."""
    if not keeps:
        child = os.fork()
        if child == 0:
            _become_trainer(request, descriptors, prepared)
        return child, _Running(child, [], None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        child = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if child == 0:
        ours.close()
        _become_keeper(request, descriptors, prepared, theirs)
    theirs.close()
    ours.settimeout(_START_SECONDS)
    try:
        first, inner = _word(ours)
        word, pid = _word(ours) if first == "isolated" else (first, 0)
    except OSError as error:
        word, pid, inner = f"the keeper of the trainer does not answer ({error})", 0, 0
    if word != "started":
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise OSError(0, word)
    return child, _Running(pid, [child, inner], ours)


def _word(report: socket.socket) -> tuple[str, int]:
    """What was said on the socket, and the number, in this process's terms, of the process that said it."""
    content, ancillary, _, _ = report.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
    if not content:
        return "it ended while it was being isolated", 0
    for _, kind, data in ancillary:
        if kind == socket.SCM_CREDENTIALS:
            return content.decode(errors="replace"), struct.unpack("3i", data)[0]
    return content.decode(errors="replace"), 0


def _become_keeper(
    request: dict[str, Any], descriptors: list[int], prepared: _Prepared, report: socket.socket
) -> None:
    """In the child: never returns. Of its two processes the inner one, first of a PID namespace, does the work."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        _close_all_but(*descriptors, report.fileno(), *_split_descriptor(prepared))
        view = _view(request, prepared)
        inner = namespaces.fork_first()
        if inner != 0:
            _close_all_but()
            os.waitpid(inner, 0)
            return
        die_with_parent()
        namespaces.build(view, shared_bytes=min(_SHARED_BYTES, request["memory_bytes"] // 4))
        namespaces.drop_privileges()
        report.send(b"isolated")
        trainer = os.fork()
        if trainer == 0:
            namespaces.confine(view)
            limits.restrict_processes()
            report.send(b"started")
            report.close()
            _become_trainer(request, descriptors, prepared)
        _close_all_but(report.fileno())
        status, peak, seconds = namespaces.keep(trainer)
        report.send(json.dumps({"status": status, "peak": peak, "cpu_seconds": seconds}).encode())
    except OSError as error:
        with contextlib.suppress(OSError):
            report.send(f"{error.filename or 'a system call'}: {error.strerror}".encode())
    finally:
        os._exit(0)


def _view(request: dict[str, Any], prepared: _Prepared) -> Any:
    from harness.race.confinement import view

    assert prepared.split is not None
    return view.view_of(
        readable=[*view.packages_of(request["workload"]["entry"]), *request["readable"]],
        private=[request["workload"]["data_folder"]],
        masked=prepared.split.masked,
        scratch=request["scratch"],
        gpus=request["gpus"],
    )


def _become_trainer(request: dict[str, Any], descriptors: list[int], prepared: _Prepared) -> None:
    """In the child: never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: stop, continue and kill reach its threads and children, and nobody else.
    os.setpgid(0, 0)
    die_with_parent()
    limits.restrict(memory_bytes=request["memory_bytes"] if request["limit_memory"] else None)
    channel, weights, log = descriptors
    split = _split_descriptor(prepared)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["scratch"])
    home = request["scratch"] if request["is_open"] else "/tmp"
    os.environ.update({"HOME": home, "TMPDIR": home})
    if not prepared.is_warm:
        _close_all_but(channel, weights, *split)
        for passed in (channel, weights, *split):
            os.set_inheritable(passed, True)
        numbers = [str(number) for number in (channel, weights, *split)]
        os.execv(sys.executable, [sys.executable, "-m", "harness.race.trainer", *numbers])
    _close_all_but(channel, weights)
    tempfile.tempdir = None  # it remembers the server's
    from harness.race import trainer

    code = 1
    try:
        code = trainer.main(channel, weights, prepared.for_trainer)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Never back into the server's loop, nor through its exit handlers.
        os._exit(code)


def _split_descriptor(prepared: _Prepared) -> list[int]:
    """What a trainer that is not ready yet must keep open."""
    is_ready = prepared.for_trainer is not prepared.split
    return [] if is_ready or prepared.split is None else [prepared.split.descriptor]


def _close_all_but(*kept: int) -> None:
    """Close every descriptor above the standard ones that is not among `kept`: the server's are nobody's business."""
    begin = 3
    for number in sorted(kept):
        os.closerange(begin, number)
        begin = number + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))


def _request(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    try:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
    except OSError:
        return None, []
    if not data:
        return None, []
    request: dict[str, Any] = json.loads(data)
    return request, list(descriptors)


def _reap(control: socket.socket, trainers: dict[int, _Running]) -> None:
    """Collect all that have ended; the referee hears of trainers alone, of which there is one at a time.

    It does not read between trials: notices of hundreds of orphans would fill the socket and block this process.
    """
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid not in trainers:
            continue
        running = trainers.pop(pid)
        notice = {
            "status": os.waitstatus_to_exitcode(status),
            "peak": usage.ru_maxrss,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
        if running.report is not None:
            notice = _keepers_word(running.report)
        peak = None if notice["peak"] is None else notice["peak"] * (1 if sys.platform == "darwin" else 1024)
        cpu_seconds = notice["cpu_seconds"]
        _reply(
            control,
            {"exited": running.pid, "status": notice["status"], "peak_host_bytes": peak, "cpu_seconds": cpu_seconds},
        )


def _keepers_word(report: socket.socket) -> dict[str, Any]:
    """How the trainer ended. A keeper that was killed says nothing, and all below it were killed with it."""
    with report:
        report.setblocking(False)
        try:
            notice: dict[str, Any] = json.loads(report.recv(4096))
        except (OSError, ValueError):
            return {"status": -signal.SIGKILL, "peak": None, "cpu_seconds": None}
        return notice


def _reply(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a referee that has gone closes the socket, which the loop sees next
        control.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), warm=sys.argv[2] == "1")
