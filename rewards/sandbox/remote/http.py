"""Programs on SandboxFusion servers: `POST /run_code`, its wire format as it is.

A script gets its stdin and is judged by its stdout. Calls of a function have no second channel
there: the answers are what the script prints, and what the program itself prints goes nowhere.
How programs are isolated is the server's business.
"""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from conjoint.rewards.sandbox.base import Ended, Program, Result, SandboxConfig
from conjoint.rewards.sandbox.remote.carrier import script
from conjoint.rewards.sandbox.remote.remote import PlaceBroken, ended, resend, unavailable

_COMPILE_S = 10
_CONNECT_S = 10.0


class _Passing(Exception):
    """A refusal that may pass: 429, a 5xx, no connection."""


class HttpPlace:
    """A `Place`: one server after the other, the next one where one failed."""

    name = "http"

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._urls = [url.rstrip("/") for url in config.http.urls]
        self._sent = 0
        self._client: Any = None  # an httpx.AsyncClient, imported late

    def check(self) -> None:
        if not self._urls:
            raise unavailable(
                "sandbox.backend=http", "no server is named", "set sandbox.http.urls=[ADDRESS]"
            )

    async def run(self, program: Program, attempt: int) -> Result:
        self._sent += 1 if attempt == 0 else 0
        url = self._urls[(self._sent + attempt) % len(self._urls)]
        try:
            async for again in resend(self._config, lambda error: isinstance(error, _Passing)):
                with again:
                    return self._result(program, await self._post(url, self._request(program)))
        except _Passing as error:
            raise PlaceBroken(f"{_host(url)} {error}") from None
        raise AssertionError("unreachable")

    def _request(self, program: Program) -> dict[str, Any]:
        config = self._config
        return {
            "code": script(program, config, replies_on_stdout=True, uid=0),
            "stdin": program.stdin.decode("utf-8", "replace") if program.entry is None else "",
            "language": "python",
            "compile_timeout": _COMPILE_S,
            "run_timeout": config.wall_s,
            # The script limits its own address space; the server's way would limit the stack too.
            "memory_limit_MB": -1,
            "files": {},
            "fetch_files": [],
        }

    async def _post(self, url: str, request: dict[str, Any]) -> bytes | None:
        """The answer's bytes; None for one so long that only a flood of output explains it."""
        import httpx

        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            timeout = httpx.Timeout(None, connect=_CONNECT_S)
            self._client = httpx.AsyncClient(limits=limits, timeout=timeout)
        most_s = self._config.wall_s + _COMPILE_S + self._config.remote.request_s
        # JSON may write six bytes for one, and stdout and stderr are both there.
        most = 12 * (self._config.output_kb << 10) + (1 << 20)
        try:
            async with (
                asyncio.timeout(most_s),
                self._client.stream("POST", f"{url}/run_code", json=request) as response,
            ):
                if response.status_code == 429 or response.status_code >= 500:
                    raise _Passing(f"answered {response.status_code}")
                if response.status_code != 200:
                    raise PlaceBroken(f"{_host(url)} answered {response.status_code}")
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > most:
                        return None
                return bytes(body)
        except TimeoutError:
            raise PlaceBroken(f"{_host(url)} gave no answer within {most_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Passing(f"could not be reached ({type(error).__name__})") from None

    def _result(self, program: Program, body: bytes | None) -> Result:
        config = self._config
        if body is None:
            why = f"wrote more than {config.output_kb} KiB"
            return Result(Ended.ERROR, why, self.name)
        try:
            answer = json.loads(body)
            run = answer["run_result"] or {}
            status, code = run.get("status"), run.get("return_code")
            if answer["status"] not in ("Success", "Failed"):
                raise PlaceBroken(f"the server failed: {_words(answer)}")
            stdout, stderr = (_bytes(run.get(key)) for key in ("stdout", "stderr"))
            wall_s = float(run.get("execution_time") or 0.0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PlaceBroken("the server's answer is not SandboxFusion's") from None
        overdue = status == "TimeLimitExceeded"
        if overdue:
            code = 0
        elif status != "Finished" or type(code) is not int:
            raise PlaceBroken(f"the server failed: {_words(answer)}")
        calls = program.entry is not None
        return ended(
            program,
            config,
            self.name,
            code=code,
            overdue=overdue,
            stdout=b"" if calls else stdout,
            stderr=stderr,
            replies=stdout if calls else b"",
            wall_s=wall_s,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _host(url: str) -> str:
    """For messages: the address without a password that may be in it."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _bytes(text: Any) -> bytes:
    if text is None:
        return b""
    if type(text) is not str:
        raise TypeError("not text")
    return text.encode("utf-8", "surrogatepass")


def _words(answer: dict[str, Any]) -> str:
    message = answer.get("message")
    return f"{answer.get('status')} {message if type(message) is str else ''}".strip()[:200]
