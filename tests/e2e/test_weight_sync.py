"""Engines and real weights: what the probe sees that a checksum cannot."""

import asyncio
import os
from pathlib import Path

import pytest
import torch

from conjoint.envs.types import StopRun
from conjoint.rl.weight_sync import PausedSync, WeightSyncConfig
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.fakes import tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
END = 1


def tiny(folder: Path, *, tied: bool) -> Path:
    """A model of a shape that vLLM's CPU attention serves."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    return tiny_llama(
        folder,
        **shape,
        vocab_size=256,
        max_position_embeddings=512,
        initializer_range=0.02,
        tie_word_embeddings=tied,
        eos_token_id=END,
    )


class LocalLearner:
    """The learner's two calls that a sync needs, around a transformers model in this process."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.zeroed = ""

    def disturb(self) -> None:
        """A random change of every tensor: zeros and round trips could not be told apart."""
        torch.manual_seed(1)
        with torch.no_grad():
            for p in self.model.parameters():
                p += 0.05 * torch.randn_like(p)

    async def send_weights(self, sender, version: int):
        named = (
            (name, torch.zeros_like(p) if name == self.zeroed else p)
            for name, p in self.model.named_parameters()
        )
        return sender.send(named, version)

    async def logprobs(self, tokens: list[int]) -> list[float]:
        with torch.no_grad():
            table = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        return [table[i, token].item() for i, token in enumerate(tokens[1:])]


async def exercise(folder: Path, extension: str = "") -> list[str]:
    """Sync, change everything, sync, zero one tensor, sync; what the probe said each time."""
    from conjoint.rollouts.engine.driver import VllmEngine

    vllm = {"worker_extension_cls": extension} if extension else {}
    cfg = RolloutConfig(max_tokens=8, max_model_len=128, vllm=vllm)
    engine = VllmEngine.launch(str(folder), cfg, 0, "shm")
    path = buffer_path(folder.name)
    learner = LocalLearner(folder)
    sync = PausedSync(WeightSyncConfig(probe_every=1), SharedMemorySender(path), 256, 0)
    said = []
    try:
        await engine.ready([END], 600)
        with pytest.raises(StopRun, match="must not sample"):
            await engine([5, 6], max_tokens=2, temperature=1.0, seed=0)
        for version, change in enumerate((None, learner.disturb, "zero")):
            if change == "zero":
                learner.zeroed = "model.layers.1.mlp.down_proj.weight"
            elif change:
                change()
            try:
                await sync(learner, engine, version)  # type: ignore[arg-type]
                said.append("agrees")
            except StopRun as stop:
                said.append(str(stop))
        completion = await engine([5, 6, 7], max_tokens=4, temperature=0.7, seed=3)
        assert completion.version == 2 and len(completion.logprobs) == len(completion.tokens)
    finally:
        await engine.close()
        os.unlink(path)
    return said


@pytest.fixture(scope="module")
def ray_running():
    import ray

    # vLLM's worker imports tests/e2e/faults.py by name.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


async def test_every_tensor_reaches_the_engine_and_what_does_not_fires_the_probe(
    tmp_path: Path, ray_running
):
    """Side by side, because an engine takes its time to start."""
    *whole, unpacked = await asyncio.gather(
        exercise(tiny(tmp_path / "tied", tied=True)),
        exercise(tiny(tmp_path / "untied", tied=False)),
        exercise(tiny(tmp_path / "unpacked", tied=True), "tests.e2e.faults.NoRepack"),
    )
    for first, changed, zeroed in whole:
        assert (first, changed) == ("agrees", "agrees")
        assert "does not use the weights" in zeroed
    # The head of a tied model that is not repacked.
    assert unpacked[0] == "agrees" and "does not use the weights" in unpacked[1]
