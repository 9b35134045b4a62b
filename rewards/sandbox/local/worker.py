"""One zygote as the grader sees it: start, one job at a time, end. Only exec, never fork.

Owns the child process and the socket to it. Anything unexpected on that socket is `WorkerBroken`:
the worker is then killed and never used again.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.base import Answer, Call, Ended, Program, Result
from conjoint.rewards.sandbox.inside.starts import CALL, COMPILE, COMPILE_WALL_S
from conjoint.rewards.sandbox.spec import PREFIX_BYTES, Spec, frame, lengths, split

_START_S = 30.0
_WARM_START_S = 120.0
"""With packages to import, which takes seconds of a free core."""
_GRACE_S = 15.0
"""Beyond the wall limit, for forking, set-up and tear-down on a loaded machine."""
_SCRIPT = os.path.abspath(__file__ + "/../../inside/zygote.py")
# A fixed hash seed, so that the same program gives the same output in every run.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")


class WorkerBroken(Exception):
    """The zygote or its jail failed; says nothing about the program that was running."""


class Worker:
    """A started zygote. Make one with `Worker.start`."""

    def __init__(
        self,
        spec: Spec,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.spec = spec
        self.process = process
        self._socket = sock
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def start(spec: Spec) -> "Worker":
        """Exec a zygote and wait until it has locked itself in. Raises WorkerBroken with the step
        that was refused."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [getattr(sys, "_base_executable", sys.executable), *_FLAGS, _SCRIPT],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT | ({"PYTHONHOME": spec.home} if spec.home else {}),
                cwd="/",
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 22)
        worker = Worker(spec, process, ours, reader, writer)
        try:
            start_s = _WARM_START_S if spec.warm else _START_S
            hello, _ = await worker._exchange(frame(spec.header()), start_s)
            if not hello["ok"]:
                raise WorkerBroken(hello["why"])
        except BaseException:
            await worker.end(0.0)
            raise
        return worker

    async def run(self, program: Program, how: str, compiled: bytes = b"") -> Result:
        """Run one program, as `how` of starts.py says; `compiled` is what a compiler made of it.
        Raises WorkerBroken if the jail failed or reported that it did."""
        source = compiled or program.code
        payload = program.stdin if program.entry is None else encode_calls(program.calls)
        request = frame({"how": how, "entry": program.entry}, source, payload)
        header, parts = await self._exchange(request, self.spec.wall_s + _GRACE_S)
        answers = read_answers(parts[2], len(program.calls)) if program.entry else []
        return self._result(header, parts, tuple(answers))

    async def talk(
        self, how: str, source: bytes, entry: str, payload: bytes, pipes: list[int]
    ) -> Result:
        """Run a program that reads the first of `pipes` and answers on the second. Once it has
        them they are closed here, and taken out of the list. It is ended when whoever holds the
        other ends closes them."""
        request = frame({"how": how, "entry": entry}, source, payload)
        header, parts = await self._exchange(request, self.spec.wall_s + _GRACE_S, pipes)
        return self._result(header, parts, ())

    async def compile(self, source: str) -> tuple[Result, bytes]:
        """How the compiler ended, and the program that it made (empty if it made none)."""
        request = frame(
            {"how": COMPILE, "entry": None}, source.encode("utf-8", "surrogatepass"), b""
        )
        header, parts = await self._exchange(request, COMPILE_WALL_S + _GRACE_S)
        result = self._result(header, parts, ())
        if result.ended is Ended.ERROR:
            why = next((line for line in _lines(result.stderr) if "error" in line), result.reason)
            result = replace(result, reason=f"does not compile: {why[:200]}")
        return result, parts[2]

    async def call(self, function: str, arguments: bytes, wall_s: float) -> tuple[str, str, bytes]:
        """One call of the verifier profile: how it ended, why, and the reply that it wrote."""
        request = frame({"how": CALL, "entry": function, "wall_s": wall_s}, b"", arguments)
        header, parts = await self._exchange(request, wall_s + _GRACE_S)
        if header["ended"] == Ended.INFRA_ERROR:
            raise WorkerBroken(header["reason"])
        return header["ended"], header["reason"], parts[2]

    def _result(
        self, header: dict[str, Any], parts: list[bytes], answers: tuple[Answer, ...]
    ) -> Result:
        ended = Ended(header["ended"])
        if ended is Ended.INFRA_ERROR:
            raise WorkerBroken(header["reason"])
        stdout, stderr, _ = parts
        reason = header["reason"]
        if ended is Ended.ERROR and (last := _last_line(stderr)):
            reason = f"{reason}: {last}"
        wall_s, cpu_s = header["wall_s"], header["cpu_s"]
        return Result(ended, reason, self.spec.tier, stdout, stderr, answers, wall_s, cpu_s)

    async def _exchange(
        self, request: bytes, timeout_s: float, pipes: list[int] | None = None
    ) -> tuple[dict[str, Any], list[bytes]]:
        try:
            async with asyncio.timeout(timeout_s):
                if pipes:
                    self._hand_over(request[:1], pipes)
                    request = request[1:]
                self._writer.write(request)
                await self._writer.drain()
                head, body = lengths(await self._reader.readexactly(PREFIX_BYTES))
                data = await self._reader.readexactly(head + body)
        except TimeoutError:
            raise WorkerBroken(f"the jail did not answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise WorkerBroken(f"the jail's zygote ended ({type(error).__name__})") from None
        return split(data[:head], data[head:])

    def _hand_over(self, first: bytes, pipes: list[int]) -> None:
        """Send the first byte of a request with descriptors. They are closed here in any case:
        whoever reads the other ends must see it if nobody holds these any more."""
        try:
            socket.send_fds(self._socket, [first], pipes)
        finally:
            while pipes:
                os.close(pipes.pop())

    async def end(self, patience_s: float = 2.0) -> None:
        """Close the socket, upon which the zygote ends; kill it if it does not."""
        self._writer.close()
        waited = 0.0
        while self.process.poll() is None:
            if waited >= patience_s:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
            await asyncio.sleep(0.005)
            waited += 0.005


def encode_calls(calls: Sequence[Sequence[Any] | Call]) -> bytes:
    """What a solution reads. Raises CodecError for what is not plain data."""
    return codec.dumps(
        [
            [[*map(codec.encode, c.args)], {k: codec.encode(v) for k, v in c.kwargs.items()}]
            for c in map(Call.of, calls)
        ]
    )


def read_answers(replies: bytes, calls: int) -> list[Answer]:
    """The reply lines, at most one for each call; a torn last line is dropped."""
    answers = []
    for line in replies.split(b"\n")[:-1][:calls]:
        try:
            kind, body = codec.loads(line)
        except (ValueError, TypeError):
            answers.append(Answer(problem="sent something that is not an answer"))
            continue
        if kind == "value":
            answers.append(Answer(wire=body))
        else:
            # Words only: showing a hostile structure could fail, and would then be our error.
            text = body[:200] if type(body) is str else "something that is not an answer"
            answers.append(Answer(problem=text, raised=kind != "refused"))
    return answers


def _last_line(stderr: bytes) -> str:
    lines = _lines(stderr)
    return lines[-1][:200] if lines else ""


def _lines(stderr: bytes) -> list[str]:
    return stderr.decode(errors="replace").strip().splitlines()
