"""What every `RolloutEngine` must do, as one list of checks: the fakes of unit tests, the plain
transformers engine and vLLM mean the same by pause, freeze, abort and version.

The checks run in their order on one engine that has not been given weights yet; each leaves it open
and idle. `Rig.load` gives it other weights for each version.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from conjoint.envs.types import Completion, StopRun
from conjoint.rollouts.engine.base import RolloutEngine
from conjoint.rollouts.weights.manifest import Sent

PROMPT = [15, 16, 17]
OTHER = [18, 19, 20, 21, 22, 23]


@dataclass
class Rig:
    engine: RolloutEngine
    send: Callable[[int], Sent]
    """Other weights for each version, in the buffer."""
    room: int
    """Tokens of an answer that takes a while."""
    version: int = -1

    async def load(self) -> None:
        self.version += 1
        sent = self.send(self.version)
        assert await self.engine.load_weights(sent, self.version) == sent.checksum
        assert self.engine.version == self.version

    def start(self, count: int = 4, *, room: int = 0, session: str = "s") -> "Answers":
        calls = (
            self.engine(
                PROMPT if i % 2 else OTHER,
                max_tokens=room or self.room,
                temperature=0.7,
                seed=100 + i,
                session=session,
            )
            for i in range(count)
        )
        return asyncio.gather(*calls)


Answers = asyncio.Future[list[Completion]]


async def refuses_before_the_first_weights(rig: Rig) -> None:
    with pytest.raises(StopRun, match="must not sample"):
        await rig.start(1)
    await rig.engine.pause()
    await rig.load()
    await rig.engine.resume()


async def answers_are_aligned_and_end_within_their_room(rig: Rig) -> None:
    for answer in await rig.start(room=5):
        check(answer, {rig.version})
        assert 1 <= len(answer.tokens) <= 5 and answer.engine
        assert answer.stop_reason in ("stop", "length")
        assert (len(answer.tokens) == 5) or answer.stop_reason == "stop"


async def equal_seeds_give_equal_answers(rig: Rig) -> None:
    first, second = await rig.start(room=5), await rig.start(room=5)
    assert [(a.tokens, a.logprobs) for a in first] == [(a.tokens, a.logprobs) for a in second]


async def draining_lets_what_runs_end_and_new_requests_wait(rig: Rig) -> None:
    running = rig.start()
    await asyncio.sleep(0.05)
    await rig.engine.pause()
    ended = await asyncio.wait_for(running, 1)
    waiting = rig.start(room=3, session="other")
    old = rig.version
    await rig.load()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await rig.engine.resume()
    for answer in ended:
        check(answer, {old})
        assert answer.stop_reason != "abort"
    for answer in await waiting:
        check(answer, {rig.version})


async def freezing_loses_no_token_and_goes_on_under_new_weights(rig: Rig) -> None:
    running = await frozen(rig)
    old = rig.version
    await rig.load()
    await asyncio.sleep(0.05)
    assert not running.done()
    await rig.engine.resume()
    for answer in await running:
        check(answer, {old, rig.version})
        assert answer.versions == sorted(answer.versions)
        assert (answer.versions[0], answer.versions[-1]) == (old, rig.version)
        assert answer.stop_reason != "abort" and answer.version == rig.version


async def a_freeze_without_new_weights_changes_no_answer(rig: Rig) -> None:
    whole = await rig.start()
    running = await frozen(rig)
    await rig.engine.resume()
    assert [a.tokens for a in await running] == [a.tokens for a in whole]


async def aborted_answers_return_what_they_have(rig: Rig) -> None:
    whole = await rig.start()
    running = await frozen(rig)
    await rig.engine.abort()
    for answer, uncut in zip(await running, whole, strict=True):
        check(answer, {rig.version})
        assert answer.stop_reason == "abort"
        assert 0 < len(answer.tokens) < len(uncut.tokens)
        assert answer.tokens == uncut.tokens[: len(answer.tokens)]
    await rig.engine.resume()
    assert {a.stop_reason for a in await rig.start(room=3)} <= {"stop", "length"}


async def running_answers_can_be_aborted_without_a_pause(rig: Rig) -> None:
    running = rig.start()
    await asyncio.sleep(0.05)
    await rig.engine.abort()
    assert {a.stop_reason for a in await running} == {"abort"}


async def it_tells_its_logprobs_capacity_and_counts(rig: Rig) -> None:
    found = await rig.engine.prompt_logprobs(OTHER)
    assert len(found) == len(OTHER) - 1 and max(found) < 0
    assert rig.engine.capacity >= 1
    assert all(name.startswith("engine/") for name in rig.engine.drain_metrics())


Check = Callable[[Rig], Awaitable[None]]
CHECKS: list[Check] = [
    refuses_before_the_first_weights,
    answers_are_aligned_and_end_within_their_room,
    equal_seeds_give_equal_answers,
    draining_lets_what_runs_end_and_new_requests_wait,
    freezing_loses_no_token_and_goes_on_under_new_weights,
    a_freeze_without_new_weights_changes_no_answer,
    aborted_answers_return_what_they_have,
    running_answers_can_be_aborted_without_a_pause,
    it_tells_its_logprobs_capacity_and_counts,
]


def check(answer: Completion, versions: set[int]) -> None:
    """As many log-probs and versions as tokens, and no other versions than these."""
    drawn_by = answer.versions or [answer.version] * len(answer.tokens)
    assert len(answer.logprobs) == len(drawn_by) == len(answer.tokens)
    assert set(drawn_by) <= versions and max(answer.logprobs, default=0.0) <= 0


async def frozen(rig: Rig) -> Answers:
    """Answers stopped in their middle: after half the time that they take."""
    begun = time.monotonic()
    await rig.start()
    half = (time.monotonic() - begun) / 2
    for _ in range(5):  # a busy machine may be quicker the next time
        running = rig.start()
        await asyncio.sleep(half)
        await rig.engine.pause(drain=False)
        if not running.done():
            return running
        await rig.engine.resume()
    raise AssertionError("every answer ended before it could be stopped")
