"""Inside the jail: runs the untrusted source as a script, or as a module whose function is called.

Nothing here is trusted by the grader. All a program can gain by changing this code, its builtins or
its output is to give another answer. No expected value ever comes here.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys

TYPE_CHECKING = False  # `typing` alone would double the start of a fresh Python
if TYPE_CHECKING:
    from typing import Any, NoReturn

_REPLIES = 3
_LEETCODE = (
    "import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re\n"
    "import string, sys, typing\nfrom typing import *\nfrom collections import *\n"
    "from heapq import *\nfrom bisect import *\nfrom itertools import *\nfrom functools import *\n"
    "from math import *\nfrom builtins import *\n"
)
"""What LeetCode imports ahead of a `class Solution`, whose programs use it unsaid."""


def run(source: bytes, entry: str | None, payload: bytes) -> NoReturn:
    """Never returns; the exit status says whether the program ended by itself without an error.

    Calls come in the payload, or, if that is empty, one at a time on descriptor 0. Of a source with
    alternatives (see `Program.alternatives`) the first that compiles is run.
    """
    code = 1
    try:
        calls = take_stdin() if entry is not None and not payload else None
        open_streams()
        start_clean()
        live: Any = None if entry is None else _live()
        for name in [n for n in sys.modules if n.partition(".")[0] == "conjoint"]:
            del sys.modules[name]
        name = "__main__" if entry is None else "solution"
        module = sys.modules[name] = type(sys)(name)
        program = _compiled(source.decode("utf-8", "surrogatepass"))
        if entry is not None and "Solution" in program.co_names:
            exec(_LEETCODE, module.__dict__)
        exec(program, module.__dict__)
        if entry is not None:
            if calls is None:
                _answer(live, live.find(module.__dict__, entry), entry, payload)
            else:
                live.answer(calls, module.__dict__, lambda message: _reply(live.codec, message))
            os._exit(0)
        code = 0
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:
        _complain()
    code = _wind_down(code)
    os._exit(code)


def _compiled(text: str) -> Any:
    """The first of the source's alternatives that is a program; the first one's error if none."""
    problem: BaseException | None = None
    for source in text.split("\0"):
        try:
            return compile(source, "solution.py", "exec", dont_inherit=True)
        except Exception as error:
            problem = problem or error
    raise problem or AssertionError


def _live() -> Any:
    from conjoint.rewards.sandbox.inside import live

    return live


def take_stdin() -> int:
    """Descriptor 0 under another number, and an empty input in its place."""
    taken = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return taken


def open_streams() -> None:
    sys.stdin = sys.__stdin__ = _stream(0, "r", "strict")
    sys.stdout = sys.__stdout__ = _stream(1, "w", "strict")
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")


def _stream(descriptor: int, mode: str, errors: str) -> Any:
    return os.fdopen(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)


def start_clean() -> None:
    """As a fresh interpreter, but with fixed seeds: the same program gives the same output."""
    sys.argv = ["solution.py"]
    if "random" in sys.modules:
        sys.modules["random"].seed(0)  # type: ignore[attr-defined]
    if not hasattr(builtins, "exit"):
        import site

        site.setquit()  # exit() and quit(), which -S leaves out
    gc.enable()


def _answer(live: Any, function: Any, entry: str, payload: bytes) -> None:
    """One JSON line a call: ["value", wire], ["raised", text] or ["refused", text]."""
    codec = live.codec
    if function is None:
        _reply(codec, ["missing", f"defines no function '{entry}'"])
        return
    for args, kwargs in codec.loads(payload):
        try:
            value = function(*map(codec.decode, args), **live.decoded(kwargs))
        except BaseException as error:
            _reply(codec, ["raised", _describe(error)])
            continue
        try:
            _reply(codec, ["value", codec.encode(value)])
        except codec.CodecError as error:
            _reply(codec, ["refused", str(error)])
        except RecursionError:
            _reply(codec, ["refused", "a value nested too deep"])


def _reply(codec: Any, message: list[Any]) -> None:
    data = memoryview(codec.dumps(message) + b"\n")
    while data:
        data = data[os.write(_REPLIES, data) :]


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "an exception that cannot be shown"


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    return stop.code & 0xFF if isinstance(stop.code, int) else 1


def _complain() -> None:
    try:
        import traceback

        traceback.print_exc(limit=-8)
    except BaseException:
        os.write(2, b"an exception that cannot be shown\n")


def _wind_down(code: int) -> int:
    """What an interpreter does at its end: wait for threads, run exit handlers, flush."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        _complain()
        return code or 1
    return code
