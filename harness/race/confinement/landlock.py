"""Landlock: a second lock on the file system, and signals that reach a trainer's own processes alone."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from harness.race.confinement import kernel

# Numbers that are the same on every processor.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# Rights of the first version, and those that the second and third added: to move between folders, to truncate.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_SCOPED = 1 << 0 | 1 << 1  # abstract sockets, signals: since the sixth version


def version() -> int:
    """The version of Landlock that this kernel has; 0 where it has none."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG, what="landlock_create_ruleset")
    except OSError:
        return 0


def restrict(writable: Sequence[str]) -> None:
    """Everything may be read, nothing written but below `writable` and to devices. Where there is no Landlock: no-op.

    The namespaces alone hold a trainer; this holds it where one of them should leak.
    """
    found = version()
    if found == 0:
        return
    handled = _RIGHTS[min(found, 3)]
    attributes = struct.pack("=QQQ", handled, 0, _SCOPED)[: 24 if found >= 6 else 16 if found >= 4 else 8]
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.syscall(_CREATE_RULESET, buffer, len(attributes), 0, what="landlock_create_ruleset")
    try:
        _allow(ruleset, "/", _READ)
        _allow(ruleset, "/dev", handled & (_READ | _WRITE_FILE | _TRUNCATE))
        for folder in writable:
            _allow(ruleset, folder, handled)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, folder: str, rights: int) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0, what="landlock_add_rule")
    finally:
        os.close(descriptor)
