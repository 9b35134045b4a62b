"""On another machine: what `carrier.py` sends ahead of a program, to run it as the local jail does.

Standard library only, and nothing of this project is installed there: the codec and the runner come
along as source. Nothing here is trusted: all a program can gain by changing it is another answer.
"""

from __future__ import annotations

import base64
import os
import random  # noqa: F401  (the runner seeds it)
import resource
import sys
import types
from typing import Any, NoReturn

_REPLIES = 3
_PR_SET_NO_NEW_PRIVS = 38


def main(job: dict[str, Any]) -> NoReturn:
    """Limit this process, give up root if it has it, and become the program."""
    _limit(job)
    if job["replies_on_stdout"]:
        # What the program prints must not mix with its answers.
        os.dup2(1, _REPLIES)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if job["uid"] and os.geteuid() == 0:
        _drop_root(job["uid"])
    os.environ["ONLINE_JUDGE"] = "true"
    solution = _load(job["modules"])
    source, payload = (base64.b64decode(job[key]) for key in ("source", "payload"))
    solution.run(source, job["entry"], payload)
    raise AssertionError("unreachable")


def _limit(job: dict[str, Any]) -> None:
    cpu_s, memory, scratch = job["cpu_s"], job["memory_mb"] << 20, job["scratch_mb"] << 20
    limits = [
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, scratch, scratch),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    for kind, soft, hard in limits:
        allowed = resource.getrlimit(kind)[1]
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(kind, (soft, hard))


def _drop_root(uid: int) -> None:
    """A user of this program's own, who owns the directory it is in and can never be root again
    (the machine's usual user may have sudo)."""
    import ctypes

    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
    os.chown(".", uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs was refused")


def _load(sources: dict[str, str]) -> Any:
    """The modules under the names by which they import each other; the last one."""
    module = None
    for name, source in sources.items():
        module = types.ModuleType(name)
        above, _, last = name.rpartition(".")
        package = sys.modules.setdefault(above, types.ModuleType(above))
        setattr(package, last, module)
        sys.modules[name] = module
        exec(compile(source, last + ".py", "exec"), module.__dict__)
    return module
