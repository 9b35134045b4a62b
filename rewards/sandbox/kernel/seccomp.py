"""The system-call filter: what a program may ask of the kernel. A BPF program written by hand.

Owns the two system-call tables (x86_64, aarch64) and the rules. Allowed by default; refused with
EPERM: new processes, exec, sockets, signals to others, mounts, namespaces and the rarely used
kernel surface. Calls newer than the tables get ENOSYS, a foreign architecture or the x32 ABI kills.
"""

import ctypes
import errno
import struct
from dataclasses import dataclass

from conjoint.rewards.sandbox.kernel import syscalls as kernel


@dataclass(frozen=True, slots=True)
class Filter:
    """What a program may do beyond threads. `exec_from` is the address of the one exec that starts
    it, 0 for none: code of the new program cannot know it, nor would a second exec gain anything.
    `processes` allows fork and exec for what the supervisor watches as a tree; `fork_kills` ends
    a program that tries either, so that it is told apart from one that goes on without.
    """

    processes: bool = False
    exec_from: int = 0
    fork_kills: bool = False


_PLAIN = Filter()

# Refused in both tiers: name -> (x86_64, aarch64); -1 where the machine lacks it.
_REFUSED: dict[str, tuple[int, int]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "tkill": (200, 130),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # file systems and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "move_mount": (429, 429), "open_tree": (428, 428), "mount_setattr": (442, 442),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "inotify_init": (253, -1), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # locks on files that all jails share: one program could hold up another, or signal to it
    "flock": (73, 32),
    # memory outside the limits
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    # kernel surface
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116),
    "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1), "personality": (135, 92),
    "vhangup": (153, 58), "lookup_dcookie": (212, 18), "uselib": (134, -1),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    # System V and POSIX message IPC
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    # network; a pair of connected stream sockets stays (asyncio needs one), see below
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
}  # fmt: skip

# A solution is one process, so that nothing it starts can outlive or outnumber it.
_REFUSED_PROCESSES: dict[str, tuple[int, int]] = {
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221),
}  # fmt: skip
_EXECVEAT = (322, 281)

# Landlock does not cover metadata: without a mount namespace these reach any file of the same user.
_REFUSED_LANDLOCK: dict[str, tuple[int, int]] = {
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, -1),
    "lchown": (94, -1), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, -1),
    "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip

# Judged by an argument.
_CLONE, _CLONE3, _KILL, _TGKILL, _TGSIGQUEUE = (56, 220), (435, 435), (62, 129), (234, 131), (297, 240)  # fmt: skip # noqa: E501
_PRCTL, _FCNTL, _IOCTL, _PRLIMIT = (157, 167), (72, 25), (16, 29), (302, 261)
_SOCKETPAIR, _SENDTO = (53, 199), (44, 206)
_NEWER_THAN_TABLES = 452

_SET_MODE_FILTER = 1
_NR, _ARCHITECTURE, _POINTER, _ARGUMENTS = 0, 4, 8, 16
"""Offsets in what a filter sees, `struct seccomp_data`."""
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_ERRNO = 0x00050000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_LOAD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_X32 = 0x40000000
_CLONE_THREAD, _CLONE_NEW = 0x10000, 0x7E020080
_BAD_FCNTL = (8, 10, 15, 36, 37, 38, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would signal any process of the user. F_OFD_GETLK,
F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE and F_NOTIFY: as flock. (SQLite needs the older locks, which
nobody can hold against another on a file that is not writable.)"""
_BAD_IOCTL = (0x5412, 0x541C, 0x8901, 0x8902)
"""TIOCSTI and TIOCLINUX type into a terminal; FIOSETOWN and SIOCSPGRP are F_SETOWN again."""

_Instruction = tuple[int, int, int, int]


def program(tier: str, pid: int, allowed: Filter = _PLAIN) -> bytes:
    """The BPF program for one solution process: it may signal `pid` (itself) and nobody else."""
    column = kernel.MACHINES.index(kernel.machine())
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JEQ, 1, 0, _ARCH[kernel.machine()]),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
    ]
    if column == 0:
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _KILL_PROCESS)]
    code += [(_JGE, 0, 1, _NEWER_THAN_TABLES), (_RET, 0, 0, _ENOSYS)]
    tables = [_REFUSED, _REFUSED_LANDLOCK] if tier == "landlock" else [_REFUSED]
    for numbers in (n for table in tables for n in table.values() if n[column] >= 0):
        code += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _EPERM)]
    if not allowed.processes:
        for numbers in (n for n in _REFUSED_PROCESSES.values() if n[column] >= 0):
            code += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _no(allowed))]
    # glibc falls back from clone3, whose flags lie in memory out of our sight, to clone.
    code += [(_JEQ, 0, 1, _CLONE3[column]), (_RET, 0, 0, _ENOSYS)]
    for number, body in _judged(tier, pid, allowed):
        code += [(_JEQ, 0, len(body), number[column]), *body]
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _no(allowed: Filter) -> int:
    return _KILL_PROCESS if allowed.fork_kills else _EPERM


def _judged(
    tier: str, pid: int, allowed: Filter
) -> list[tuple[tuple[int, int], list[_Instruction]]]:
    rules = [
        (_PRCTL, _unless(0, (kernel.PR_SET_PDEATHSIG, kernel.PR_SET_DUMPABLE))),
        (_FCNTL, _unless(1, _BAD_FCNTL)),
        (_IOCTL, _unless(1, _BAD_IOCTL)),
        (_PRLIMIT, _only(0, 0)),
        # A datagram pair could be re-addressed to any socket of the machine; a stream pair cannot.
        (_SOCKETPAIR, [_arg(1), (_AND, 0, 0, _SOCK_TYPE_MASK), (_JEQ, 1, 0, _SOCK_STREAM),
                       (_RET, 0, 0, _EPERM), *_only(0, _AF_UNIX)]),
        (_SENDTO, [_arg(4), (_JEQ, 1, 0, 0), (_RET, 0, 0, _EPERM),
                   (_LOAD, 0, 0, _ARGUMENTS + 8 * 4 + 4), (_JEQ, 1, 0, 0), (_RET, 0, 0, _EPERM),
                   (_RET, 0, 0, _ALLOW)]),
    ]  # fmt: skip
    clone = [_arg(0), (_JSET, 0, 1, _CLONE_NEW), (_RET, 0, 0, _EPERM)]
    if not allowed.processes:
        clone += [(_JSET, 1, 0, _CLONE_THREAD), (_RET, 0, 0, _no(allowed))]
        rules.append((_EXECVEAT, _from(allowed.exec_from, _no(allowed))))
    rules.append((_CLONE, [*clone, (_RET, 0, 0, _ALLOW)]))
    if tier == "landlock" or not allowed.processes:
        rules += [(number, _only(0, pid)) for number in (_KILL, _TGKILL, _TGSIGQUEUE)]
    return rules


def _from(address: int, refusal: int) -> list[_Instruction]:
    """Allow a call that is made from `address` only."""
    refuse = (_RET, 0, 0, refusal)
    return [(_LOAD, 0, 0, _POINTER), (_JEQ, 1, 0, address & 0xFFFFFFFF), refuse,
            (_LOAD, 0, 0, _POINTER + 4), (_JEQ, 1, 0, address >> 32), refuse, (_RET, 0, 0, _ALLOW)]  # fmt: skip # noqa: E501


def _arg(index: int) -> _Instruction:
    """Load the low half of an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _only(index: int, value: int) -> list[_Instruction]:
    return [_arg(index), (_JEQ, 1, 0, value), (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]


def _unless(index: int, values: tuple[int, ...]) -> list[_Instruction]:
    body = [_arg(index)]
    for value in values:
        body += [(_JEQ, 0, 1, value), (_RET, 0, 0, _EPERM)]
    return [*body, (_RET, 0, 0, _ALLOW)]


def install(tier: str, pid: int, allowed: Filter = _PLAIN) -> None:
    """Filter this process for good; no_new_privs must be set."""
    code = program(tier, pid, allowed)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_head = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    kernel.syscall("seccomp", _SET_MODE_FILTER, 0, filter_head)
