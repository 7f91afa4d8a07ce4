"""A small process that starts trainers, reaps them, and takes all of them down when the referee goes away.

Run as `python -m harness.race.forkserver FD WARM`, by `sandbox.py` alone. With WARM=1 it holds torch and the training
split of the workload ready, and forks trainers from itself; otherwise each trainer is a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
from typing import Any

from harness.race.processes import adopt_orphans, die_with_parent, kill_descendants


def main(descriptor: int, *, warm: bool) -> None:
    """Serve requests from the socket `descriptor` until its other end closes."""
    control = socket.socket(fileno=descriptor)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    adopt_orphans()
    if warm:
        _warm_up()
    prepared: dict[str, Any] = {}
    trainers: set[int] = set()
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
            if warm:
                _prepare(prepared, request)
            try:
                child = os.fork()
            except OSError as error:
                _reply(control, {"error": f"cannot start a process: {error.strerror}"})
                continue
            if child == 0:
                control.close()
                os.close(wake_read)
                os.close(wake_write)
                _become_trainer(request, descriptors, prepared if warm else None)
            for passed in descriptors:
                os.close(passed)
            trainers.add(child)
            _reply(control, {"pid": child})


def _warm_up() -> None:
    import torch

    from harness.race import device, trainer  # noqa: F401 - the trainer's imports are what is warmed

    torch.set_num_threads(1)
    device.warm_up(torch.device("cpu"))
    gc.collect()
    gc.freeze()


def _prepare(prepared: dict[str, Any], request: dict[str, Any]) -> None:
    """Keep the training split of the requested workload, so that forked trainers share it."""
    from harness.race import trainer

    key = json.dumps(request["workload"], sort_keys=True)
    if key in prepared:
        return
    prepared.clear()
    # A fault of the data is reported by the trainer, which meets it again; it must not take the server down.
    with contextlib.suppress(Exception):
        prepared[key] = trainer.prepare(request["workload"])
        gc.freeze()


def _become_trainer(request: dict[str, Any], descriptors: list[int], prepared: dict[str, Any] | None) -> None:
    """In the child: never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: stop, continue and kill reach its threads and children, and nobody else.
    os.setpgid(0, 0)
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if request["limit_memory"] and sys.platform == "linux":
        limit = request["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    channel, weights, log = descriptors
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    scratch = request["scratch"]
    os.chdir(scratch)
    os.environ.update({"HOME": scratch, "TMPDIR": request["temporary"]})
    if prepared is None:
        for passed in (channel, weights):
            os.set_inheritable(passed, True)
        os.execv(sys.executable, [sys.executable, "-m", "harness.race.trainer", str(channel), str(weights)])
    tempfile.tempdir = None  # it remembers the server's
    from harness.race import trainer

    code = 1
    try:
        key = json.dumps(request["workload"], sort_keys=True)
        code = trainer.main(channel, weights, prepared.get(key))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Never back into the server's loop, nor through its exit handlers.
        os._exit(code)


def _request(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    try:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
    except OSError:
        return None, []
    if not data:
        return None, []
    request: dict[str, Any] = json.loads(data)
    return request, list(descriptors)


def _reap(control: socket.socket, trainers: set[int]) -> None:
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
        trainers.discard(pid)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        _reply(control, {"exited": pid, "status": os.waitstatus_to_exitcode(status), "peak_host_bytes": peak})


def _reply(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a referee that has gone closes the socket, which the loop sees next
        control.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), warm=sys.argv[2] == "1")
