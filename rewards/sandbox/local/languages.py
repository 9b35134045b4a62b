"""What a program's language needs of the machine: which zygote, which tools, which directories.

Used on the grader's side; `starts.py` is the jail's side. A zygote is of one of two kinds: FORK has
Python's library and nothing else, SYSTEM also the machine's own programs and libraries to read and
to execute. Everything runs with the same limits, user and system-call filter.
"""

import glob
import os
import shutil
import sysconfig
from collections.abc import Callable

from conjoint.rewards.sandbox.base import Program

FORK, SYSTEM = "fork", "system"

_PROGRAMS = "/usr/bin:/bin"
_DIRECTORIES = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include",
                "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")  # fmt: skip # noqa: E501
_TOOLS = {"cpp": "g++", "bash": "bash"}


def kind(program: Program, mode: str) -> str:
    """The kind of zygote that runs `program`."""
    return FORK if program.language == "python" and mode == "fork" else SYSTEM


def missing(language: str) -> str:
    """Why this machine cannot run `language`; empty if it can."""
    tool = _TOOLS.get(language)
    if tool is None or shutil.which(tool, path=_PROGRAMS):
        return ""
    return f"unsupported: this machine has no {tool} in {_PROGRAMS.replace(':', ' or ')}"


def unfit(language: str, processes: bool, tier: Callable[[], str]) -> str:
    """Why tasks in `language` cannot be graded here; empty if they can. `tier` is asked if it
    matters: a bash program that calls another program, or has a pipe or $( ), needs processes."""
    if language == "bash" and processes and tier() == "landlock":
        return (
            "unsupported: bash programs need processes, which the landlock tier lacks; use "
            "sandbox.isolation=namespaces, or give tasks that bash's builtins suffice for "
            '"processes": false in their reference'
        )
    return missing(language)


def system_paths() -> tuple[str, ...]:
    """Directories, links to them, and files that a SYSTEM zygote shows."""
    return tuple(path for path in _DIRECTORIES if os.path.lexists(path))


def shared_library() -> tuple[str, ...]:
    """libpython*.so of this interpreter; none where it is linked in, or lies with the system's."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return ()
    folder = os.path.realpath(sysconfig.get_config_var("LIBDIR"))
    if any(folder == path or folder.startswith(path + "/") for path in _DIRECTORIES):
        return ()
    return tuple(sorted(glob.glob(os.path.join(glob.escape(folder), "libpython*.so*"))))
