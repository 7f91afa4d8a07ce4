"""Namespaces: a trainer's own processes, network, and file system, built from a View. Linux only.

The server enters a user namespace once, and forks a Builder while it is small and has no threads. For each trial that
makes an Enclosure: namespaces with a first process, whose end is the end of everything inside. The trainer is forked
from the server itself, warm, and moves in.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from harness.race.confinement import kernel, landlock, seccomp
from harness.race.confinement.view import View
from harness.race.processes import adopt_orphans

_ALL = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
# The first is where children are born; the others are moved into.
_KINDS = ("pid", "mnt", "net", "ipc", "uts", "cgroup")
_BUILD_SECONDS = 60.0
PROCESSES_AND_THREADS = 320 + 16 * (os.cpu_count() or 1)
"""What a trainer may have at once; the referee's own limit on processes is lower, and is kept twice a second."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_READ_ONLY = kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV


def missing() -> str | None:
    """What this system lacks for a sandbox, in a few words; None where it has everything. Tries it out in a child."""
    if sys.platform != "linux":
        return "namespaces (they need Linux)"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            text = _tried()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode()[:400])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return None if answer == "all" else answer or "a process that can be isolated"


def _tried() -> str:
    adopt_orphans()
    try:
        enter_user_namespace()
    except OSError as error:
        return f"user namespaces ({error.strerror})"
    system = [("show", "/usr")] if Path("/usr").is_dir() else []
    try:
        enclosure = Builder().build(View(system, devices=["/dev/null"]), shared_bytes=1 << 20)
        seccomp.restrict()
        enclosure.end()
    except OSError as error:
        return f"{error.filename or 'a system call'}: {error.strerror}"
    return "all"


def enter_user_namespace() -> None:
    """Have all capabilities over namespaces to come, and none more than before over anything else.

    Needs a process with a single thread.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


class Enclosure:
    """Namespaces for one trial. `keeper`: their first process, by its number here."""

    def __init__(self, keeper: int, lifeline: socket.socket, namespaces: list[int]) -> None:
        self.keeper = keeper
        self._lifeline = lifeline
        self._processes, *self._others = namespaces

    def fork(self) -> int:
        """As os.fork, but the child sees, and is seen by, the processes in here alone. Raises OSError."""
        kernel.setns(self._processes, kernel.CLONE_NEWPID)
        return os.fork()

    def move_in(self) -> None:
        """The child's part: take over file system and network, and give up all rights over them."""
        for namespace in self._others:
            kernel.setns(namespace, 0)
        kernel.drop_capabilities()

    def end(self) -> None:
        """End everything in here."""
        for descriptor in (self._processes, *self._others):
            os.close(descriptor)
        self._lifeline.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.keeper, 0)


class Builder:
    """A small process that makes enclosures. Its maker must have entered a user namespace and adopt orphans."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._requests.close()
            _serve(theirs)
        theirs.close()

    def build(self, view: View, *, shared_bytes: int) -> Enclosure:
        """New namespaces with this view. Raises OSError that says what failed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(_BUILD_SECONDS)
        request = json.dumps({"view": asdict(view), "shared_bytes": shared_bytes}).encode()
        try:
            with theirs:
                socket.send_fds(self._requests, [request], [theirs.fileno()])
            room = socket.CMSG_SPACE(4 * len(_KINDS)) + socket.CMSG_SPACE(struct.calcsize("3i"))
            word, ancillary, _, _ = ours.recvmsg(4096, room)
        except OSError as error:
            ours.close()
            raise OSError(errno.EIO, f"no answer ({error})", "the builder of namespaces") from None
        sent = {kind: data for _, kind, data in ancillary}
        if word != b"built":
            ours.close()
            raise OSError(errno.EIO, word.decode(errors="replace") or "it ended", "an isolated process")
        keeper = struct.unpack("3i", sent[socket.SCM_CREDENTIALS])[0]
        return Enclosure(keeper, ours, list(array.array("i", sent[socket.SCM_RIGHTS])))


def _serve(requests: socket.socket) -> NoReturn:
    """The builder's life: one request after the other until its maker goes."""
    while True:
        content, descriptors, _, _ = socket.recv_fds(requests, 1 << 18, 1)
        if not content:
            os._exit(0)
        first = os.fork()
        if first == 0:
            requests.close()
            _make(json.loads(content), socket.socket(fileno=descriptors[0]))
        os.waitpid(first, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _make(request: dict[str, Any], report: socket.socket) -> NoReturn:
    """In a process of two, of which the outer one ends at once, so that the keeper comes to the server."""
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
        if os.fork() != 0:
            os._exit(0)
        build(View(**request["view"]), shared_bytes=request["shared_bytes"])
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in _KINDS]
        socket.send_fds(report, [b"built"], namespaces)
        for descriptor in namespaces:
            os.close(descriptor)
        _keep(report)
    except OSError as error:
        with contextlib.suppress(OSError):
            report.send(f"{error.filename or 'a system call'}: {error.strerror}".encode())
    finally:
        os._exit(1)


def _keep(lifeline: socket.socket) -> None:
    """Reap what loses its parents in here, until the server goes: then the system ends all that is in here."""

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass

    signal.signal(signal.SIGCHLD, reap)
    with contextlib.suppress(OSError):
        lifeline.recv(1)


def build(view: View, *, shared_bytes: int) -> None:
    """Move this process, which must be the first of a new PID namespace, into a file system and a network of its own.

    `shared_bytes`: how much /tmp, and /dev/shm, may hold.
    """
    kernel.unshare(_ALL)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=16m")
    Path("/tmp/.host").mkdir(mode=0o700)
    kernel.pivot_root("/tmp", "/tmp/.host")
    os.chdir("/")
    old_mask = os.umask(0o022)
    _write_settings()
    _mount_private("/tmp", shared_bytes)
    for step, path in view.steps:
        _take(step, path)
    for path in view.masked:
        _mask(path)
    _mount_devices(view.devices, shared_bytes)
    Path("/proc").mkdir()
    # While the host's is in sight: without one the kernel gives none.
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    with contextlib.suppress(OSError):  # of a namespace of its own since Linux 6.14; the referee counts as well
        Path("/proc/sys/kernel/pid_max").write_text(str(PROCESSES_AND_THREADS), encoding="ascii")
    kernel.set_mount("/proc", kernel.ATTR_RDONLY, recursive=False)
    if view.scratch:
        _bind(view.scratch, recursive=True)
        kernel.set_mount(view.scratch, kernel.ATTR_NOSUID | kernel.ATTR_NODEV, recursive=True)
    kernel.detach("/.host")
    Path("/.host").rmdir()
    kernel.set_mount("/", _READ_ONLY, recursive=False)
    os.umask(old_mask)
    socket.sethostname("localhost")
    _raise_loopback()


def _write_settings() -> None:
    """The few files of /etc that name things: this user, this machine."""
    etc = Path("/etc")
    etc.mkdir()
    user, group = os.getuid(), os.getgid()
    (etc / "passwd").write_text(f"trainer:x:{user}:{group}::/tmp:/bin/sh\n", encoding="ascii")
    (etc / "group").write_text(f"trainer:x:{group}:\n", encoding="ascii")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="ascii")


def _take(step: str, path: str) -> None:
    host = f"/.host{path}"
    if step == "link":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            Path(path).symlink_to(Path(host).readlink())
    elif step == "hide":
        if Path(path).is_dir():
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    else:
        _bind(path, recursive=True)
        kernel.set_mount(path, _READ_ONLY, recursive=True)


def _bind(path: str, *, recursive: bool) -> None:
    """Let the host's `path` appear at its place."""
    host, target = Path(f"/.host{path}"), Path(path)
    if host.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(str(host), path, None, kernel.MS_BIND | (kernel.MS_REC if recursive else 0))


def _mask(path: str) -> None:
    if Path(path).is_dir():
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    elif Path(path).is_file():
        empty = Path("/etc/empty")
        empty.touch()
        kernel.mount(str(empty), path, None, kernel.MS_BIND)
    else:
        return
    kernel.set_mount(path, _READ_ONLY, recursive=False)


def _mount_private(path: str, size: int) -> None:
    Path(path).mkdir(exist_ok=True)
    kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=1777,size={size},nr_inodes=100k")


def _mount_devices(devices: list[str], shared_bytes: int) -> None:
    Path("/dev").mkdir()
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    for device in devices:
        _bind(device, recursive=True)
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        Path("/dev", name).symlink_to(f"/proc/self/fd{target}")
    Path("/dev/shm").mkdir()
    kernel.set_mount("/dev", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID, recursive=False)
    _mount_private("/dev/shm", shared_bytes)


def _raise_loopback() -> None:
    """Data-parallel trainers talk to each other over 127.0.0.1, where nobody else is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        struct.pack_into("H", request, 16, flags | _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def confine(view: View) -> None:
    """The last walls, in the trainer itself: what it may write, and what it may ask of the kernel."""
    landlock.restrict(["/tmp", "/dev/shm", view.scratch])
    seccomp.restrict()


def forbid() -> None:
    """Let no process from here on make a namespace, as on systems that allow none. Needs a process of one thread."""
    enter_user_namespace()
    for kind in ("user", "pid", "mnt", "net"):
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0", encoding="ascii")
