"""A process of its own for the other side of a comparison, and the line between it and the bench.

One JSON object a line in, one out. What the libraries of the other side print goes to a file, of
which the end is shown if the process dies.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from conjoint.envs.types import StopRun

_TAIL = 2000
_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What DeepSpeed leaves in the environment of a process that was a rank; the other side is none."""


class Child:
    """The bench's end. `ask` blocks: call it in a thread where an event loop must go on."""

    def __init__(self, module: str, given: Mapping[str, Any], env: Mapping[str, str]) -> None:
        """Starts `python -m MODULE GIVEN`, which answers `ready` when it has loaded."""
        self._name = module
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**{k: v for k, v in os.environ.items() if k not in _RANK}, **env},
            text=True,
            # Its own group: what the libraries start there ends with it.
            start_new_session=True,
        )

    def ask(self, what: str, timeout_s: float, **given: Any) -> dict[str, Any]:
        """Raises StopRun if the process dies or does not answer in time; it is then ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        timer = threading.Timer(timeout_s, self.close)
        timer.start()
        try:
            stdin.write(json.dumps({"what": what, **given}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.close()
            raise StopRun(f"{self._name} ended, or was ended, during {what!r}: {self._tail()}")
        return json.loads(line)

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-_TAIL:]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Channel:
    """The other end, in the process. Make it before anything is imported that prints."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def requests(self) -> Iterator[dict[str, Any]]:
        """Ends when the bench does."""
        for line in sys.stdin:
            yield json.loads(line)

    def answer(self, **values: Any) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()
