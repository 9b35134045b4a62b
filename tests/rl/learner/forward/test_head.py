"""Log-probs without the whole logits table equal those with it, in value and in gradient."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.forward.head import TokenHead, table_logprobs
from tests.fakes import tiny_llama

V, H, P = 50, 32, 11
TABLE = 4 * V * P
BUDGETS = {"kept": TABLE, "recomputed": TABLE - 1, "one row a chunk": 1}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_llama(
        tmp_path_factory.mktemp("tiny"), tie_word_embeddings=request.param, vocab_size=V
    )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def asked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids [1, P], targets [P], scale [P] and an upstream gradient [P] of all sizes and signs."""
    draw = torch.Generator().manual_seed(0)
    ids, targets = (torch.randint(0, V, (n, P), generator=draw) for n in (1, 1))
    scale = 0.5 + torch.rand(P, generator=draw)
    upstream = torch.randn(P, generator=draw).masked_fill(torch.arange(P) % 4 == 1, 0.0)
    return ids, targets[0], scale, upstream


def by_table(model: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    ids, targets, scale, upstream = asked()
    model.zero_grad()
    logits = model(ids, use_cache=False).logits[0] * scale[:, None]
    logprobs, entropy = table_logprobs(logits, targets)
    (logprobs * upstream).sum().backward()
    return logprobs.detach(), entropy, {n: p.grad.clone() for n, p in model.named_parameters()}


def by_head(model: Any, budget: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    ids, targets, scale, upstream = asked()
    head = TokenHead(model, budget)
    model.zero_grad()
    try:
        with head.scoring(targets, scale):
            logprobs, entropy = head.read(model(ids, use_cache=False).logits)
        (logprobs * upstream).sum().backward()
    finally:
        del model.get_output_embeddings().forward
    return logprobs.detach(), entropy, {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
def test_values_and_every_gradient_equal_the_whole_tables(model: Any, budget: int) -> None:
    wanted, found = by_table(model), by_head(model, budget)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not found[1].requires_grad


def test_temperature_divides_the_logits(model: Any) -> None:
    ids, targets, *_ = asked()
    head = TokenHead(model, TABLE)
    try:
        with torch.no_grad(), head.scoring(targets, torch.full((P,), 2.0)):
            found = head.read(model(ids, use_cache=False).logits)[0]
    finally:
        del model.get_output_embeddings().forward
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0] / 0.5
    wanted = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_outside_of_scoring_the_model_gives_its_logits(model: Any) -> None:
    ids, *_ = asked()
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        TokenHead(model, TABLE)
        assert torch.equal(model(ids, use_cache=False).logits, before)
    del model.get_output_embeddings().forward


def longest_table(model: Any, budget: int) -> int:
    """Rows of the longest table of logits that forward or backward makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    rows = []

    class Tables(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                shape = getattr(tensor, "shape", ())
                if shape[-1:] == (V,) and shape != (H, V):
                    rows.append(tensor.numel() // V)
            return out

    with Tables():
        by_head(model, budget)
    return max(rows)


def test_above_the_budget_no_table_of_all_tokens_is_made(model: Any) -> None:
    assert longest_table(model, 8 * 4 * V) == 2, "a quarter of the budget"
    assert longest_table(model, 1) == 1


def test_bf16_heads_sum_chunks_in_fp32(model: Any) -> None:
    half = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    kept, chunked = by_head(half, TABLE), by_head(half, 1)
    torch.testing.assert_close(chunked, kept, rtol=2e-2, atol=2e-2)
    assert chunked[0].dtype == torch.float32


def test_nan_passes_through_for_the_step_to_see(model: Any) -> None:
    ids, targets, scale, _ = asked()
    head = TokenHead(model, TABLE)
    try:
        with torch.no_grad(), head.scoring(targets, scale * torch.nan):
            assert head.read(model(ids, use_cache=False).logits)[0].isnan().all()
    finally:
        del model.get_output_embeddings().forward


def gemma(softcap: float | None) -> Any:
    config = Gemma2Config(
        vocab_size=V,
        hidden_size=H,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=softcap,
    )
    torch.manual_seed(0)
    return Gemma2ForCausalLM(config)


def test_a_model_that_caps_its_logits_gets_the_whole_table(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids, targets, scale, _ = asked()
    model = gemma(0.5)
    head = TokenHead(model, 1)
    assert "logits_bytes does not apply" in caplog.text
    with torch.no_grad(), head.scoring(targets, scale):
        found = head.read(model(ids, use_cache=False).logits)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0] * scale[:, None]
    torch.testing.assert_close(found, table_logprobs(logits, targets), rtol=0, atol=0)
    assert logits.abs().max() <= 0.5 * scale.max(), "the cap is in force"


def test_a_change_of_logits_that_is_not_known_is_refused() -> None:
    ids, targets, scale, _ = asked()
    model = gemma(None)
    head = TokenHead(model, TABLE)
    model.config.final_logit_softcapping = 0.5  # behind the head's back
    with (
        torch.no_grad(),
        head.scoring(targets, scale),
        pytest.raises(ConjointError, match="changes its logits"),
    ):
        head.read(model(ids, use_cache=False).logits)
