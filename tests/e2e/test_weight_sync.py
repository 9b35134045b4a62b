"""Engines and real weights: what the probe sees that a checksum cannot."""

import pytest

from conjoint.envs.types import StopRun
from conjoint.rl.weight_sync import PausedSync, WeightSyncConfig
from tests.e2e.shared_engines import Rig

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


async def said(rig: Rig) -> str:
    """What a sync with a probe says; every tensor has changed since the last one."""
    rig.version += 1
    sync = PausedSync(WeightSyncConfig(probe_every=1), rig.sender, rig.vocab, 0)
    try:
        await sync(rig.learner, rig.engine, rig.version)  # type: ignore[arg-type]
    except StopRun as stop:
        return str(stop)
    return "agrees"


async def test_every_tensor_reaches_the_engine_and_what_does_not_fires_the_probe(rig: Rig):
    assert [await said(rig), await said(rig)] == ["agrees", "agrees"]
    rig.learner.zeroed = "model.layers.1.mlp.down_proj.weight"
    assert "does not use the weights" in await said(rig)
    rig.learner.zeroed = ""
    assert await said(rig) == "agrees"


async def test_a_tied_head_that_is_not_repacked_fires_the_probe(rig: Rig):
    await rig.tell("keep_old_head", True)
    assert "does not use the weights" in await said(rig)
    await rig.tell("keep_old_head", False)
    assert await said(rig) == "agrees"


async def test_no_engine_samples_before_its_weights_are_confirmed(rig: Rig):
    confirmed, rig.engine._confirmed = rig.engine._confirmed, -1
    with pytest.raises(StopRun, match="must not sample"):
        await rig.engine([5, 6], max_tokens=2, temperature=1.0, seed=0)
    rig.engine._confirmed = confirmed
    completion = await rig.engine([5, 6, 7], max_tokens=4, temperature=0.7, seed=3)
    assert completion.version == rig.version and len(completion.logprobs) == 4
