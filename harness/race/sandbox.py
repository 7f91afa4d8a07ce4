"""Where trainers and predictors live: without the referee's environment, in a group of their own, stopped, reaped."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from harness.api import DataError
from harness.race.channel import Channel, ChannelClosed, Message, channel_pair
from harness.race.device import forks as forks_on
from harness.race.judge import Weights
from harness.race.outcome import DisturbedError
from harness.race.process import Untrusted, descendants
from harness.race.processes import ALLOCATOR

# What a trainer may know of the referee's environment: how to find programs and devices, and the language of messages.
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "USER", "LOGNAME", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV",
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
_START_SECONDS = 300.0
_GONE = "the trainers' server has gone"
COMPILER_CACHE = "compiler_cache"
"""In the folder that a trainer may write: what compilers keep, where that is to be kept."""
# Of the folder that temporary ones are made in: below these the sockets of a DataLoader's workers have names that come
# near the 104 bytes (107 on Linux) that a socket's name may have.
_TEMPORARY_BYTES = 50


class Sandbox:
    """Starts trainers, one after the other, through a server process that outlives them, a new one for each workload.

    Or predictors, of any workload, from a server that has never held an example: those of `predictors`; and rehearsals,
    from a server that holds made-up examples: those of `rehearsals`.

    `threads` of each trainer; `memory_bytes` that one with all its children may use, and `disk_bytes` that it may
    write; `devices` of each, with a process and its threads on every one, and beside it so many `loader_workers`;
    `forks`: trainers are forked from a warm server instead of started as fresh interpreters (None: where the device
    allows it).

    Close it, or use it as a context: then no process is left behind. Raises DataError where none can be started.
    """

    def __init__(
        self,
        device: torch.device,
        threads: int,
        *,
        memory_bytes: int = 1 << 40,
        devices: int = 1,
        disk_bytes: int = 16 << 30,
        forks: bool | None = None,
        loader_workers: int = 0,
    ) -> None:
        self.device = device
        self.devices = devices
        self.loader_workers = loader_workers
        self._forks = forks_on(device) if forks is None else forks
        self.threads = threads
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self._server: subprocess.Popen[bytes] | None = None
        self._workload: Message = {}
        self._control: socket.socket | None = None
        self._notices: Channel | None = None
        self._process: Untrusted | None = None
        self._predictors: Sandbox | None = None
        self._rehearsals: Sandbox | None = None
        self._builder: int | None = None
        self._is_noticed = False
        self.missing: str | None = "a server of trainers"
        """What this system lacks to keep trainers in, since the first start; None where it lacks nothing."""
        atexit.register(self.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        workload: Message,
        weights: Weights,
        scratch: Path,
        *,
        readable: Sequence[Path] = (),
        has_compiler_cache: bool = False,
    ) -> Untrusted:
        """A new trainer, which waits for its task.

        `workload`: what it prepares; `scratch`: the folder that it may write; `readable`: what it sees beside system,
        packages, harness and workload. Its temporary files are elsewhere, since RESULTS may have a long name, and go
        with it. `has_compiler_cache`: what compilers keep is not among these, but in `scratch`.
        """
        # What reading one workload leaves in a warm server would count as memory of the next one's trainers.
        content = {name: value for name, value in workload.items() if name != "data_folder"}
        cache = str(scratch.resolve() / COMPILER_CACHE) if has_compiler_cache else None
        known = {"workload": workload, "compiler_cache": cache}
        return self._started("trainer", known, content, [weights.descriptor], scratch, readable)

    def start_predictor(
        self,
        descriptors: Sequence[int],
        scratch: Path,
        *,
        readable: Sequence[Path],
        private: Path,
        masked: Sequence[Path],
    ) -> Untrusted:
        """A new predictor, which waits for its task, with these open files; it sees no workload and no split.

        `private`: the data folder, which stays out of sight; `masked`: what of the packages holds examples.
        """
        hidden = {"masked": [str(path) for path in masked], "data_folder": str(private)}
        return self._started("predictor", hidden, {}, descriptors, scratch, readable)

    @property
    def predictors(self) -> Sandbox:
        """A sandbox like this one whose server has read no data; it ends with this one."""
        if self._predictors is None:
            self._predictors = Sandbox(self.device, self.threads, forks=self._forks)
        self._predictors.memory_bytes, self._predictors.disk_bytes = self.memory_bytes, self.disk_bytes
        return self._predictors

    @property
    def rehearsals(self) -> Sandbox:
        """A sandbox like this one for trainers on made-up examples; it ends with this one."""
        if self._rehearsals is None:
            self._rehearsals = Sandbox(self.device, self.threads, forks=self._forks)
        self._rehearsals.memory_bytes, self._rehearsals.disk_bytes = self.memory_bytes, self.disk_bytes
        self._rehearsals.devices, self._rehearsals.loader_workers = self.devices, self.loader_workers
        return self._rehearsals

    @property
    def is_idle(self) -> bool:
        """Whether every process that was started has been ended."""
        return self._process is None or self._process.is_over

    def _started(
        self,
        role: str,
        known: Message,
        content: Message,
        descriptors: Sequence[int],
        scratch: Path,
        readable: Sequence[Path],
    ) -> Untrusted:
        """A new process. `known`: what the server is told for it; `content`: of this it takes another server."""
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            temporary = _temporary_folder()
        except OSError as error:
            raise DataError(
                f"{error.filename or scratch}: cannot make a folder for the {role} ({error.strerror}). Check the disk."
            ) from None
        try:
            if self._server is None or self._server.poll() is not None or content != self._workload:
                self._start_server()
                self._workload = content
            request = {
                "role": role,
                **known,
                "scratch": str(scratch.resolve()),
                "temporary": str(temporary),
                "readable": [str(path) for path in readable],
            }
            self._process = self._start(request, descriptors, scratch, temporary)
        except BaseException:
            # An interrupt, too: an answer that nobody has read would be taken for that of the next trial.
            self.close()
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return self._process

    def _start(self, request: Message, descriptors: Sequence[int], scratch: Path, temporary: Path) -> Untrusted:
        role = request["role"]
        assert self._server is not None
        assert self._control is not None
        assert self._notices is not None
        channel, theirs = channel_pair()
        log_read, log_write = os.pipe()
        request = {
            **request,
            "is_open": self.missing is not None,
            "gpus": self.device.type == "cuda",
            "memory_bytes": self.memory_bytes,
            # CUDA reserves address space far beyond what it uses.
            "limit_memory": self.device.type == "cpu",
        }
        try:
            passed = [theirs.fileno(), *descriptors, log_write]
            socket.send_fds(self._control, [json.dumps(request).encode()], passed)
        except OSError as error:
            raise DisturbedError(f"{_GONE} ({error.strerror}). Run the same command again.") from None
        finally:
            theirs.close()
            os.close(log_write)
        try:
            answer = self._notices.receive(time.monotonic() + _START_SECONDS)
            while "exited" in answer:  # a process before this one, whose end was not waited for
                answer = self._notices.receive(time.monotonic() + _START_SECONDS)
        except ChannelClosed:
            raise DisturbedError(f"{_GONE}. Run the same command again.") from None
        except TimeoutError:
            answer = {"error": f"the server of {role}s does not answer"}
        if "pid" not in answer:
            self.close()  # whatever it lacks, a new server may have
            raise DataError(f"{answer['error']}. Close other programs and run the same command again.")
        if not answer["is_ready"]:
            self._workload = {}  # what was wrong with the data may have been mended by the next trial
        has_ranks = self.devices > 1
        return Untrusted(
            answer["pid"],
            self._server.pid,
            channel,
            self._notices,
            log_read,
            temporary,
            self.memory_bytes,
            has_ranks=has_ranks,
            builder=self._builder,
            keeper=answer["keeper"],
            scratch=scratch,
            # What is left must do for the rows.
            disk_bytes=min(self.disk_bytes, shutil.disk_usage(scratch).free // 2),
            role=role,
        )

    def notice(self) -> str | None:
        """One line where trainers are not kept in, the first time that it is asked for."""
        if self.missing is None or self._is_noticed:
            return None
        self._is_noticed = True
        return (
            f"no sandbox: this system lacks {self.missing}. Trials run, with sandboxed=false, and are ranked apart "
            "(docs/trust.md)"
        )

    def close(self) -> None:
        """End the servers and everything below them."""
        self._end_server()
        for below in (self._predictors, self._rehearsals):
            if below is not None:
                below.close()

    def _end_server(self) -> None:
        self._process = None
        if self._server is None:
            return
        server, control = self._server, self._control
        self._server = self._control = None
        for process in descendants(server.pid):
            with contextlib.suppress(psutil.Error):
                process.kill()
        if control is not None:
            control.close()
        try:
            server.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def _start_server(self) -> None:
        self._end_server()
        self._control, theirs = socket.socketpair()
        self._notices = Channel(self._control)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        for library in ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "TORCHINDUCTOR_COMPILE"):
            environment[f"{library}_THREADS"] = str(self.threads)
        environment.update(ALLOCATOR)
        environment["PYTHONUTF8"] = "1"  # what trainers print is read as UTF-8, whatever the locale
        root = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
        command = [
            sys.executable,
            "-m",
            "harness.race.forkserver",
            str(theirs.fileno()),
            str(int(self._forks)),
        ]
        self._server = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Its own session: Ctrl-C at the terminal reaches the referee alone, which then cleans up.
            start_new_session=True,
        )
        theirs.close()
        try:
            word = self._notices.receive(time.monotonic() + _START_SECONDS)
            self.missing, self._builder = word["missing"], word["builder"]
        except (TimeoutError, ChannelClosed):
            self.close()
            raise DataError("the trainers' server does not start. Run the same command again.") from None


def _temporary_folder() -> Path:
    """A new folder of this user's alone, with a short name. Raises OSError."""
    usual = tempfile.gettempdir()
    return Path(
        tempfile.mkdtemp(prefix="timetrial-", dir=usual if len(os.fsencode(usual)) <= _TEMPORARY_BYTES else "/tmp")
    )


@functools.lru_cache(maxsize=1)
def _kept(device: torch.device, threads: int) -> Sandbox:
    return Sandbox(device, threads)


def shared_sandbox(
    device: torch.device, threads: int, memory_bytes: int, devices: int = 1, loader_workers: int = 0
) -> Sandbox:
    """The sandbox of this process, kept between trials: a warm start takes a tenth of a second."""
    sandbox = _kept(device, threads)
    sandbox.memory_bytes, sandbox.devices, sandbox.loader_workers = memory_bytes, devices, loader_workers
    return sandbox
