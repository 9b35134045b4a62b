"""Landlock: which files a program may open, whatever user it runs as; no privilege needed.

Owns the rule set: read Python's own library, read a few devices, write the scratch directory,
nothing else; no TCP bind or connect; no signal or abstract socket beyond the jail (where the
kernel knows these). Numbers are those of linux/landlock.h.
"""

import os
import struct
from collections.abc import Sequence

from conjoint.rewards.sandbox.kernel import syscalls as kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READ = _READ_FILE | _READ_DIR
_SCRATCH = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO
) | (_MAKE_SYM | _REFER | _TRUNCATE)
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_LATEST = (1 << 16) - 1
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NET_BIND_TCP, _NET_CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_READABLE_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
DEVICES = ("/dev/null", *_READABLE_DEVICES)


def abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def ruleset(
    readable: Sequence[str],
    listable: Sequence[str],
    scratch: str,
    executable: Sequence[str] = (),
) -> int:
    """A descriptor of the rule set. `readable` are files and trees, `listable` may be listed only,
    `executable` also read.

    Raises OSError where the kernel has no Landlock.
    """
    version = abi()
    handled = _ALL_BY_ABI.get(version, _ALL_LATEST)
    attributes = struct.pack("Q", handled)
    if version >= 4:
        attributes += struct.pack("Q", _NET_BIND_TCP | _NET_CONNECT_TCP)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL)
    descriptor = kernel.syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    for path in (*readable, *_READABLE_DEVICES):
        _allow(descriptor, path, _READ & handled)
    for path in executable:
        _allow(descriptor, path, (_READ | _EXECUTE) & handled)
    for path in listable:
        _allow(descriptor, path, _READ_DIR)
    _allow(descriptor, "/dev/null", (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
    _allow(descriptor, scratch, _SCRATCH & handled)
    return descriptor


def _allow(ruleset_fd: int, path: str, access: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            access &= _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = struct.pack("=Qi", access, parent)
        kernel.syscall("landlock_add_rule", ruleset_fd, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(parent)


def restrict(ruleset_fd: int) -> None:
    """Confine this process for good; no_new_privs must be set."""
    kernel.syscall("landlock_restrict_self", ruleset_fd, 0)
