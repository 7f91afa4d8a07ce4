"""The system calls that Python lacks, as functions that raise OSError. Linux only; importing it needs no Linux."""

from __future__ import annotations

import ctypes
import functools
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MS_NOEXEC = 1 << 3
MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_MNT_DETACH = 2
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
# Numbers that are the same on every processor: they came after the tables were unified.
_MOUNT_SETATTR = 442


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None, what: str) -> int:
    """Any system call by its number. `what`: its name, for the error."""
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *passed), what)


def unshare(flags: int) -> None:
    """Move this process (CLONE_NEWPID: its future children) into new namespaces."""
    _checked(_libc().unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move this process (CLONE_NEWPID: its future children) into the namespace behind `descriptor`."""
    _checked(_libc().setns(descriptor, kind), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    passed = [text.encode() if text is not None else None for text in (source, target, kind)]
    data = options.encode() if options is not None else None
    _checked(_libc().mount(*passed, ctypes.c_ulong(flags), data), f"mount {target}")


def set_mount(path: str, attributes: int, *, recursive: bool) -> None:
    """Add attributes to a mount, and to all below it, whatever they have already (Linux 5.12)."""
    attr = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    flags = _AT_RECURSIVE if recursive else 0
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attr, 32, what=f"mount_setattr {path}")


def detach(path: str) -> None:
    """Take a mount and all below it out of sight."""
    _checked(_libc().umount2(path.encode(), _MNT_DETACH), f"umount {path}")


def pivot_root(new: str, old: str) -> None:
    """Make the mount `new` the root; the root that was lies under `old`."""
    _checked(_libc().syscall(_numbers()["pivot_root"], new.encode(), old.encode()), "pivot_root")


def prctl(option: int, value: int, *more: int) -> None:
    """prctl(2)."""
    rest = [ctypes.c_ulong(number) for number in (*more, 0, 0, 0)[:3]]
    _checked(_libc().prctl(option, ctypes.c_ulong(value), *rest), "prctl")


def drop_capabilities() -> None:
    """Give up every capability, for good: what this process runs cannot win one back."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:  # past the last one that this kernel knows
            break
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    nothing = ctypes.create_string_buffer(struct.pack("=6I", *[0] * 6), 24)
    _checked(_libc().capset(header, nothing), "capset")


def _numbers() -> dict[str, int]:
    from harness.race.confinement.seccomp import numbers

    return numbers()
