"""QK-Clip: what is measured, and what it does to heads above and below tau, by kind of model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.deepspeed_config import deepspeed_config
from conjoint.rl.learner.optim.qk_clip import peak_logits
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from tests.fakes import tiny_llama

TAU = 100.0
HEADS, WIDTH = 4, 8


def dense_peaks(query: torch.Tensor, key: torch.Tensor, seen: torch.Tensor, scale: float) -> Any:
    """[H] by the whole score matrix, keys repeated to all heads."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.mT) * scale
    return scores.masked_fill(~seen, -torch.inf).amax((0, 2, 3))


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_peaks_equal_the_whole_score_matrix(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conjoint.rl.learner.optim.qk_clip._ROWS", 3)
    torch.manual_seed(keys)
    query, key = torch.randn(1, HEADS, 10, 8), torch.randn(1, keys, 10, 8)
    causal = torch.ones(10, 10, dtype=torch.bool).tril()
    sequence = torch.tensor([0] * 4 + [1] * 6)
    apart = causal & (sequence == sequence[:, None])
    near = causal & (torch.arange(10) > torch.arange(10)[:, None] - 3)
    added = torch.where(apart, 0.0, torch.finfo(torch.float32).min)
    ends = torch.tensor([0, 4, 10])
    # The first four tokens are a prompt that the two answers after it share.
    spans = [(slice(0, 4), None), (slice(4, 7), slice(0, 4)), (slice(7, 10), slice(0, 4))]
    pieces = [SimpleNamespace(own=own, prefix=prefix) for own, prefix in spans]
    answer = torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
    shared = causal & ((answer == 0) | (answer == answer[:, None]))
    for seen, kwargs in (
        (causal, {"mask": None}),
        (apart, {"mask": None, "segments": [4, 6]}),
        (shared, {"mask": None, "segments": pieces}),
        (apart, {"mask": None, "cu_seq_lens_q": ends}),
        (apart, {"mask": apart[None, None]}),
        (apart, {"mask": added[None, None]}),
        (near, {"mask": None, "sliding_window": 3}),
    ):
        found = peak_logits(query, key, scaling=0.3, **kwargs)
        assert torch.allclose(found, dense_peaks(query, key, seen, 0.3), atol=1e-5), kwargs
    assert torch.allclose(
        peak_logits(query, key, None), dense_peaks(query, key, causal, 8**-0.5), atol=1e-5
    )


def loud_model(folder: Path, kind: str) -> Path:
    """A tiny model in whose first layer head 0 is far above tau, the others below."""
    shape: dict[str, Any] = {
        "vocab_size": 48,
        "hidden_size": HEADS * WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS if kind == "mha" else 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    if kind in ("mha", "gqa"):
        tiny_llama(folder, **shape)
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        config = Qwen2Config(**shape) if kind == "bias" else Qwen3Config(**shape, head_dim=WIDTH)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.q_proj.weight[:WIDTH] *= 300
        if kind == "bias":
            for projection in (attention.q_proj, attention.k_proj):
                projection.bias += torch.linspace(-1, 1, len(projection.bias))
            attention.q_proj.bias[:WIDTH] *= 300
    model.save_pretrained(folder)
    return folder


def rank(folder: Path, **keys: Any) -> LearnerRank:
    config = LearnerConfig(threads=1, zero_stage=keys.pop("stage", 0), **keys)
    # Whatever moves a projection is the clip.
    optim = OptimConfig(name="muonclip", lr=0.0, qk_clip_tau=TAU)
    return LearnerRank(folder, config, optim, LossConfig(), 10)


def batch(config: LearnerConfig) -> Any:
    rng = np.random.default_rng(0)
    members = []
    for member in range(4):
        t = Trajectory(status=Status.COMPLETED, advantage=member - 1.5)
        t.extend_context(rng.integers(0, 48, 4).tolist())
        t.extend_sampled(
            Completion(rng.integers(0, 48, 5 + member).tolist(), [-3.0] * (5 + member), "stop", 0)
        )
        members.append(t)
    return make_batch([Group(Task.make("math", "0"), members, 0)], [], config, 0.0)


def projections(learner: LearnerRank) -> dict[str, torch.Tensor]:
    named = learner.named_weights()
    return {k.removeprefix("model.layers."): v.clone() for k, v in named if "self_attn" in k}


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("kind", ["mha", "gqa", "bias"])
def test_a_head_above_tau_is_brought_to_it_and_no_other_is_touched(
    tmp_path: Path, kind: str, attention: str
) -> None:
    learner = rank(loud_model(tmp_path, kind), attention=attention)
    made, before = batch(learner._config), projections(learner)
    first = learner.step(made, 0)
    after = projections(learner)
    assert first["qk/max_logit"] > 2 * TAU
    assert first["qk/clipped_heads"] == 1 and first["qk/normalised_layers"] == 0
    second = learner.step(made, 1)
    assert second["qk/max_logit"] <= TAU * (1 + 1e-3)
    assert second["qk/max_logit"] >= TAU * (1 - 1e-3), "scaled to tau, not below it"
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    expected = {"0.self_attn.q_proj.weight"}
    if kind == "mha":
        expected.add("0.self_attn.k_proj.weight")
    if kind == "bias":
        expected.add("0.self_attn.q_proj.bias")
    assert changed == expected
    gamma = TAU / first["qk/max_logit"]
    for key in expected:
        assert torch.equal(before[key][WIDTH:], after[key][WIDTH:]), "bit for bit"
        factor = gamma**0.5 if kind == "mha" else gamma
        assert torch.allclose(after[key][:WIDTH], before[key][:WIDTH] * factor, rtol=1e-5)


def test_nothing_is_clipped_at_or_below_tau(tmp_path: Path) -> None:
    learner = rank(tiny_llama(tmp_path))
    before = projections(learner)
    metrics = learner.step(batch(learner._config), 0)
    assert metrics["qk/clipped_heads"] == 0 and 0 < metrics["qk/max_logit"] < TAU
    after = projections(learner)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_normalised_layers_are_reported_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = rank(loud_model(tmp_path, "qwen3"))
    assert "QK-Clip leaves 2 of this model's layers alone" in caplog.text
    before = projections(learner)
    metrics = learner.step(batch(learner._config), 0)
    assert metrics["qk/normalised_layers"] == 2 and metrics["qk/clipped_heads"] == 0
    assert metrics["qk/max_logit"] <= WIDTH**0.5 * 1.01
    after = projections(learner)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_skipped_update_clips_nothing(tmp_path: Path) -> None:
    learner = rank(loud_model(tmp_path, "gqa"))
    before = projections(learner)
    made = batch(learner._config)
    made.updates[0].shards[0][0].advantages[0] = np.inf
    metrics = learner.step(made, 0)
    assert metrics["nonfinite"] == 1 and "qk/clipped_heads" not in metrics
    after = projections(learner)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_weights_and_their_fp32_masters_are_both_clipped(tmp_path: Path, stage: int) -> None:
    learner = rank(loud_model(tmp_path, "gqa"), dtype="bf16", stage=stage)
    made = batch(learner._config)
    assert learner.step(made, 0)["qk/max_logit"] > 2 * TAU
    for version in (1, 2):
        # A master that was left behind would undo the clip with the next update.
        again = learner.step(made, version)["qk/max_logit"]
        assert TAU * 0.98 < again < TAU * 1.02
        assert again == pytest.approx(TAU, rel=0.01)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_save_load_continue_is_bit_equal(tmp_path: Path, stage: int) -> None:
    folder = tiny_llama(tmp_path / "model")

    def made() -> LearnerRank:
        config = LearnerConfig(threads=1, zero_stage=stage)
        optim = OptimConfig(name="muonclip", lr=1e-2, qk_clip_tau=1.0)
        return LearnerRank(folder, config, optim, LossConfig(), 10)

    def go_on(learner: LearnerRank) -> dict[str, torch.Tensor]:
        for version in range(2):
            learner.step(batch(learner._config), version)
        return {name: value.clone() for name, value in learner.named_weights()}

    whole = made()
    go_on(whole)
    whole.save(tmp_path / "ckpt")
    resumed = made()
    resumed.load(tmp_path / "ckpt")
    a, b = go_on(whole), go_on(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_muon_cannot_do_is_refused_before_a_model_loads() -> None:
    muon = OptimConfig(name="muonclip")
    assert "optimizer" not in deepspeed_config(LearnerConfig(), muon)
    assert deepspeed_config(LearnerConfig(), muon)["zero_allow_untested_optimizer"] is True
    with pytest.raises(ConjointError, match=r"turn learner\.offload off"):
        deepspeed_config(LearnerConfig(offload=True, gpus_per_rank=1), muon)
    for raw, key in (
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel cannot go with"),
        ({"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}, r"zenflow cannot go with"),
        ({"data_types": {"grad_accum_dtype": "fp32"}}, "grad_accum_dtype cannot go with"),
        ({"zero_allow_untested_optimizer": False}, r"contradicts optim\.name"),
        ({"optimizer": {"type": "Muon"}}, "contradicts the optim group"),
    ):
        with pytest.raises(ConjointError, match=key):
            deepspeed_config(LearnerConfig(deepspeed=raw), muon)
    for keys, said in (
        ({"name": "lion"}, r"optim\.name is 'lion'"),
        ({"momentum": 0.9}, r"optim\.momentum does nothing with optim\.name=adamw"),
        ({"name": "muon", "qk_clip_tau": 50.0}, r"qk_clip_tau does nothing with optim\.name=muon;"),
        ({"name": "muonclip", "qk_clip_tau": 0.0}, r"qk_clip_tau above 0"),
        ({"name": "muon", "momentum": 1.0}, r"optim\.momentum must be in \[0, 1\)"),
    ):
        with pytest.raises(ConjointError, match=said):
            OptimConfig(**keys).validate()


def test_a_model_whose_heads_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        config = GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConjointError, match=r"finds no attention with q_proj and k_proj"):
        rank(tmp_path, attention="sdpa")
