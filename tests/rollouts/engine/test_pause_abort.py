"""Frozen, taken out, gone on with, in every order; with fake workers. What real engines do to the
log-probs is in tests/e2e/test_in_flight.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conjoint.envs.types import Completion, StopRun
from tests.rollouts.engine.fake_workers import Fakes, Sent, settled

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    made = await Fakes(heartbeat_s=5, hang_timeout_s=10).ready()
    yield made
    await made.engine.close()


async def running(fakes: Fakes) -> list["asyncio.Task[Any]"]:
    """Calls that workers have and do not end."""
    fakes.sample_gate.clear()
    calls = fakes.ask("group", 1, 2) + fakes.ask("other", 3)
    await settled()
    return calls


async def ends(calls: list["asyncio.Task[Any]"]) -> list[str]:
    async with asyncio.timeout(2):
        return [c.stop_reason for c in await asyncio.gather(*calls)]


async def test_abort_ends_what_runs_and_what_was_asked_for_in_the_same_tick(fakes: Fakes):
    calls = await running(fakes) + fakes.ask("late", 4)
    await asyncio.sleep(0)
    await fakes.engine.abort()
    assert all(c.done() for c in calls)
    assert await ends(calls) == ["abort"] * 4
    fakes.sample_gate.set()
    assert await ends(fakes.ask("group", 5)) == ["stop"]


async def test_abort_is_said_again_to_a_call_that_reaches_its_worker_after_it(fakes: Fakes):
    actor = fakes.launched[0]
    arrives = asyncio.Event()
    sample = actor._sample

    async def travels_slowly(requests: list[Any]) -> Any:
        await arrives.wait()
        return await sample(requests)

    actor._sample = travels_slowly
    fakes.sample_gate.clear()
    calls = fakes.ask("group", 1)
    await settled()
    aborting = asyncio.ensure_future(fakes.engine.abort())
    await settled()
    assert ("abort",) in actor.calls and not aborting.done()
    arrives.set()
    assert await ends(calls) == ["abort"]
    await aborting


async def test_an_abort_with_nothing_running_disturbs_nothing(fakes: Fakes):
    await fakes.engine.abort()
    await fakes.engine.pause(drain=False)
    await fakes.engine.abort()
    await fakes.engine.resume()
    assert await ends(fakes.ask("group", 1)) == ["stop"]


async def test_frozen_calls_are_taken_out_and_those_that_came_since_wait_for_resume(fakes: Fakes):
    calls = await running(fakes)
    await fakes.engine.pause(drain=False)
    fakes.sample_gate.set()
    late = fakes.ask("late", 4)
    await settled()
    assert not any(c.done() for c in calls), "a frozen call went on"
    await fakes.engine.abort()
    assert await ends(calls) == ["abort"] * 3
    assert not late[0].done()
    await fakes.engine.resume()
    assert await ends(late) == ["stop"]


async def test_a_pause_that_drains_lets_what_was_frozen_end_first(fakes: Fakes):
    """A plain sync after a pause in flight: it would wait for ever for calls that nothing moves."""
    calls = await running(fakes)
    await fakes.engine.pause(drain=False)
    await fakes.engine.pause(drain=False)
    fakes.sample_gate.set()
    async with asyncio.timeout(2):
        await fakes.engine.pause()
    assert await ends(calls) == ["stop"] * 3
    late = fakes.ask("late", 4)
    await settled()
    assert not late[0].done()
    await fakes.engine.resume()
    assert await ends(late) == ["stop"]


async def test_frozen_calls_do_not_go_on_with_weights_that_no_engine_confirmed(fakes: Fakes):
    calls = await running(fakes)
    await fakes.engine.pause(drain=False)
    fakes.launched[0].receipts = [{"version": 1, "checksum": "of something else"}]
    with pytest.raises(StopRun, match="answered the weight sync"):
        await fakes.engine.load_weights(Sent(1), 1)
    for go_on in (fakes.engine.resume, fakes.engine.pause):
        with pytest.raises(StopRun, match="must not sample"):
            await go_on()
    await fakes.engine.abort()
    assert await ends(calls) == ["abort"] * 3


async def test_an_abort_ends_a_pause_that_drains(fakes: Fakes):
    calls = await running(fakes)
    pausing = asyncio.ensure_future(fakes.engine.pause())
    await settled()
    assert not pausing.done()
    await fakes.engine.abort()
    async with asyncio.timeout(2):
        await pausing
    assert await ends(calls) == ["abort"] * 3


async def test_an_aborted_answer_keeps_its_tokens_log_probs_and_versions(fakes: Fakes):
    calls = await running(fakes)
    await fakes.engine.abort()
    first = await calls[0]
    assert first == Completion([1], [-1.0], "abort", 0, "vllm-0", [])
