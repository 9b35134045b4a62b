"""One contract over the engines that run without vLLM; all of them with Ray, and vLLM, are in
tests/e2e/test_engine_contract.py."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoint.rollouts.engine.actor import EngineActor, PlainActor
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.decoding import Decoder
from conjoint.rollouts.engine.vllm_worker import SampleRequest
from conjoint.rollouts.weights.manifest import Loaded
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.engine_contract import CHECKS, Rig
from tests.fakes import FakeEngine, tiny_llama
from tests.rollouts.engine.fake_workers import InProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), max_position_embeddings=256)


def worker(folder: Path, **keys: Any) -> PlainActor:
    return PlainActor(str(folder), config(**keys), 0, "shm")


def config(**keys: Any) -> RolloutConfig:
    return RolloutConfig(backend="transformers", max_model_len=256, threads=1, **keys)


@pytest.fixture(params=["fake", "transformers"])
async def rig(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "fake":
        engine = FakeEngine(lambda text, seed: "x" * 300, loaded=False, seconds_a_token=0.001)
        yield Rig(engine, lambda version: Loaded(f"of {version}"), room=200)
        return
    made = worker(folder)
    engine = InProcess(made, config()).engine
    await engine.ready([], 60)
    yield Rig(engine, weights(made, tmp_path), room=200)
    await engine.close()


def weights(made: PlainActor, tmp_path: Path) -> Any:
    named = {n: p.clone() for n, p in made._decoder.model.named_parameters()}
    sender = SharedMemorySender(str(tmp_path / "buffer"))
    return lambda version: sender.send(((n, p * 0.9**version) for n, p in named.items()), version)


async def test_every_check_of_the_contract(rig: Rig):
    for check in CHECKS:
        await check(rig)


# -- the plain worker itself ------------------------------------------------------------------


async def test_a_damaged_buffer_is_refused_and_never_confirmed(folder: Path, tmp_path: Path):
    made = worker(folder)
    sent = weights(made, tmp_path)(3)
    before = made._decoder.model.model.norm.weight.clone()
    with open(sent.path, "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(RuntimeError, match="version 3 arrived damaged"):
        await made.load_weights(sent.update_info(), 3)
    assert await made.load_weights(None, 3) == [None]
    assert torch.equal(made._decoder.model.model.norm.weight, before)


async def test_a_session_larger_than_a_batch_is_answered_in_parts(folder: Path, monkeypatch):
    sizes: list[int] = []
    whole = Decoder.batch
    monkeypatch.setattr(
        Decoder, "batch", lambda self, part: sizes.append(len(part)) or whole(self, part)
    )
    made = worker(folder, max_num_seqs=3)
    sampled = await made.sample([SampleRequest([5, 6], 4, 1.0, seed) for seed in range(7)])
    assert sizes == [3, 3, 1] and len(sampled.results) == sampled.load.active == 7


async def test_the_worker_answers_while_a_step_runs_and_a_freeze_waits_for_that_step(
    folder: Path, monkeypatch
):
    made = worker(folder)
    steps: list[str] = []
    inner = made._decoder.model.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        import time

        steps.append("begins")
        time.sleep(0.05)
        steps.append("ends")
        return inner(*args, **kwargs)

    monkeypatch.setattr(made._decoder.model, "forward", slow)
    running = asyncio.ensure_future(made.sample([SampleRequest([5, 6], 50, 1.0, 0)]))
    await asyncio.sleep(0.12)
    await made.pause(drain=False)
    stopped = len(steps)
    assert steps[-1] == "ends"
    await asyncio.sleep(0.12)
    assert len(steps) == stopped, "a step began after the pause"
    await made.abort()
    (answer,) = (await running).results
    assert answer.stop_reason == "abort" and len(answer.tokens) == stopped // 2


def test_it_answers_every_call_that_the_driver_makes_of_vllm():
    """But for those that come with a GPU's transports and with sleep."""
    calls = {name for name in dir(EngineActor) if not name.startswith("_")}
    gpu = {"init_transfer", "start_weight_update", "update_weights", "finish_weight_update"}
    assert calls - gpu - {"sleep"} <= set(dir(PlainActor))
