"""The pool's side of assert tests: a solution and a checker, each in its jail, and calls between.

Owns the pipes, the relay and what becomes of it. A line from a solution is passed on as it is and
never read here; the checker, whose code and tests are ours, tells calls from the verdict.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace

from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.base import Ended, Program, Result
from conjoint.rewards.sandbox.inside.starts import CHECK
from conjoint.rewards.sandbox.local.worker import Worker

_GONE = b'["gone"]\n'
_MAX_CALL = 8 << 20
"""Bytes of one line of a checker: a call with its arguments."""


class Line:
    """Two pipes to one jailed process: `send` writes to its input, `receive` reads its lines."""

    def __init__(self, cap: int) -> None:
        theirs_in, self._in = os.pipe()
        self._out, theirs_out = os.pipe()
        self.theirs = [theirs_in, theirs_out]
        """Its ends, until it has them: see `Worker.talk`."""
        self._cap = cap
        self._buffer = bytearray()
        self.over = False
        """Whether it wrote a line longer than `cap` bytes; nothing is read after that."""
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    async def send(self, line: bytes) -> bool:
        """Whether somebody still reads there; waits while the pipe is full."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                await _ready(self._in, asyncio.get_running_loop().add_writer)
            except OSError:
                return False
        return True

    async def receive(self) -> bytes | None:
        """The next line; None when there will be none."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._cap:
                self.over = True
                return None
            try:
                piece = os.read(self._out, 1 << 16)
            except BlockingIOError:
                await _ready(self._out, asyncio.get_running_loop().add_reader)
                continue
            if not piece:
                return None
            self._buffer += piece
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def close(self) -> None:
        """Upon which the process at the other end is ended. May be called twice."""
        if self._in >= 0:
            for descriptor in (self._in, self._out, *self.theirs):
                os.close(descriptor)
        self._in = self._out = -1


async def _ready(descriptor: int, add: Callable[..., None]) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    remove = loop.remove_writer if add == loop.add_writer else loop.remove_reader
    add(descriptor, lambda: future.done() or future.set_result(None))
    try:
        await future
    finally:
        remove(descriptor)


async def run_tests(program: Program, solution: Worker, how: str, checker: Worker) -> Result:
    """Run the source of a program, as `how` of starts.py says, and its checker at once. Raises
    WorkerBroken if a jail failed."""
    entry = program.entry
    assert entry is not None
    ours, tests = Line(solution.spec.output_kb << 10), Line(_MAX_CALL)
    tests_source = program.checker.encode("utf-8", "surrogatepass")
    goes_on = codec.dumps(program.every_case)
    jobs = [
        asyncio.ensure_future(solution.talk(how, program.code, entry, b"", ours.theirs)),
        asyncio.ensure_future(checker.talk(CHECK, tests_source, entry, goes_on, tests.theirs)),
    ]
    try:
        with contextlib.closing(ours), contextlib.closing(tests):
            verdict, cases = await _relay(ours, tests)
        ran, checked = await asyncio.gather(*jobs)
    except BaseException:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        raise
    if verdict is None:
        # By its own limits, which a huge or slow answer can also reach: never a pass, nor masked.
        ended = Ended.TIMEOUT if checked.ended is Ended.TIMEOUT else Ended.ERROR
        why = f"the tests: {_why(checked)}"
        return replace(ran, ended=ended, reason=why, passed=False, cases=cases)
    return _result(*verdict, cases, ran, ours.over)


async def _relay(solution: Line, checker: Line) -> tuple[tuple[str, str] | None, tuple[int, int]]:
    """(the verdict's kind and words, or None without one; cases passed and all cases)."""
    cases = (0, 0)
    while (line := await checker.receive()) is not None:
        mark, body = line[:1], line[1:]
        if mark == b"c":
            await solution.send(body)  # where nobody reads any more, the answer tells
            answer = await solution.receive()
            if not await checker.send(_GONE if answer is None else answer):
                break
        elif mark == b"p":
            passed, every = codec.loads(body)
            cases = (passed, every)
        else:
            kind, text = codec.loads(body)
            return (kind, text), cases
    return None, cases


def _result(kind: str, text: str, cases: tuple[int, int], ran: Result, over: bool) -> Result:
    ran = replace(ran, passed=kind == "passed", cases=cases)
    if kind == "passed":
        return replace(ran, ended=Ended.FINISHED, reason="")
    if kind == "unusable":
        return replace(ran, ended=Ended.INFRA_ERROR, reason=f"unusable reference: {text}")
    if kind == "gone":
        ended = Ended.TIMEOUT if ran.ended is Ended.TIMEOUT else Ended.ERROR
        why = "wrote too long an answer" if over else _why(ran)
        return replace(ran, ended=ended, reason=f"{text}: {why}")
    ended = Ended.ERROR if kind == "raised" else Ended.FINISHED
    return replace(ran, ended=ended, reason=text)


def _why(result: Result) -> str:
    return result.reason or "the program ended"
