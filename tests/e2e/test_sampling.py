"""What a real engine reports of what it drew: temperature and nucleus are in its log-probs."""

import asyncio
from pathlib import Path

import pytest
import torch

from conjoint.envs.types import Completion
from conjoint.rollouts.engine.base import RolloutConfig
from tests.fakes import tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
TEMPERATURE, TOP_P, PROMPT = 0.7, 0.6, [5, 6, 7]


async def sampled(folder: Path, top_p: float, count: int = 24) -> list[Completion]:
    """Answers of a fresh engine to one prompt, with one seed each."""
    import ray

    from conjoint.rollouts.engine.driver import VllmEngine

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    engine = VllmEngine.launch(
        str(folder), RolloutConfig(max_tokens=12, max_model_len=64), 0, "shm"
    )
    try:
        await engine.ready([1], 400)
        engine.use_loaded_weights()
        asked = (
            engine(PROMPT, max_tokens=12, temperature=TEMPERATURE, top_p=p, seed=seed, session="s")
            for p in (top_p, 1.0)
            for seed in range(count)
        )
        return list(await asyncio.gather(*asked))
    finally:
        await engine.close()
        ray.shutdown()


async def test_log_probs_are_of_the_distribution_drawn_from(tmp_path: Path):
    """Temperature 0.7: softmax(logits / 0.7) where all tokens may be drawn, and the same over the
    nucleus, made to sum to one again, where they may not."""
    from transformers import AutoModelForCausalLM

    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    folder = tiny_llama(tmp_path / "tiny", **shape, vocab_size=256, eos_token_id=1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = await sampled(folder, TOP_P)
    masses = []
    for number, answer in enumerate(answers):
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPT, *answer.tokens]])).logits[0, len(PROMPT) - 1 :]
        for row, token, reported in zip(logits, answer.tokens, answer.logprobs, strict=False):
            full = (row / TEMPERATURE).log_softmax(-1)
            ranked, order = full.exp().sort(descending=True)
            kept = int((ranked.cumsum(0) < TOP_P).sum()) + 1
            nucleus = number < len(answers) // 2
            mass = ranked[:kept].sum() if nucleus else torch.ones(())
            assert not nucleus or token in order[:kept].tolist()
            assert reported == pytest.approx(float(full[token] - mass.log()), abs=1e-4)
            # What the gap allows for, and the weight that a token of the nucleus has.
            masses.append(float((full[token] - reported).exp()))
            assert TOP_P - 1e-4 <= masses[-1] <= 1 + 1e-4
    assert min(masses) < 0.8, "else the test could not tell a nucleus from all tokens"
