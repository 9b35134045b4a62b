"""Workers that die or hang, with fakes: found, removed, replaced; nothing lost, nothing doubled.
Real processes are in tests/e2e/test_worker_faults.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rollouts.engine.actor import WorkerError
from conjoint.rollouts.engine.base import RolloutConfig
from tests.rollouts.engine.fake_workers import Fakes, Sent, settled

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    made = await Fakes().ready()
    yield made
    await made.engine.close()


def seeds(completions: list[Any]) -> list[int]:
    return [c.tokens[0] for c in completions]


# -- routing ----------------------------------------------------------------------------------


async def test_a_session_of_one_tick_is_one_call_and_goes_to_the_least_loaded(fakes: Fakes):
    fakes.sample_gate.clear()
    long = fakes.ask("long", 1, 2, 3)
    await settled()
    short = fakes.ask("short", 4)
    await settled()
    third = fakes.ask("third", 5)
    await settled()
    fakes.sample_gate.set()
    await asyncio.gather(*long, *short, *third)
    first, second = fakes.launched
    assert [c for c in first.calls if c[0] == "sample"] == [("sample", first.samples)]
    assert [r.seed for r in first.samples] == [1, 2, 3]
    assert [r.seed for r in second.samples] == [4, 5]


async def test_a_session_returns_to_its_worker_even_when_another_is_idle(fakes: Fakes):
    (answer,) = await asyncio.gather(*fakes.ask("turns", 1))
    fakes.sample_gate.clear()
    others = [t for name in "abcd" for t in fakes.ask(name, 9)]
    await settled()
    again = fakes.ask("turns", 2)
    await settled()
    fakes.sample_gate.set()
    assert (await again[0]).engine == answer.engine == "vllm-0"
    await asyncio.gather(*others)


async def test_calls_without_a_session_stick_to_no_worker(fakes: Fakes):
    fakes.sample_gate.clear()
    asked = []
    for seed in (1, 2):
        asked += fakes.ask("", seed)
        await settled()
    fakes.sample_gate.set()
    assert {c.engine for c in await asyncio.gather(*asked)} == {"vllm-0", "vllm-1"}


async def test_capacity_counts_who_is_up(fakes: Fakes):
    most = fakes.cfg.max_num_seqs
    assert fakes.engine.capacity == 2 * most
    fakes.start_gate.clear()
    fakes.launched[0].die()
    await asyncio.sleep(0.05)
    assert fakes.engine.capacity == most


# -- deaths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["die", "hang"])
async def test_what_a_lost_worker_had_is_asked_again_unchanged_and_answered_once(
    fakes: Fakes, how: str
):
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1, 2) + fakes.ask("b", 3)
    await settled()
    lost, kept = fakes.launched
    if how == "die":
        lost.die()
    else:
        lost.hangs = True
    await fakes.healed()
    fakes.sample_gate.set()
    completions = await asyncio.gather(*asked)
    assert seeds(completions) == [1, 2, 3]
    assert [c.engine for c in completions] == ["vllm-1"] * 3
    assert kept.samples[1:] == lost.samples
    await fakes.healed()
    assert fakes.belongings[0].reaped == 1 and fakes.belongings[1].reaped == 0
    for deaths, requeued in ((1.0, 2.0), (0.0, 0.0)):
        found = fakes.engine.drain_metrics()
        assert (found["engine/deaths"], found["engine/requeued"]) == (deaths, requeued)


async def test_a_long_answer_is_no_hang(fakes: Fakes):
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1)
    await asyncio.sleep(4 * fakes.cfg.hang_timeout_s)
    fakes.sample_gate.set()
    await asyncio.gather(*asked)
    assert len(fakes.launched) == 2


async def test_an_idle_worker_that_hangs_is_found_too(fakes: Fakes):
    fakes.launched[1].hangs = True
    async with asyncio.timeout(5):
        while len(fakes.launched) < 3:
            await asyncio.sleep(0.005)
    await fakes.healed()
    assert fakes.launched[2].slot == 1


async def test_a_heartbeat_that_fails_is_a_death(fakes: Fakes, monkeypatch):
    async def fail(method: str, *args: Any) -> Any:
        raise WorkerError("RuntimeError: Executor failed.")

    monkeypatch.setattr(fakes.launched[0], "remote", fail)
    async with asyncio.timeout(5):
        while len(fakes.launched) < 3:
            await asyncio.sleep(0.005)
    await fakes.healed()
    assert fakes.set.deaths == 1


async def test_a_worker_that_refuses_weights_stops_the_run_with_its_words(
    fakes: Fakes, monkeypatch
):
    real = fakes.launched[0].remote

    async def refuse(method: str, *args: Any) -> Any:
        if method == "load_weights":
            raise WorkerError("RuntimeError: weights arrived damaged")
        return await real(method, *args)

    monkeypatch.setattr(fakes.launched[0], "remote", refuse)
    with pytest.raises(
        StopRun, match="did not load weights: RuntimeError: weights arrived damaged"
    ):
        await fakes.sync(1)
    await fakes.engine.resume()
    with pytest.raises(StopRun, match="must not sample"):
        await asyncio.gather(*fakes.ask("a", 1))


async def test_with_no_worker_left_requests_wait_for_the_replacement():
    fakes = await Fakes(engines=1).ready()
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1, 2)
    await settled()
    fakes.launched[0].die()
    await settled()
    more = fakes.ask("b", 3)
    fakes.sample_gate.set()
    assert seeds(await asyncio.gather(*asked, *more)) == [1, 2, 3]
    await fakes.engine.close()


async def test_a_request_that_is_refused_is_its_callers_and_no_death(fakes: Fakes, monkeypatch):
    async def refuse(method: str, *args: Any) -> Any:
        raise ValueError("the prompt is too long")

    monkeypatch.setattr(fakes.launched[0], "remote", refuse)
    with pytest.raises(ValueError, match="too long"):
        await asyncio.gather(*fakes.ask("a", 1))
    assert fakes.set.deaths == 0


async def test_abort_also_ends_what_waits_for_a_replacement():
    fakes = await Fakes(engines=1).ready()
    fakes.start_gate.clear()
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1, 2)
    await settled()
    fakes.launched[0].die()
    await settled()
    await fakes.engine.abort()
    completions = await asyncio.gather(*asked)
    assert [(c.tokens, c.stop_reason) for c in completions] == [([], "abort")] * 2
    await fakes.engine.pause()  # does not wait for them
    await fakes.engine.close()


# -- the end of the run -----------------------------------------------------------------------


async def test_one_death_more_than_max_deaths_in_a_row_ends_the_run_with_the_workers_words():
    fakes = await Fakes(engines=1, max_deaths=3).ready()
    fakes.doomed = {0}
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1)
    await settled()
    fakes.launched[0].die()
    with pytest.raises(StopRun, match=r"vllm-0 died 4 times in a row.*max_deaths=3") as stop:
        await asyncio.gather(*asked)
    assert "no memory left" in str(stop.value) and "the core's own" in str(stop.value)
    assert len(fakes.launched) == 4
    for call in (fakes.engine.pause, fakes.engine.resume, fakes.engine.abort):
        with pytest.raises(StopRun, match="died 4 times"):
            await call()
    with pytest.raises(StopRun, match="died 4 times"):
        await asyncio.gather(*fakes.ask("b", 2))
    await fakes.engine.close()
    assert all(b.reaped for b in fakes.belongings)


async def test_an_answer_between_them_starts_the_count_anew():
    fakes = await Fakes(engines=1, max_deaths=1).ready()
    for seed in range(4):
        fakes.launched[-1].die()
        assert seeds(await asyncio.gather(*fakes.ask("a", seed))) == [seed]
    assert fakes.set.deaths == 4
    await fakes.engine.close()


async def test_a_slot_that_never_comes_back_ends_the_run_although_the_other_answers():
    fakes = await Fakes(max_deaths=2).ready()
    fakes.doomed = {1}
    fakes.launched[1].die()
    with pytest.raises(StopRun, match="vllm-1 died 3 times"):
        async with asyncio.timeout(5):
            while True:
                await asyncio.gather(*fakes.ask("a", 1))
                await asyncio.sleep(0.001)
    await fakes.engine.close()


async def test_a_worker_that_cannot_start_is_told_at_once_and_nothing_stays():
    fakes = Fakes()
    fakes.launched[1].die("unknown key")
    with pytest.raises(StopRun, match=r"vllm-1 did not start.*unknown key"):
        await fakes.ready()
    assert len(fakes.launched) == 2 and all(b.reaped for b in fakes.belongings)


async def test_where_no_replacement_can_be_given_the_weights_a_death_ends_the_run():
    fakes = await Fakes(replace=False).ready()
    fakes.launched[0].die()
    with pytest.raises(StopRun, match=r"only with weight_sync\.backend=shm"):
        async with asyncio.timeout(5):
            while True:
                await asyncio.gather(*fakes.ask("a", 1))
                await asyncio.sleep(0.001)
    assert len(fakes.launched) == 2
    await fakes.engine.close()


@pytest.mark.parametrize(
    "keys", [{"heartbeat_s": 0.0}, {"heartbeat_s": 9.0, "hang_timeout_s": 5.0}, {"max_deaths": -1}]
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any]):
    with pytest.raises(ConjointError, match=f"rollout.{next(iter(keys))}="):
        RolloutConfig(**keys).validate()


# -- weights ----------------------------------------------------------------------------------


async def test_a_replacement_loads_the_current_weights_before_it_samples(fakes: Fakes):
    await fakes.sync(7)
    fakes.launched[0].die()
    await fakes.healed()
    new = fakes.launched[2]
    assert new.version == 7
    names = [name for name, *_ in new.calls]
    assert names[:2] == ["ready", "load_weights"] and "sample" not in names[:2]


async def test_a_replacement_that_answers_with_other_weights_never_samples(fakes: Fakes):
    fakes.receipts = [{"version": 0, "checksum": "of something else"}]
    fakes.launched[0].die()
    for seed in range(50):
        (answer,) = await asyncio.gather(*fakes.ask(f"{seed}", seed), return_exceptions=True)
        if isinstance(answer, BaseException):
            break
        await asyncio.sleep(0.005)
    assert isinstance(answer, StopRun) and "of something else" in str(answer)
    assert not any(actor.samples for actor in fakes.launched[2:])


async def test_weights_sent_again_under_the_same_version_must_be_confirmed_again(fakes: Fakes):
    fakes.launched[0].receipts = [{"version": 0, "checksum": "of something else"}]
    with pytest.raises(StopRun, match="of something else"):
        await fakes.sync(0)
    await fakes.engine.resume()
    with pytest.raises(StopRun, match="must not sample"):
        await asyncio.gather(*fakes.ask("a", 1))


async def test_in_evaluation_a_replacement_loads_nothing():
    fakes = await Fakes().ready(version=None)
    fakes.engine.use_loaded_weights()
    fakes.launched[0].die()
    await fakes.healed()
    assert fakes.launched[2].version is None
    await asyncio.gather(*fakes.ask("a", 1))
    await fakes.engine.close()


@pytest.mark.parametrize("drain", [True, False])
async def test_a_replacement_does_not_join_while_weights_are_in_motion(fakes: Fakes, drain: bool):
    """Its load would read the buffer that is being overwritten."""
    await fakes.engine.pause(drain=drain)
    fakes.launched[0].die()
    await asyncio.sleep(0.05)
    # The dead worker is only found by a call, for no heartbeat runs in a sync.
    await fakes.engine.load_weights(Sent(5), 5)
    await asyncio.sleep(0.05)
    new = fakes.launched[2]
    assert [name for name, *_ in new.calls] == ["ready"] and not fakes.set.slots[0].up
    await fakes.engine.resume()
    await fakes.healed()
    assert new.version == 5 and ("resume",) not in new.calls


async def test_a_sync_waits_for_a_replacement_that_is_loading(fakes: Fakes, monkeypatch):
    loading, may_end = asyncio.Event(), asyncio.Event()
    real = fakes.engine._join

    async def slow(worker: Any) -> None:
        loading.set()
        await may_end.wait()
        await real(worker)

    monkeypatch.setattr(fakes.set, "join", slow)
    fakes.launched[0].die()
    await loading.wait()
    pausing = asyncio.ensure_future(fakes.engine.pause(drain=False))
    await asyncio.sleep(0.02)
    assert not pausing.done()
    may_end.set()
    await pausing
    assert ("pause", False) in fakes.launched[2].calls


async def test_requests_of_a_worker_that_dies_frozen_wait_for_resume(fakes: Fakes):
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1)
    await settled()
    await fakes.engine.pause(drain=False)
    fakes.launched[0].die()
    await settled()
    fakes.sample_gate.set()
    await asyncio.sleep(0.02)
    assert not fakes.launched[1].samples
    await fakes.engine.load_weights(Sent(1), 1)
    await fakes.engine.resume()
    assert seeds(await asyncio.gather(*asked)) == [1]


async def test_a_drain_ends_although_the_only_worker_dies_in_it():
    fakes = await Fakes(engines=1).ready()
    fakes.sample_gate.clear()
    asked = fakes.ask("a", 1, 2)
    await settled()
    pausing = asyncio.ensure_future(fakes.engine.pause())
    await settled()
    fakes.launched[0].die()
    fakes.sample_gate.set()
    await pausing
    assert seeds([t.result() for t in asked]) == [1, 2]
    assert fakes.launched[1].version == 0
    await fakes.engine.close()


@pytest.mark.parametrize("ticks", range(6))
async def test_close_ends_whenever_a_heartbeat_is_answered(monkeypatch, ticks: int):
    """An answer that arrives as its task is cancelled must not take the cancellation's place."""
    fakes = await Fakes(engines=1).ready()
    ping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    def remote(method: str, *args: Any) -> "asyncio.Future[None]":
        asked.set()
        return ping

    monkeypatch.setattr(fakes.launched[0], "remote", remote)
    await asked.wait()
    ping.set_result(None)
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await fakes.engine.close()
    assert fakes.belongings[0].reaped == 1
