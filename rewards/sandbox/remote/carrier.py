"""A `Program` as one self-contained Python script, for machines that have only Python.

The script holds the source and the arguments of calls, never an expected value: as in the local
jail, the most that a program can forge there is an answer, because it is compared here.
"""

import base64
import json
from functools import cache
from importlib import resources

from conjoint.rewards.sandbox.base import Program, SandboxConfig
from conjoint.rewards.sandbox.local.worker import encode_calls

_SANDBOX = "conjoint.rewards.sandbox"
_CARRIED = ("codec", "inside.live", "inside.solution")
"""Modules that go along, each after those it imports."""


def script(program: Program, config: SandboxConfig, *, replies_on_stdout: bool, uid: int) -> str:
    """ASCII, whatever the program holds, so that no carrier can choke on it.

    Answers to calls go to descriptor 3, or to stdout where there is no other way out; the program's
    own prints then go nowhere. A root process becomes user `uid` (0: stays what it is).
    """
    payload = b"" if program.entry is None else encode_calls(program.calls)
    job = {
        "source": _base64(program.code),
        "entry": program.entry,
        "payload": _base64(payload),
        "modules": {f"{_SANDBOX}.{name}": _text(name) for name in _CARRIED},
        "replies_on_stdout": replies_on_stdout and program.entry is not None,
        "uid": uid,
        "cpu_s": config.cpu_s,
        "memory_mb": config.memory_mb,
        "scratch_mb": config.scratch_mb,
    }
    return (
        f"{_text('remote.bootstrap')}\n"
        "import json as _json\n"
        f"main(_json.loads(base64.b64decode({_base64(json.dumps(job).encode())!r})))\n"
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _text(module: str) -> str:
    file = f"{module.replace('.', '/')}.py"
    return resources.files(_SANDBOX).joinpath(file).read_text(encoding="utf-8")
