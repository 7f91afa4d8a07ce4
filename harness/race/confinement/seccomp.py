"""System calls that no training needs, and that widen what a trainer can reach: they fail from here on."""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import struct

# Names with their numbers on x86-64 and on 64-bit ARM; None: there is no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # into other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # out of the namespaces
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # large, young parts of the kernel, where most of the ways out have been found
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None),
    # the machine itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "vhangup": (153, 58), "ioprio_set": (251, 30),
    # a timer that sends SIGCONT would let a process run on that the referee has stopped
    "timer_create": (222, 107), "mq_open": (240, 180),
    # memory that belongs to no process, and so counts as nobody's
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186),
}  # fmt: skip
# Where a library takes "no such call" for an answer and goes another way, but not "not allowed".
_ABSENT = ("memfd_create", "memfd_secret", "io_uring_setup", "shmget")
_ASKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "fcntl": (72, 25), "prctl": (157, 167),
}  # fmt: skip
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10, 16)  # unix, IPv4, IPv6, and what lists the network's devices
_F_SETSIG = 10
_PR_SET_PDEATHSIG = 1

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 1 << 2

Instruction = tuple[int, int, int, int]


def numbers() -> dict[str, int]:
    """The calls named here by their numbers on this processor. Raises OSError where it is not known."""
    column = _column()[0]
    known = {name: row[column] for name, row in {**_DENIED, **_ASKED}.items()}
    return {name: number for name, number in known.items() if number is not None}


def restrict() -> None:
    """Let the denied calls fail in this process, its threads to come and its children. Cannot be undone.

    Raises OSError where the kernel has no seccomp filters, or the processor is not known.
    """
    from harness.race.confinement import kernel

    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program())
    code = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    header = ctypes.create_string_buffer(description, len(description))
    # Without SPEC_ALLOW older kernels would slow the whole process down.
    seccomp = (317, 277)[_column()[0]]
    kernel.syscall(seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, header, what="seccomp")


def _column() -> tuple[int, int]:
    machine = platform.machine()
    if machine not in _PROCESSORS:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}", "seccomp")
    return _PROCESSORS[machine]


def _program() -> list[Instruction]:
    """The filter. Offsets in the data that it sees: 0 the call's number, 4 the processor, 16 + 8n argument n."""
    column, processor = _column()
    program: list[Instruction] = [_load(4), (_JUMP_EQUAL, 1, 0, processor), _return(_KILL), _load(0)]
    if column == 0:  # the x32 calls have numbers of their own
        program += [(_JUMP_AT_LEAST, 0, 1, _X32), _return(_fails(errno.ENOSYS))]
    for name, row in _DENIED.items():
        if (number := row[column]) is not None:
            answer = _fails(errno.ENOSYS if name in _ABSENT else errno.EPERM)
            program += _when(number, [_return(answer)])
    asked = {name: row[column] for name, row in _ASKED.items()}
    # Its flags lie in memory, where a filter cannot look; libraries then use clone.
    program += _when(asked["clone3"], [_return(_fails(errno.ENOSYS))])
    program += _when(
        asked["clone"],
        [
            _load(16),
            (_JUMP_SET, 0, 1, _NEW_NAMESPACES), _return(_fails(errno.EPERM)),
            # What a child's end sends to its parent: nothing else than SIGCHLD, lest it be SIGCONT.
            (_AND, 0, 0, 0xFF),
            (_JUMP_EQUAL, 2, 0, 0), (_JUMP_EQUAL, 1, 0, signal.SIGCHLD), _return(_fails(errno.EPERM)),
            _return(_ALLOW),
        ],
    )  # fmt: skip
    families: list[Instruction] = [_load(16)]
    for position, family in enumerate(_FAMILIES):
        families.append((_JUMP_EQUAL, len(_FAMILIES) - position, 0, family))
    families += [_return(_fails(errno.EAFNOSUPPORT)), _return(_ALLOW)]
    program += _when(asked["socket"], families)
    program += _when(
        asked["fcntl"],
        [_load(24), (_JUMP_EQUAL, 0, 1, _F_SETSIG), _return(_fails(errno.EPERM)), _return(_ALLOW)],
    )
    program += _when(
        asked["prctl"],
        [
            _load(16), (_JUMP_EQUAL, 0, 3, _PR_SET_PDEATHSIG),
            _load(24), (_JUMP_EQUAL, 0, 1, signal.SIGCONT), _return(_fails(errno.EPERM)),
            _return(_ALLOW),
        ],
    )  # fmt: skip
    return [*program, _return(_ALLOW)]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(answer: int) -> Instruction:
    return (_RETURN, 0, 0, answer)


def _fails(number: int) -> int:
    return _FAIL | number


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """`then`, which must return in the end, for the call of this number alone."""
    return [(_JUMP_EQUAL, 0, len(then), number), *then]
