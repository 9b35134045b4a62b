"""System calls the jail needs and Python 3.11 has no function for, through ctypes.

Every function raises OSError with the name of the call, so that a failed set-up says which step
was refused. Linux on x86_64 and aarch64 only.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Mapping, Sequence
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 1 << 10, 1 << 11, 1 << 21
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
PR_SET_CHILD_SUBREAPER = 36
_AT_EMPTY_PATH = 0x1000
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_DESCRIPTOR = 0x7FFFFFFF

_NUMBERS = {
    # name: (x86_64, aarch64)
    "clone": (56, 220),
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "execveat": (322, 281),
    "close_range": (436, 436),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
MACHINES = ("x86_64", "aarch64")
# PyDLL keeps the interpreter lock: a raw clone() must not return into a released one.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def machine() -> str:
    """x86_64 or aarch64. Raises OSError elsewhere: there is no system-call table for it."""
    name = platform.machine()
    if platform.system() != "Linux" or name not in MACHINES:
        raise OSError(errno.ENOSYS, f"no system-call table for {platform.system()} on {name}")
    return name


def syscall(name: str, *args: int | bytes | ctypes.Array[ctypes.c_char_p] | None) -> int:
    number = _NUMBERS[name][MACHINES.index(machine())]
    longs = [_argument(a) for a in args]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *longs))


def _argument(value: int | bytes | ctypes.Array[ctypes.c_char_p] | None) -> Any:
    if isinstance(value, int):
        return ctypes.c_long(value)
    return value if isinstance(value, ctypes.Array) else ctypes.c_char_p(value)


def _checked(name: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def clone(flags: int) -> int:
    """fork() into new namespaces in one step. The child must not run user code itself: glibc does
    not know of it (no fork handlers, stale thread id) until it forks in the ordinary way."""
    return syscall("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)


def unshare(flags: int) -> None:
    _checked(f"unshare({flags:#x})", _libc.unshare(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _checked(f"mount({target})", result)


def detach(target: str) -> None:
    _checked(f"umount2({target})", _libc.umount2(target.encode(), MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", new.encode(), old.encode())


def prctl(option: int, *args: int) -> None:
    longs = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    _checked(f"prctl({option})", _libc.prctl(option, *longs))


def drop_capabilities() -> None:
    """Empty every capability set of this thread; with no_new_privs they cannot come back."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    syscall("capset", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def close_from(first: int) -> None:
    syscall("close_range", first, _LAST_DESCRIPTOR, 0)


def execute(descriptor: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Become the program of an open file. Returns only by OSError."""
    argv, envp = (
        _strings(arguments),
        _strings([f"{name}={value}" for name, value in environment.items()]),
    )
    syscall("execveat", descriptor, b"", argv, envp, _AT_EMPTY_PATH)


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """A char*[] with the null at its end that the kernel looks for."""
    return (ctypes.c_char_p * (len(texts) + 1))(*(text.encode() for text in texts), None)


def syscall_address() -> int:
    """Where `syscall` enters the kernel from: the address that a seccomp filter sees."""
    function = ctypes.cast(_libc.syscall, ctypes.c_void_p).value or 0
    instruction = {"x86_64": b"\x0f\x05", "aarch64": b"\x01\x00\x00\xd4"}[machine()]
    found = ctypes.string_at(function, 128).find(instruction)
    if found < 0:
        why = "the C library's syscall() has no system call where one is expected"
        raise OSError(errno.ENOSYS, why)
    return function + found + len(instruction)
