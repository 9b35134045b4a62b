"""Learner and engine on one GPU: who is awake when. vLLM and the learner are stand-ins."""

import asyncio
from typing import Any

import pytest

from conjoint.envs.types import StopRun
from conjoint.rl.learner.colocated import ColocatedLearner
from conjoint.rl.weight_sync import PausedSync, WeightSyncConfig
from conjoint.rollouts.engine.actor import EngineActor
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.engine.load_meter import LoadMeter
from conjoint.rollouts.engine.vllm_worker import engine_args
from conjoint.rollouts.weights.manifest import Manifest
from tests.rollouts.engine.fake_workers import InProcess

SENT = Manifest("/dev/shm/none", 0, "x", 0, ())


class Llm:
    """Writes down what vLLM is asked for."""

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self.engine_core = self

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **keys: Any) -> Any:
            told = [a for a in (*args, *keys.values()) if isinstance(a, str | int | list)]
            self._log.append(" ".join(map(str, [name, *told])))
            return [{"version": 1, "checksum": "x"}] if name == "collective_rpc" else None

        return call


class Actor(EngineActor):
    """One that is ready without an answer: nothing here samples."""

    async def ready(self, stop_ids: list[int]) -> None:
        return None


class StepLearner:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    async def step(self, batch: Any, version: int) -> dict[str, float]:
        self._log.append(f"learner steps from {version}")
        return {"loss": 1.0}

    async def send_weights(self, sender: Any, version: int) -> Manifest:
        self._log.append("learner sends")
        return SENT


async def parts(log: list[str]) -> tuple[ColocatedLearner, VllmEngine]:
    worker = object.__new__(Actor)
    worker._llm, worker._asleep = Llm(log), False  # type: ignore[assignment]
    worker._meter = LoadMeter()
    engine = InProcess(worker, RolloutConfig(heartbeat_s=100)).engine
    await engine.ready([], 5)
    engine.use_loaded_weights()
    log.clear()
    return ColocatedLearner(StepLearner(log), engine), engine  # type: ignore[arg-type]


async def test_the_engine_sleeps_while_the_learner_steps_and_wakes_in_two_parts(monkeypatch):
    pytest.importorskip("vllm.distributed.weight_transfer.base")
    log: list[str] = []
    learner, engine = await parts(log)
    assert await learner.step(None, 0) == {"loss": 1.0}  # type: ignore[arg-type]
    assert log == ["pause_scheduler_async wait True", "sleep 2", "learner steps from 0"]
    log.clear()
    sync = PausedSync(WeightSyncConfig(probe_every=0), None, 9, 0)  # type: ignore[arg-type]
    await sync(learner, engine, 1)
    assert log == [
        "learner sends",
        "wake_up ['weights']",
        "collective_rpc load_update",
        "update_weight_version 1",
        "wake_up ['kv_cache']",
        "resume_generation",
    ]
    log.clear()
    await sync(learner, engine, 1)  # one that was not asleep, as before the first step
    assert "pause_scheduler_async wait True" in log and not any("wake_up" in call for call in log)


async def test_an_engine_that_sleeps_answers_nothing():
    log: list[str] = []
    learner, engine = await parts(log)
    await learner.step(None, 0)  # type: ignore[arg-type]
    waiting = asyncio.ensure_future(engine([5], max_tokens=1, temperature=1.0, seed=0))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await engine.resume()  # without new weights
    with pytest.raises(StopRun, match="must not sample"):
        await waiting


def test_sleep_mode_is_asked_for_only_where_it_is_used():
    for sleep in (False, True):
        assert engine_args("m", RolloutConfig(sleep=sleep), 0)["enable_sleep_mode"] is sleep
