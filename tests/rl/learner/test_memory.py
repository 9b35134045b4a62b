"""The estimate against what a tiny learner on CPU really holds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.batch import PackedRow
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.forward.head import TokenHead
from conjoint.rl.learner.forward.packed import PackedModel
from conjoint.rl.learner.lora import LoraConfig
from conjoint.rl.learner.memory import estimate, memory_words
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.models.shape import BY_TOKENS, ModelShape
from tests.fakes import tiny_llama
from tests.rl.learner.test_learner import run_steps
from tests.test_configs import experiment

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
        LlamaConfig(**SIZES, tie_word_embeddings=True),
        MistralConfig(**SIZES),
        Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
        Qwen3Config(**SIZES, tie_word_embeddings=True),
        Qwen3Config(**SIZES, attention_bias=True),
    ],
    ids=lambda c: c.model_type,
)
def test_parameters_are_counted_to_the_last_one(config: Any) -> None:
    shape = ModelShape.from_config(json.loads(config.to_json_string(use_diff=False)))
    assert shape is not None
    model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_an_unknown_type_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert ModelShape.from_folder(tmp_path) is None
    assert ModelShape.cost_of(tmp_path) == BY_TOKENS
    assert "not estimated" in memory_words(None, LearnerConfig(), OptimConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_llama(tmp_path_factory.mktemp("tiny"))
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.mark.parametrize(
    ("stage", "dtype", "optim", "lora"),
    [
        (0, "fp32", "adamw", 0),
        (1, "fp32", "adamw", 0),
        (1, "bf16", "adamw", 0),
        (0, "fp32", "adamw", 4),
        (1, "bf16", "adamw", 4),
        (0, "fp32", "muonclip", 0),
    ],
)
def test_weights_and_optimizer_state_to_the_byte(
    folder: Path, stage: int, dtype: str, optim: str, lora: int
) -> None:
    config = LearnerConfig(threads=1, zero_stage=stage, dtype=dtype, lora=LoraConfig(lora))
    optimizer = OptimConfig(name=optim)
    learner = LearnerRank(folder, config, optimizer, LossConfig(), 100)
    run_steps(folder, config, 1, learner)
    engine = learner._engine
    shape = ModelShape.from_folder(folder)
    assert shape is not None
    found = estimate(shape, config, optimizer)
    assert found.weights == sum(p.nbytes for p in engine.module.parameters())
    held = [
        value.nbytes
        for state in engine.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    if stage:
        held += [p.nbytes for p in engine.optimizer.single_partition_of_fp32_groups]
    assert found.optimizer == sum(held)


def kept_bytes(config: Any, attention: str, checkpointing: bool, tokens: int) -> int:
    """What autograd keeps between forward and backward of one packed row."""
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    row = PackedRow.single([i % 64 for i in range(tokens)])
    packed = PackedModel(model, TokenHead(model, 1), attention, torch.float32, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        _alive = packed.logprobs(row, np.ones(1, int), np.zeros(1, int))
    return sum(kept.values())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("attention", ["segments", "eager"])
def test_activations_are_within_a_third(kind: Any, attention: str) -> None:
    tokens = 256
    config = kind(**SIZES, max_position_embeddings=tokens)
    shape = ModelShape.from_config(json.loads(config.to_json_string(use_diff=False)))
    assert shape is not None
    plain, checkpointed = (kept_bytes(config, attention, on, tokens) for on in (False, True))
    # Backward computes one layer at a time again, beside what is kept.
    for on, real in ((False, plain), (True, checkpointed + plain // shape.layers)):
        learner = LearnerConfig(
            tokens_per_microbatch=tokens, attention=attention, gradient_checkpointing=on
        )
        assert 0.75 < estimate(shape, learner, OptimConfig()).activations / real < 1.33
    assert checkpointed < plain / 3


def test_zero_divides_what_it_divides() -> None:
    shape = ModelShape.from_config(json.loads(LlamaConfig().to_json_string(use_diff=False)))
    assert shape is not None
    p = shape.parameters

    def of(stage: int, **keys: Any) -> Any:
        config = LearnerConfig(dtype="bf16", zero_stage=stage, ranks=4, **keys)
        return estimate(shape, config, OptimConfig())

    assert (of(1).weights, of(1).gradients, of(1).optimizer) == (2 * p, 2 * p, 12 * p // 4)
    assert (of(2).weights, of(2).gradients) == (2 * p, 2 * p // 4)
    assert 2 * p // 4 < of(3).weights < 2 * p // 3 and of(3).gradients == 2 * p // 4
    assert of(3, gradient_checkpointing=True).activations < of(3).activations / 5
    small = of(3, logits_bytes=1)
    assert small.logits < of(3).logits and small.reference == 0
    plain = of(3)
    with_reference = estimate(
        shape, LearnerConfig(dtype="bf16", zero_stage=3, ranks=4), OptimConfig(), reference=True
    )
    assert with_reference.reference == 2 * p
    assert with_reference.total == plain.total + 2 * p


QWEN = {
    "gpu_1": (1536, 8960, 28, 12, 2, 151936, True),
    "gpu_8": (3584, 18944, 28, 28, 4, 152064, False),
    "nodes_2": (5120, 13824, 48, 40, 8, 152064, False),
}
"""hidden, intermediate, layers, heads, kv heads, vocabulary, tied of each experiment's model."""


@pytest.mark.parametrize(
    ("name", "billions"), [("gpu_1", 1.54), ("gpu_8", 7.62), ("nodes_2", 14.8)]
)
def test_gpu_experiments_fit_their_share_of_80_gb(name: str, billions: float) -> None:
    cfg = experiment(name)
    hidden, intermediate, layers, heads, kv_heads, vocab, tied = QWEN[name]
    shape = ModelShape(
        vocab, hidden, intermediate, layers, heads, kv_heads, hidden // heads, tied, qkv_bias=True
    )
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.03)
    found = estimate(shape, cfg.learner, cfg.optim)
    assert found.total < 0.9 * 80e9 * cfg.learner.gpus_per_rank
    muon = estimate(shape, cfg.learner, experiment(name, "optim=muonclip").optim)
    assert found.optimizer / 2 < muon.optimizer < found.optimizer
    words = memory_words(shape, cfg.learner, cfg.optim)
    assert all(f"{part} " in words for part in ("weights", "gradients", "optimizer", "logits"))
