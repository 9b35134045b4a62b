"""The zygote: a clean, warm interpreter that does nothing but fork one supervisor a job.

Runs as a script (`python -s -P -S -B`) with an environment of ours and one socket as stdin. It
locks itself in, says hello, then waits. It never reads a job or an output: what one program was,
said or answered is never in the memory that the next one inherits.
"""

import contextlib
import gc
import importlib
import os
import select
import site
import socket
import sys
import types

# The folder above rewards/: a checkout, or `conjoint` among the installed packages. Only this
# package can be imported from it, so that no other file there takes a library's place.
_ROOT = os.path.abspath(__file__ + "/../../../..")
sys.modules["conjoint"] = types.ModuleType("conjoint")
sys.modules["conjoint"].__path__ = [_ROOT]

from conjoint.rewards.sandbox import spec
from conjoint.rewards.sandbox.inside import confine as rooms
from conjoint.rewards.sandbox.inside import starts, supervisor
from conjoint.rewards.sandbox.kernel import syscalls as kernel

# Imported before the lock falls: what links against system libraries cannot be loaded later.
_WARM = (
    "abc", "array", "ast", "asyncio", "base64", "binascii", "bisect", "bz2", "calendar",
    "cmath", "codecs", "collections", "copy", "csv", "ctypes", "dataclasses", "datetime",
    "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "html",
    "inspect", "io", "itertools", "json", "logging", "lzma", "math", "numbers", "operator",
    "pprint", "queue", "random", "re", "secrets", "sqlite3", "statistics", "string", "struct",
    "tempfile", "textwrap", "threading", "time", "timeit", "traceback", "typing", "unicodedata",
    "uuid", "zlib", "zoneinfo", "conjoint.rewards.sandbox.inside.checker",
)  # fmt: skip


def main() -> None:
    sock = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.umask(0o022)
    header, _ = spec.receive(sock)
    orders = spec.Spec.parse(header)
    for name in () if orders.system else _WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        if orders.system:
            starts.prepare_modules()
        if orders.warm:
            importlib.import_module("conjoint.rewards.sandbox.inside.calls").prepare(orders)
        room = rooms.enter(orders)
    except OSError as error:
        sock.sendall(spec.frame({"ok": False, "why": error.strerror or str(error)}))
        return
    site.setquit()  # exit() and quit(), which -S leaves out
    os.environ.update(HOME=room.scratch, TMPDIR=room.scratch, ONLINE_JUDGE="true")
    gc.collect()
    gc.freeze()
    gc.disable()
    sock.sendall(spec.frame({"ok": True}))
    _serve(sock, orders, room)


def _serve(sock: socket.socket, orders: spec.Spec, room: rooms.Room) -> None:
    parent = os.getppid()
    # Its writing end is held by this process alone: a child that reads the end outlived us.
    lifeline, held = os.pipe()
    while True:
        ready, _, _ = select.select([sock], [], [], 1.0)
        if os.getppid() != parent:
            return
        if not ready:
            continue
        if not sock.recv(1, socket.MSG_PEEK):
            return
        pid = kernel.clone(room.flags)
        if pid == 0:
            os.close(held)
            supervisor.main(sock, orders, room, lifeline)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            # The stream may be cut anywhere: the pool sees us go and starts another.
            return


if __name__ == "__main__":
    main()
