"""Programs in E2B sandboxes (the `e2b` SDK; e2b's cloud, or a cluster that speaks its protocol).

One rented sandbox runs one program at a time and is used again: a program gets a directory and, as
long as commands run as root there, a user of its own; both are gone when it ends, with all that it
left running. Its output and its answers are files that a shell of ours opened, and come back as a
report of that shell.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conjoint.rewards.sandbox.base import Ended, Program, Result, SandboxConfig
from conjoint.rewards.sandbox.remote.carrier import script
from conjoint.rewards.sandbox.remote.remote import PlaceBroken, ended, resend, unavailable

_LOG = logging.getLogger(__name__)
_KEY, _DOMAIN = "E2B_API_KEY", "E2B_DOMAIN"
_HOSTED = ("", "e2b.app", "e2b.dev")
_FIRST_UID, _UIDS = 1_000_000, 50_000
_STDERR = 1 << 16
_KILL_S = 10.0
_T = TypeVar("_T")

# The report's first line is the exit status, microseconds and the shell's user, which is root's
# wherever a program cannot touch the shell; then what the program wrote, each part in base64.
COMMAND = """\
cd {directory} && mkdir work && cd work || exit 1
start=${{EPOCHREALTIME//[!0-9]/}}
exec 3>../replies
timeout -s KILL {wall_s:g} python3 -s -P -S -B -X utf8 \
  ../program.py <../stdin >../stdout 2>../stderr
code=$?
exec 3>&-
took=$(( ${{EPOCHREALTIME//[!0-9]/}} - start ))
if [ "$(id -u)" = 0 ]; then
  python3 -I -S -c 'import os; os.setuid({uid}); os.kill(-1, 9)' 2>/dev/null
  find /tmp /var/tmp /dev/shm -mindepth 1 -maxdepth 1 -uid {uid} -exec rm -rf {{}} + 2>/dev/null
fi
echo "$code $took $(id -u)"
for part in stdout replies stderr; do
  timeout 5 head -c {most} ../$part | base64 -w 0; echo
done
cd / && rm -rf {directory}
"""


@dataclass(slots=True, eq=False)
class _Rented:
    """One sandbox of ours there: the SDK's object, and until when it may be given a program."""

    sandbox: Any
    until: float
    uids: int = 0


class E2BPlace:
    """A `Place`. Sandboxes are rented as they are needed, and killed by `close`."""

    name = "e2b"

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._key = os.environ.get(_KEY, "")
        self._idle: list[_Rented] = []
        self._rented: set[_Rented] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._shared_user = False
        self._closed = False

    def check(self) -> None:
        elsewhere = os.environ.get("E2B_API_URL") or os.environ.get("E2B_DEBUG", "") == "true"
        hosted = (self._config.e2b.domain or os.environ.get(_DOMAIN, "")) in _HOSTED
        if hosted and not elsewhere and not self._key:
            raise unavailable(
                "sandbox.backend=e2b",
                f"there is no {_KEY} in the environment",
                "set it, or name a cluster of your own with sandbox.e2b.domain",
            )

    async def run(self, program: Program, attempt: int) -> Result:
        rented = None
        try:
            rented = await self._rent(new=attempt > 0)
            result = await self._run_in(rented, program)
        except BaseException as error:
            if rented is not None:
                self._end_later(rented)
            if isinstance(error, Exception) and not isinstance(error, PlaceBroken):
                # The SDK passes on errors of its transports as they are, and bare Exceptions.
                raise PlaceBroken(self._words(error)) from None
            raise
        self._idle.append(rented)
        return result

    async def _rent(self, new: bool) -> _Rented:
        """An idle sandbox with time left; a new one if there is none, or if it must be new."""
        from e2b import AsyncSandbox

        while self._idle and not new:
            rented = self._idle.pop()
            if time.monotonic() < rented.until:
                return rented
            self._end_later(rented)
        cfg, started, once = self._config.e2b, time.monotonic(), str(uuid.uuid4())
        sandbox = await self._resend(
            lambda: AsyncSandbox.create(
                template=cfg.template,
                timeout=cfg.lifetime_s,
                metadata={"made-by": "conjoint"},
                envs={"PYTHONHASHSEED": "0"},
                allow_internet_access=False,
                # One whose answer was lost is not rented twice.
                idempotency_key=once,
                **self._connection(),
            )
        )
        spare = min(cfg.lifetime_s / 2, self._config.wall_s + self._config.remote.request_s)
        rented = _Rented(sandbox, started + cfg.lifetime_s - spare)
        self._rented.add(rented)
        if self._closed:
            await self._end(rented)
            raise PlaceBroken("the sandbox was closed meanwhile")
        return rented

    def _connection(self) -> dict[str, Any]:
        """Retries are ours alone; the SDK's would multiply them."""
        return {
            "api_key": self._key or "none",
            "domain": self._config.e2b.domain or None,
            "request_timeout": self._config.remote.request_s,
            "retries": 0,
        }

    async def _run_in(self, rented: _Rented, program: Program) -> Result:
        """Write, run and read one program."""
        uid = _FIRST_UID + rented.uids % _UIDS
        rented.uids += 1
        config, directory = self._config, f"/tmp/conjoint-{uuid.uuid4().hex}"
        text = script(program, config, replies_on_stdout=False, uid=uid)
        files = [
            {"path": f"{directory}/program.py", "data": text},
            {"path": f"{directory}/stdin", "data": program.stdin},
        ]
        request_s = config.remote.request_s
        await self._resend(
            lambda: rented.sandbox.files.write_files(files, user="root", request_timeout=request_s)
        )
        most = (config.output_kb << 10) + 1
        command = COMMAND.format(directory=directory, wall_s=config.wall_s, uid=uid, most=most)
        report = await self._command(rented, command, 8 * (most + _STDERR))
        return self._result(program, report)

    async def _command(self, rented: _Rented, command: str, most: int) -> str:
        """What the command printed. A report that is too long was not made by our shell."""
        from e2b import CommandExitException

        pieces: list[str] = []
        size = 0

        def collect(piece: str) -> None:
            nonlocal size
            size += len(piece)
            if size > most:
                raise PlaceBroken("the sandbox sent more than a report")
            pieces.append(piece)

        with contextlib.suppress(CommandExitException):
            await rented.sandbox.commands.run(
                command,
                user="root",
                cwd="/tmp",
                on_stdout=collect,
                retain_output=False,
                timeout=self._config.wall_s + self._config.remote.request_s,
                request_timeout=self._config.remote.request_s,
            )
        return "".join(pieces)

    def _result(self, program: Program, report: str) -> Result:
        try:
            head, *parts = report.splitlines()
            code, took_us, shell_uid = map(int, head.split())
            stdout, replies, stderr = (base64.b64decode(part, validate=True) for part in parts)
        except ValueError:
            if self._shared_user:  # where a program can end the shell, doing so must not pay
                return Result(Ended.ERROR, "ended the shell that it was started from", self.name)
            raise PlaceBroken("the sandbox's shell gave no report") from None
        if shell_uid and not self._shared_user:
            self._shared_user = True
            _LOG.warning(
                "e2b: commands do not run as root there, so programs share one user, and one may "
                "leave processes and files to the next"
            )
        wall_s = took_us / 1e6
        overdue = code in (124, 137) and wall_s >= self._config.wall_s
        return ended(
            program,
            self._config,
            self.name,
            code=code,
            overdue=overdue,
            stdout=stdout,
            stderr=stderr[:_STDERR],
            replies=replies,
            wall_s=wall_s,
        )

    async def _resend(self, request: Callable[[], Awaitable[_T]]) -> _T:
        async for again in resend(self._config, _may_pass):
            with again:
                return await request()
        raise AssertionError("unreachable")

    def _end_later(self, rented: _Rented) -> None:
        """Kill a sandbox without waiting for it; `close` waits."""
        task = asyncio.get_running_loop().create_task(self._end(rented))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, rented: _Rented) -> None:
        if rented not in self._rented:
            return
        self._rented.discard(rented)
        try:
            await rented.sandbox.kill(request_timeout=_KILL_S)
        except Exception as error:
            # It ends by itself at its lifetime.
            _LOG.warning("e2b: a sandbox could not be killed (%s)", self._words(error))

    async def close(self) -> None:
        """Kill every rented sandbox, also under a program that runs."""
        self._closed = True
        self._idle.clear()
        for rented in list(self._rented):
            self._end_later(rented)
        await asyncio.gather(*self._ending)

    def _words(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:300]


def _may_pass(error: BaseException) -> bool:
    """429, a 5xx, no connection, a page of a gateway instead of an answer. Not a time-out: waiting
    as long again helps nobody. Nor a sandbox that is gone, which the SDK tells from these."""
    import httpx
    from e2b import RateLimitException, SandboxException
    from e2b.exceptions import SandboxUnreachableException, ServiceBusyException

    if isinstance(error, httpx.TransportError):
        return not isinstance(error, httpx.TimeoutException)
    passing = (RateLimitException, ServiceBusyException, SandboxUnreachableException)
    if isinstance(error, (*passing, json.JSONDecodeError)):
        return True
    # The status of a sandbox's own answer is in the text only.
    return isinstance(error, SandboxException) and re.match(r"5\d\d: ", str(error)) is not None
