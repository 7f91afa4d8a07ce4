"""Namespaces: a trainer's own processes, network, and file system, built from a View. Linux only.

The server enters a user namespace once. For each trial it starts a *keeper* of two processes: one that the host sees,
and its child, the first of a new PID namespace, which builds the file system, starts the trainer, and takes everything
in there down with itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.race.confinement import kernel, landlock, seccomp
from harness.race.confinement.view import View

_ALL = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
)
# Not more than the first process numbers of a namespace, which no system gives twice.
_PROCESSES_AND_THREADS = 2048
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
    try:
        enter_user_namespace()
    except OSError as error:
        return f"user namespaces ({error.strerror})"
    read, write = os.pipe()
    try:
        child = fork_first()
    except OSError as error:
        return f"PID namespaces ({error.strerror})"
    if child == 0:
        try:
            build(View([("show", "/usr")] if Path("/usr").is_dir() else [], [], "", ["/dev/null"]), shared_bytes=1 << 20)
            kernel.drop_capabilities()
            landlock.restrict([])
            seccomp.restrict()
            os.write(write, b"all")
        except OSError as error:
            os.write(write, f"{error.filename or 'a system call'} ({error.strerror})".encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    return os.read(read, 400).decode(errors="replace")


def enter_user_namespace() -> None:
    """Have all capabilities over namespaces to come, and none more than before over anything else.

    Needs a process with a single thread.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def fork_first() -> int:
    """As os.fork, but the child is number 1 of a new PID namespace, in which this process's later children are too."""
    kernel.unshare(kernel.CLONE_NEWPID)
    return os.fork()


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
        Path("/proc/sys/kernel/pid_max").write_text(str(_PROCESSES_AND_THREADS), encoding="ascii")
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
            Path(path).symlink_to(os.readlink(host))
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
    if not Path(path).is_file():
        return
    empty = Path("/etc/empty")
    empty.touch()
    kernel.mount(str(empty), path, None, kernel.MS_BIND)
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


def keep(trainer: int) -> tuple[int, int, float]:
    """Wait for the process `trainer`, then end every other below this one.

    Returns how it ended, its peak resident size in the system's unit, and the CPU seconds of all of them. For the first
    process of a PID namespace.
    """
    status, peak = _wait_for(trainer)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, peak, usage.ru_utime + usage.ru_stime


def _wait_for(trainer: int) -> tuple[int, int]:
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == trainer:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss


def drop_privileges() -> None:
    """Give up what building took. The keeper's memory and files are out of its trainer's reach from here on."""
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def confine(view: View) -> None:
    """The last walls, in the trainer itself: what it may write, and what it may ask of the kernel."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    landlock.restrict(["/tmp", "/dev/shm", view.scratch])
    seccomp.restrict()
