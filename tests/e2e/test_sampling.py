"""What a real engine reports of what it drew: temperature and nucleus are in its log-probs."""

import asyncio

import pytest
import torch

from tests.e2e.shared_engines import Rig

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]
TEMPERATURE, TOP_P, PROMPT = 0.7, 0.6, [5, 6, 7]


async def test_log_probs_are_of_the_distribution_drawn_from(rig: Rig):
    """Temperature 0.7: softmax(logits / 0.7) where all tokens may be drawn, and the same over the
    nucleus, made to sum to one again, where they may not."""
    await rig.update()
    asked = (
        rig.engine(PROMPT, max_tokens=12, temperature=TEMPERATURE, top_p=p, seed=seed, session="s")
        for p in (TOP_P, 1.0)
        for seed in range(24)
    )
    answers = await asyncio.gather(*asked)
    masses = []
    for number, answer in enumerate(answers):
        logits = rig.learner.logits([*PROMPT, *answer.tokens], rig.version)[len(PROMPT) - 1 :]
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
