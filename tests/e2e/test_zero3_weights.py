"""Two ZeRO-3 ranks: rank 0 sends whole tensors while rank 1 only takes part in the gather."""

from pathlib import Path

import pytest
import torch

from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.group import LearnerGroup, RankArguments
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rollouts.weights.buffer import SharedBuffer
from conjoint.rollouts.weights.manifest import Manifest
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.fakes import tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def model(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    tiny_llama(folder, tie_word_embeddings=True)
    return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())


def received(sent: Manifest) -> dict[str, torch.Tensor]:
    buffer = SharedBuffer(sent.path, sent.nbytes, create=False)
    assert buffer.checksum(sent.nbytes) == sent.checksum
    found = {}
    for spec in sent.tensors:
        raw = bytearray(buffer.view[spec.offset : spec.offset + spec.nbytes])
        dtype = getattr(torch, spec.dtype)
        found[spec.name] = torch.frombuffer(raw, dtype=dtype).view(spec.shape)
    return found


async def test_every_sync_sends_whole_tensors_and_tied_ones_once(tmp_path: Path, ray_running):
    weights = model(tmp_path / "model")
    config = LearnerConfig(ranks=2, zero_stage=3, threads=1)
    arguments = RankArguments(tmp_path / "model", config, OptimConfig(), LossConfig(), 1)
    learner = await LearnerGroup.start(arguments)
    try:
        for version in range(2):
            sent = await learner.send_weights(SharedMemorySender(str(tmp_path / "b")), version)
            found = received(sent)
            assert sent.version == version and found.keys() == weights.keys()
            assert all(torch.equal(found[name], weights[name]) for name in weights)
        # The gathers left the shards whole: the ranks still compute together.
        assert len(await learner.logprobs([1, 2, 3])) == 2
    finally:
        await learner.close()
