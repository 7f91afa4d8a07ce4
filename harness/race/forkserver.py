"""A small process that starts trainers, reaps them, and takes all of them down when the referee goes away.

Run as `python -m harness.race.forkserver FD WARM`, by `sandbox.py` alone. With WARM=1 it holds torch and the training
split of the workload ready, and forks trainers from itself; otherwise each trainer is a fresh interpreter. The server
of predictors is another process, which reads no data.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from harness.race.confinement import limits, namespaces
from harness.race.processes import adopt_orphans, die_with_parent, kill_descendants

if TYPE_CHECKING:
    from harness.race.confinement.training_split import TrainingSplit

_SHARED_BYTES = 4 << 30
_DESCRIPTORS_AT_MOST = 5  # channel, three memories, log


@dataclass
class _Running:
    """A trainer or predictor by its number, and what it is kept in (None: nothing)."""

    pid: int
    enclosure: namespaces.Enclosure | None


def main(descriptor: int, *, warm: bool) -> None:
    """Serve requests from the socket `descriptor` until its other end closes."""
    control = socket.socket(fileno=descriptor)
    # First of all, since importing torch makes threads: a process with threads cannot enter a user namespace.
    missing = namespaces.missing()
    builder = None
    if missing is None:
        namespaces.enter_user_namespace()
        builder = namespaces.Builder()
    _reply(control, {"missing": missing, "builder": builder.pid if builder else None})
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    adopt_orphans()
    if warm:
        _warm_up()
    prepared = _Prepared(warm=warm)
    trainers: dict[int, _Running] = {}
    temporary = ""
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
                shutil.rmtree(temporary, ignore_errors=True)  # of a referee that was killed
                os._exit(0)
            temporary = request["temporary"]
            try:
                prepared.prepare(request)
                running = _start(request, descriptors, prepared, builder)
            except Exception as error:  # no memory, no processes, no namespaces: the server serves on
                _reply(control, {"error": f"cannot start a {request['role']}: {error}"})
            else:
                trainers[running.pid] = running
                keeper = running.enclosure.keeper if running.enclosure else None
                _reply(control, {"pid": running.pid, "keeper": keeper, "is_ready": prepared.is_ready})
            for passed in descriptors:
                os.close(passed)


def _warm_up() -> None:
    # Looking for garbage again and again among all that imports make takes a third of their time.
    gc.disable()
    import torch

    from harness.race import device, trainer  # noqa: F401 - the trainer's imports are what is warmed

    torch.set_num_threads(1)
    device.warm_up(torch.device("cpu"))
    gc.collect()
    gc.freeze()
    gc.enable()


class _Prepared:
    """The training split of the requested workload, and in a warm server what forked trainers share."""

    def __init__(self, *, warm: bool) -> None:
        self.is_warm = warm
        self.split: TrainingSplit | None = None
        self.for_trainer: Any = None
        """A trainer.Prepared, or the split, from which the trainer makes it or says why it cannot."""
        self.is_ready = False

    def prepare(self, request: dict[str, Any]) -> None:
        """Read the split before the first trainer is started: a server is for one workload.

        Later it cannot: its children are then born into the enclosure of the last trainer.
        """
        if request["role"] == "predictor":
            self.is_ready = True
            return
        if self.split is not None:
            return
        from harness.race.confinement import training_split

        read = training_split.read_forked if self.is_warm else training_split.read_fresh
        self.split = read(request["workload"])
        self.for_trainer = self.split
        self.is_ready = self.split.is_whole
        if self.is_warm and self.split.is_whole:
            from harness.race import trainer

            # What is wrong with the workload is said by the trainer, which meets it again.
            with contextlib.suppress(Exception):
                self.for_trainer = trainer.prepare(request["workload"], self.split)
            gc.collect()
            gc.freeze()


def _start(
    request: dict[str, Any], descriptors: list[int], prepared: _Prepared, builder: namespaces.Builder | None
) -> _Running:
    """Start what was asked for. Raises OSError where the system gives no process or no namespaces."""
    if builder is None:
        child = os.fork()
        if child == 0:
            _become(request, descriptors, prepared)
        return _Running(child, None)
    view = _view(request, prepared)
    enclosure = builder.build(view, shared_bytes=min(_SHARED_BYTES, request["memory_bytes"] // 4))
    try:
        child = enclosure.fork()
    except OSError:
        enclosure.end()
        raise
    if child == 0:
        try:
            enclosure.move_in()
            namespaces.confine(view)
            limits.restrict_processes(namespaces.PROCESSES_AND_THREADS)
        except OSError as error:
            _say_last(descriptors[0], f"cannot be isolated: {error.filename or 'a system call'}: {error.strerror}")
        _become(request, descriptors, prepared)
    return _Running(child, enclosure)


def _say_last(channel: int, reason: str) -> NoReturn:
    """Tell the referee why nothing was started."""
    os.write(channel, json.dumps({"type": "crashed", "reason": reason}).encode() + b"\n")
    os._exit(1)


def _view(request: dict[str, Any], prepared: _Prepared) -> Any:
    from harness.race.confinement import view

    if request["role"] == "predictor":  # it needs nothing of the workload
        readable, data_folder, masked = [], request["data_folder"], request["masked"]
    else:
        assert prepared.split is not None
        workload = request["workload"]
        readable, data_folder = view.packages_of(workload["entry"]), workload["data_folder"]
        readable = [*readable, *prepared.split.readable]
        masked = prepared.split.masked
    return view.view_of(
        readable=[*readable, *request["readable"]],
        private=[data_folder],
        masked=masked,
        scratch=request["scratch"],
        gpus=request["gpus"],
    )


def _become(request: dict[str, Any], descriptors: list[int], prepared: _Prepared) -> None:
    """In the child: never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: stop, continue and kill reach its threads and children, and nobody else.
    os.setpgid(0, 0)
    die_with_parent()
    limits.restrict(memory_bytes=request["memory_bytes"] if request["limit_memory"] else None)
    *passed, log = descriptors
    is_predictor = request["role"] == "predictor"
    if not is_predictor:
        passed += _split_descriptor(prepared)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["scratch"])
    # Where the trainer is kept in, /tmp is its own; elsewhere it is told of a folder with a short name.
    home, temporary = (request["scratch"], request["temporary"]) if request["is_open"] else ("/tmp", "/tmp")
    os.environ.update({"HOME": home, "TMPDIR": temporary})
    if request.get("compiler_cache") is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = request["compiler_cache"]
        os.environ["TRITON_CACHE_DIR"] = f"{request['compiler_cache']}/triton"  # of kernels of a submission's own
    _close_all_but(*passed)
    if not prepared.is_warm:
        for number in passed:
            os.set_inheritable(number, True)
        module = "harness.race.prediction.predictor" if is_predictor else "harness.race.trainer"
        os.execv(sys.executable, [sys.executable, "-m", module, *map(str, passed)])
    tempfile.tempdir = None  # it remembers the server's
    code = 1
    try:
        code = _run(passed, prepared, is_predictor=is_predictor)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Never back into the server's loop, nor through its exit handlers.
        os._exit(code)


def _run(passed: list[int], prepared: _Prepared, *, is_predictor: bool) -> int:
    """The whole work of a forked process; returns its exit code."""
    if is_predictor:
        from harness.race.prediction import predictor

        return predictor.main(*passed)
    from harness.race import trainer

    return trainer.main(passed[0], passed[1], prepared.for_trainer)


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
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, _DESCRIPTORS_AT_MOST)
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
        enclosure = trainers.pop(pid).enclosure
        if enclosure is not None:
            enclosure.end()
        notice = {
            "exited": pid,
            "status": os.waitstatus_to_exitcode(status),
            "peak_host_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
        _reply(control, notice)


def _reply(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a referee that has gone closes the socket, which the loop sees next
        control.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), warm=sys.argv[2] == "1")
