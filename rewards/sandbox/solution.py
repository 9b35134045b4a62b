"""Inside the jail: runs the untrusted source as a script, or as a module whose function is called.

Nothing here is trusted by the grader. All a program can gain by changing this code, its builtins or
its output is to give another answer. No expected value ever comes here.
"""

import atexit
import gc
import json
import os
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from rewards.sandbox import codec

_REPLIES = 3


def run(source: bytes, entry: str | None, payload: bytes) -> NoReturn:
    """Never returns; the exit status says whether the program ended by itself without an error."""
    code = 1
    try:
        _open_streams()
        _start_clean()
        name = "__main__" if entry is None else "solution"
        module = types.ModuleType(name)
        sys.modules[name] = module
        text = source.decode("utf-8", "surrogatepass")
        exec(compile(text, "solution.py", "exec", dont_inherit=True), module.__dict__)
        if entry is not None:
            _answer(module.__dict__.get(entry), entry, payload)
            os._exit(0)
        code = 0
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:
        _complain()
    code = _wind_down(code)
    os._exit(code)


def _open_streams() -> None:
    sys.stdin = sys.__stdin__ = _stream(0, "r", "strict")
    sys.stdout = sys.__stdout__ = _stream(1, "w", "strict")
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")


def _stream(descriptor: int, mode: str, errors: str) -> Any:
    return os.fdopen(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)


def _start_clean() -> None:
    """As a fresh interpreter, but with fixed seeds: the same program gives the same output."""
    sys.argv = ["solution.py"]
    sys.modules["random"].seed(0)  # type: ignore[attr-defined]
    gc.enable()


def _answer(function: Any, entry: str, payload: bytes) -> None:
    """One JSON line a call: ["value", wire], ["raised", text] or ["refused", text]."""
    if not callable(function):
        _reply(["missing", f"defines no function '{entry}'"])
        return
    for wire in json.loads(payload):
        try:
            value = function(*codec.decode(wire))
        except BaseException as error:
            _reply(["raised", _describe(error)])
            continue
        try:
            _reply(["value", codec.encode(value)])
        except codec.CodecError as error:
            _reply(["refused", str(error)])
        except RecursionError:
            _reply(["refused", "a value nested too deep"])


def _reply(message: list[Any]) -> None:
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
        traceback.print_exc(limit=-8)
    except BaseException:
        os.write(2, b"an exception that cannot be shown\n")


def _wind_down(code: int) -> int:
    """What an interpreter does at its end: wait for threads, run exit handlers, flush."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        _complain()
        return code or 1
    return code
