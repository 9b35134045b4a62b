"""Signals to real processes, with stand-ins for Ray and vLLM: what tests/e2e/test_worker_faults.py
does with engines, in seconds."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from conjoint.envs.marks import mark_environment
from conjoint.envs.types import StopRun
from conjoint.rollouts.engine.admission import Load
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.belongings import Belongings
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.engine.vllm_worker import Sampled, SampleResult
from conjoint.rollouts.engine.worker_set import EngineWorker, WorkerSet
from tests.rollouts.engine.stand_in import StandIn

pytestmark = pytest.mark.timeout(180)
ROLES = ("actor", "core", "worker")


class Results(StandIn):
    """Answers of the engine's own type."""

    def remote(self, method: str, *args: Any) -> Any:
        wait = super().remote(method, *args)
        return self._results(wait) if method == "sample" else wait

    async def _results(self, wait: Any) -> Sampled:
        results = [SampleResult([seed], [-1.0], "stop", [0]) for seed in await wait]
        return Sampled(results, Load(len(results), 1, 0.0, 0, 0, 0))


def launch(slot: int) -> EngineWorker:
    mark = f"test-{uuid4().hex}"
    handle = Results(mark_environment(mark))
    return EngineWorker(slot, handle, Belongings(mark), handle.process.kill)


@pytest.fixture
async def engine() -> AsyncIterator[VllmEngine]:
    cfg = RolloutConfig(engines=2, heartbeat_s=0.2, hang_timeout_s=5.0)
    made = VllmEngine(WorkerSet(launch, cfg, backoff_s=0.01), cfg)
    await made.ready([1], 60)
    made.use_loaded_weights()
    yield made
    await made.close()


def process_of(worker: EngineWorker, role: str) -> int:
    (pid,) = (p for p in worker.belongings.note() if role in psutil.Process(p).cmdline())
    return pid


def ask(engine: VllmEngine, count: int) -> list["asyncio.Task[Any]"]:
    return [
        asyncio.ensure_future(
            engine([5], max_tokens=4, temperature=1.0, seed=i, session=f"{i // 4}")
        )
        for i in range(count)
    ]


async def gone(worker: EngineWorker) -> bool:
    async with asyncio.timeout(60):
        while worker.belongings.processes() or any(map(os.path.exists, worker.belongings.segments)):
            await asyncio.sleep(0.05)
    return True


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_process_loses_no_answer_and_leaves_nothing(
    engine: VllmEngine, role: str, number: int
):
    worker = engine._set.slots[0]
    pid = process_of(worker, role)
    assert len(worker.belongings.segments) == 1 and Path(*worker.belongings.segments).exists()
    asked = ask(engine, 16)
    await asyncio.sleep(0.1)
    held = worker.load
    assert held and not any(task.done() for task in asked)
    os.kill(pid, number)
    answers = await asyncio.gather(*asked)
    assert [a.tokens for a in answers] == [[i] for i in range(16)]
    metrics = engine.drain_metrics()
    assert metrics["engine/deaths"] == 1.0 and metrics["engine/requeued"] == held
    assert await gone(worker)
    async with asyncio.timeout(60):
        while len(engine._set.up) < 2:
            await asyncio.sleep(0.05)
    assert engine._set.slots[0] is not worker


@pytest.mark.parametrize("role", ROLES)
async def test_an_idle_worker_whose_process_stops_is_found(engine: VllmEngine, role: str):
    worker = engine._set.slots[1]
    os.kill(process_of(worker, role), signal.SIGSTOP)
    async with asyncio.timeout(60):
        while worker.up:
            await asyncio.sleep(0.05)
    assert "did not answer a heartbeat within 5 s" in worker.words
    assert await gone(worker)


async def test_four_deaths_in_a_row_end_the_run_and_nothing_stays(engine: VllmEngine):
    seen: list[EngineWorker] = []
    async with asyncio.timeout(120):
        while engine._set._stop is None:
            worker = engine._set.slots[0]
            pids = worker.belongings.processes()
            if pids and not worker.words:
                seen.append(worker)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[0], signal.SIGKILL)
            await asyncio.sleep(0.02)
    with pytest.raises(StopRun, match="vllm-0 died 4 times in a row"):
        await engine.pause()
    assert len(set(seen)) == 4
    everyone = [*seen, *engine._set.slots]
    await engine.close()
    assert all([await gone(worker) for worker in everyone])
