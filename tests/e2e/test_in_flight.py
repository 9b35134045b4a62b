"""New weights while answers are under way, on real engines: every token's log-prob is that of the
weights which its version names, whatever happened to its answer between."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from conjoint.envs.types import ConjointError
from conjoint.rl.models.resolve import SMOLLM2, resolve_model
from tests.e2e.shared_engines import REQUESTS, TEMPERATURE, Rig, nano, several, tiny

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def others(
    ray_running: None,
    watched: None,
    endless: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[dict[str, Rig]]:
    """An untied model with a KV cache that is too small, so that vLLM preempts answers of its own
    accord as well; nano's shape; and SmolLM2, where its weights are installed."""
    folder, small = tmp_path_factory.mktemp("others"), {"num_gpu_blocks_override": 80}
    untied = tiny(folder / "untied", tied=False)
    made = {
        "untied": Rig.launch(untied, 0.5, 256, 160, **endless, **small),
        "nano": Rig.launch(nano(folder / "nano"), 0.3, 768, 160, **endless),
    }
    with contextlib.suppress(ConjointError):
        made["smollm2"] = Rig.launch(resolve_model(SMOLLM2), 0.02, 49152, 24, **endless)
    try:
        await asyncio.gather(*(rig.ready() for rig in made.values()))
        yield made
    finally:
        await asyncio.gather(*(rig.close() for rig in made.values()))


async def updated_midway(rig: Rig, drawn: int = 8, most: float = 1e-4) -> dict[str, float]:
    """An update in the middle of 32 requests; the engine's figures of it."""
    rig.engine.drain_metrics()
    calls = rig.ask()
    await rig.midway(calls, drawn)
    await rig.update(drain=False)
    completions = await asyncio.gather(*calls)
    assert [len(c.tokens) for c in completions] == [rig.max_tokens] * REQUESTS
    trajectories = rig.record(completions)
    assert several(trajectories) == REQUESTS
    rig.check(trajectories, most=most)
    assert rig.gaps(trajectories, shift=1).mean() > 0.01, "the versions do not differ"
    return rig.engine.drain_metrics()


async def test_an_update_in_the_middle_of_32_requests(rig: Rig):
    metrics = await updated_midway(rig)
    # The update drops the KV of 32 requests; that is no sign of a cache which is too small.
    assert metrics["engine/preemptions"] == 0 and metrics["engine/kv_usage"] < 0.9
    assert rig.engine.capacity >= 256


@pytest.mark.proof
@pytest.mark.parametrize(
    ("name", "drawn", "most"), [("untied", 8, 1e-4), ("nano", 8, 1e-4), ("smollm2", 4, 1e-2)]
)
async def test_an_update_in_the_middle_on_other_models(
    others: dict[str, Rig], name: str, drawn: int, most: float
):
    if name not in others:
        pytest.skip("make smollm2")
    metrics, crowded = await updated_midway(others[name], drawn, most), name == "untied"
    assert (metrics["engine/preemptions"] > 0) == crowded
    assert (metrics["engine/kv_usage"] > 0.9) == crowded
    assert (others[name].engine.capacity < 256) == crowded


async def test_the_share_of_prompts_that_the_prefix_cache_had(rig: Rig):
    rig.engine.drain_metrics()
    prompt = list(range(10, 80))  # two blocks of 32 tokens, and six more
    ask = {"max_tokens": 2, "temperature": TEMPERATURE, "session": "prefix"}
    await asyncio.gather(*(rig.engine(prompt, seed=i, **ask) for i in range(8)))
    assert rig.engine.drain_metrics()["engine/prefix_hits"] == pytest.approx(7 * 64 / (8 * 70))


async def test_what_was_drawn_before_the_update_is_as_without_it(rig: Rig):
    whole = await asyncio.gather(*rig.ask())
    calls = rig.ask()
    await rig.midway(calls)
    await rig.update(drain=False)
    for before, after in zip(whole, await asyncio.gather(*calls), strict=True):
        kept = after.versions.count(rig.version - 1)
        assert kept >= 8 and before.tokens[:kept] == after.tokens[:kept]
        assert before.logprobs[:kept] == after.logprobs[:kept]


async def test_stale_kv_of_frozen_requests_does_not_pass(rig: Rig):
    await rig.tell("keep_stale_kv", True)
    calls = rig.ask()
    await rig.midway(calls)
    await rig.update(drain=False)
    trajectories = rig.record(await asyncio.gather(*calls))
    await rig.tell("keep_stale_kv", False)
    assert several(trajectories) == REQUESTS
    with pytest.raises(AssertionError, match="they differ"):
        rig.check(trajectories)
    assert rig.gaps(trajectories).max() > 0.01
    await rig.update()  # which leaves nothing of it to those that follow


async def test_taken_out_and_gone_on_with_on_another_engine(rig: Rig):
    """Frozen, loaded, gone on, taken out, then asked for again: three versions in one answer."""
    calls = rig.ask(session="here")
    await rig.midway(calls)
    await rig.update(drain=False)
    await rig.midway(calls, 24)
    await rig.engine.abort()
    first = await asyncio.gather(*calls)
    assert {c.stop_reason for c in first} == {"abort"}
    assert all(len(c.tokens) == len(c.logprobs) == len(c.versions) for c in first)
    parts = rig.record(first)
    rig.check(parts)

    await rig.update()
    before = [(list(t.behavior_logprobs), list(t.versions)) for t in parts]
    hog = asyncio.ensure_future(
        rig.engine([5], max_tokens=100, temperature=1.0, seed=0, session="hog")
    )
    await asyncio.sleep(0)
    rest = await asyncio.gather(*rig.ask(parts, session="there"))
    again = await asyncio.gather(*rig.ask(parts, session="there"), hog)
    assert [c.tokens for c in again[:-1]] == [c.tokens for c in rest], "a seed names one rest"
    assert {c.engine for c in first}.isdisjoint({c.engine for c in rest})
    whole = rig.record(rest, parts)
    rig.check(whole)
    for t, (logprobs, versions) in zip(whole, before, strict=True):
        assert t.behavior_logprobs[: len(logprobs)] == logprobs
        assert t.versions[: len(versions)] == versions
    assert all(len(set(t.versions) - {-1}) == 3 for t in whole)


async def test_pause_abort_and_resume_in_any_order(rig: Rig):
    frozen = rig.ask()
    await rig.midway(frozen)
    await rig.engine.pause(drain=False)
    late = asyncio.ensure_future(rig.engine([5, 6], max_tokens=4, temperature=1.0, seed=0))
    await rig.engine.abort()
    parts = rig.record(await asyncio.gather(*frozen))
    assert not late.done()
    await rig.load()
    await rig.engine.resume()
    assert (await late).versions == [rig.version] * len((await late).tokens)

    running = rig.ask(parts)
    await rig.midway(running, 2)
    await rig.engine.abort()
    await rig.engine.pause(drain=False)
    await rig.engine.abort()
    await rig.load()
    await rig.engine.resume()
    parts = rig.record(await asyncio.gather(*running), parts)

    frozen = rig.ask(parts)
    await rig.midway(frozen, 2)
    await rig.engine.pause(drain=False)
    await rig.load()
    await rig.engine.abort()
    await rig.engine.resume()
    parts = rig.record(await asyncio.gather(*frozen), parts)

    frozen = rig.ask(parts)
    await rig.midway(frozen, 2)
    await rig.engine.pause(drain=False)
    await rig.engine.pause()  # lets them end
    rest = await asyncio.gather(*frozen)
    await rig.engine.resume()
    whole = rig.record(rest, parts)
    assert [t.num_sampled for t in whole] == [rig.max_tokens] * REQUESTS
    assert several(whole) == REQUESTS
    rig.check(whole)


async def test_no_answer_is_lost_or_doubled_when_an_engine_dies(rig: Rig):
    """It loses its engine core. What runs is answered as it would have been, and what was taken out
    before goes on, on the other engine and on the one that replaces it."""
    calls = rig.ask()
    await rig.midway(calls)
    await rig.engine.abort()
    parts = rig.record(await asyncio.gather(*calls))
    before = [(list(t.behavior_logprobs), list(t.versions)) for t in parts]
    await rig.update()
    undisturbed = await asyncio.gather(*rig.ask())
    rig.engine.drain_metrics()

    slot = rig.engine._set.slots[0]
    owned, deaths = slot.belongings.note(), rig.engine._set.deaths
    assert slot.belongings.segments
    calls = rig.ask()
    await rig.midway(calls)
    held = slot.load
    (core,) = (p for p in owned if named(p).startswith("VLLM::EngineCore"))
    os.kill(core, signal.SIGKILL)
    answers = await asyncio.wait_for(asyncio.gather(*calls), 500)
    assert [a.tokens for a in answers] == [a.tokens for a in undisturbed]
    assert {a.version for a in answers} == {rig.version}
    assert rig.engine._set.deaths - deaths == 1
    assert rig.engine.drain_metrics()["engine/requeued"] == held > 0
    async with asyncio.timeout(30):
        while slot.belongings.processes():
            await asyncio.sleep(0.1)
    assert not any(os.path.exists(path) for path in slot.belongings.segments)
    async with asyncio.timeout(400):
        while not rig.engine._set.slots[0].up:
            await asyncio.sleep(0.1)
    assert set(rig.engine._set.slots[0].belongings.note()).isdisjoint(owned)

    whole = rig.record(await asyncio.gather(*rig.ask(parts)), parts)
    for t, (logprobs, versions) in zip(whole, before, strict=True):
        assert t.behavior_logprobs[: len(logprobs)] == logprobs
        assert t.versions[: len(versions)] == versions
    assert several(whole) == REQUESTS
    rig.check(whole)


def named(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())
