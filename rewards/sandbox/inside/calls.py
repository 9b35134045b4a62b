"""Inside the jail of the verifier profile: imports once, then one call of a trusted function a job.

The function is ours or a library's, but what it evaluates is a model's text. So each call has a
process of its own, and all that leaves it is one line of JSON; nothing is unpickled outside.
"""

import errno
import gc
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from conjoint.rewards.sandbox.spec import Spec

_REPLIES = 3


def prepare(spec: Spec) -> None:
    """Import and call `spec.warm`, before the jail closes. Raises OSError saying what failed.

    One thread a library: a process with threads may not enter a user namespace, nor safely fork.
    """
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(threads, "1"), HOME=spec.directory, MPLCONFIGDIR=spec.directory)
    sys.path += spec.packages
    try:
        _find(spec.warm)()
    except Exception as error:
        raise OSError(errno.ENOPKG, f"{spec.warm}: {type(error).__name__}: {error}") from None


def limited(spec: Spec, wall_s: float) -> Spec:
    """`spec` with the deadline of one call; the limit of CPU follows it."""
    return replace(spec, wall_s=wall_s, cpu_s=math.ceil(wall_s) + 1)


def run(function: str, payload: bytes) -> NoReturn:
    """Never returns: writes ["value", result] or ["raised", text] and ends the process."""
    gc.enable()
    try:
        message = json.dumps(["value", _find(function)(*json.loads(payload))])
    except BaseException as error:
        message = json.dumps(["raised", _describe(error)])
    data = memoryview(message.encode() + b"\n")
    while data:
        data = data[os.write(_REPLIES, data) :]
    os._exit(0)


def _find(function: str) -> Callable[..., Any]:
    """The function named `module:qualname`."""
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return "an exception that cannot be shown"


def nothing() -> None:
    """The warm-up of a pool that has nothing to import."""


def attempt(source: str) -> str:
    """What a program of ours prints here: the attacks that are tried when a pool starts."""
    printed: list[str] = []
    exec(compile(source, "probe", "exec"), {"print": printed.append, "__name__": "probe"})
    return "\n".join(printed)
