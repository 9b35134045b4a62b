"""The contract of `tests/engine_contract.py` on real workers: vLLM and the plain engine in Ray.

It is why tests of our own machinery may run on the plain engine."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import torch

from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.e2e.shared_engines import Rig as Shared
from tests.e2e.shared_engines import tiny
from tests.engine_contract import CHECKS, Rig

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="session"),
]


async def exercise(folder: Path) -> list[str]:
    """Names of the checks that passed; weights travel as deltas."""
    from transformers import AutoModelForCausalLM

    cfg = RolloutConfig(backend="transformers", max_model_len=256, threads=1)
    engine = VllmEngine.launch(str(folder), cfg, 0, "shm")
    path = buffer_path("contract")
    sender = SharedMemorySender(path, delta="float32")
    named = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())

    def send(version: int):
        torch.manual_seed(version)
        noisy = ((n, p + 0.01 * version * torch.randn_like(p)) for n, p in named.items())
        return sender.send(noisy, version)

    passed = []
    try:
        await engine.ready([], 600)
        rig = Rig(engine, send, room=200)
        for check in CHECKS:
            await check(rig)
            passed.append(check.__name__)  # type: ignore[attr-defined]
        await a_killed_worker_is_replaced_and_its_answers_are_the_same(rig, engine)
    finally:
        await engine.close()
        for name in (path, f"{path}.delta"):
            Path(name).unlink(missing_ok=True)
    return passed


async def a_killed_worker_is_replaced_and_its_answers_are_the_same(
    rig: Rig, engine: VllmEngine
) -> None:
    """The replacement must have the weights sent last: the folder's would draw other tokens."""
    whole = await rig.start()
    running = rig.start()
    await asyncio.sleep(0.1)
    (killed,) = engine._set.slots[0].belongings.processes()
    os.kill(killed, signal.SIGKILL)
    assert [(a.tokens, a.logprobs) for a in await running] == [
        (a.tokens, a.logprobs) for a in whole
    ]
    assert engine.drain_metrics()["engine/deaths"] == 1
    assert engine._set.slots[0].belongings.processes() != [killed]


async def test_the_plain_engine_keeps_the_contract_in_a_process_of_its_own(
    tmp_path: Path, ray_running
):
    names = [check.__name__ for check in CHECKS]  # type: ignore[attr-defined]
    assert await exercise(tiny(tmp_path / "tied", tied=True)) == names


async def test_vllm_keeps_the_contract(rig: Shared):

    def send(version: int):
        rig.learner.change(version)
        return rig.sender.send(rig.learner.model.named_parameters(), version)

    rig.engine._confirmed = -1  # as if it had just started
    made = Rig(rig.engine, send, room=200, version=rig.version)
    for check in CHECKS:
        await check(made)
    rig.version = made.version
