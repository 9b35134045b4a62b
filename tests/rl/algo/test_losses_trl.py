"""The objectives that TRL has too give TRL's loss and gradient, to log-probs and to parameters.

`GRPOTrainer._compute_loss` (for rloo `RLOOTrainer`'s) runs as it stands, on a stand-in for the
trainer that holds its settings and returns given log-probs.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from conjoint.rl.algo.losses import LOSSES, LossConfig, LossInputs
from conjoint.rl.learner.batch import PackedRow
from conjoint.rl.learner.forward.head import TokenHead
from conjoint.rl.learner.forward.packed import PackedModel
from tests.fakes import tiny_llama

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
ADVANTAGES = torch.tensor([0.7, -0.4, -0.1], dtype=torch.float64)
CASES: dict[str, tuple[LossConfig, dict[str, Any]]] = {
    "grpo": (LossConfig("grpo"), {"loss_type": "grpo"}),
    "dr_grpo": (LossConfig("dr_grpo", length=64), {"loss_type": "dr_grpo"}),
    "dapo": (LossConfig("dapo", clip_high=0.28), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": (
        LossConfig("gspo", clip_low=0.05, clip_high=0.04),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.05,
            "epsilon_high": 0.04,
        },
    ),
    "cispo": (LossConfig("cispo", max_ratio=1.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
    "rloo": (
        LossConfig("rloo", clip_low=0.4, clip_high=0.3),
        {"loss_type": "rloo", "epsilon_low": 0.4, "epsilon_high": 0.3},
    ),
}


def trl_loss(
    logprobs: Tensor,
    old: Tensor,
    settings: dict[str, Any],
    ref: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    own = {"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2}
    correct_kl = settings.get("use_bias_correction_kl", True)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(old), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=weights is not None,
        vllm_importance_sampling_correction=True,
        beta=0.0 if ref is None else 0.3,
        max_completion_length=64,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=correct_kl, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        **{**own, **settings},
    )
    ids = torch.zeros(3, 1, dtype=torch.long)
    batch = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": torch.zeros(3, 5, dtype=torch.long),
        "completion_mask": MASK.to(old.dtype),
        "advantages": ADVANTAGES.to(old.dtype),
        "old_per_token_logps": old,
        "old_logps": (old * MASK).sum(1),
        "num_items_in_batch": MASK.sum(),
        "ref_per_token_logps": ref,
        "importance_sampling_ratio": weights,
    }
    if settings["loss_type"] == "rloo":
        return RLOOTrainer._compute_loss(trainer, trainer.model, batch)
    return GRPOTrainer._compute_loss(trainer, trainer.model, batch)


KEPT = MASK.bool()
SEQUENCE = torch.arange(3)[:, None].expand(3, 5)[KEPT]


def our_loss(
    logprobs: Tensor,
    old: Tensor,
    config: LossConfig,
    ref: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Our loss of log-probs [3, 5] like TRL's, or of the log-probs of the trained tokens alone."""
    inputs = LossInputs(
        logprobs=logprobs[KEPT] if logprobs.shape == KEPT.shape else logprobs,
        old_logprobs=old[KEPT],
        weights=(torch.ones_like(old) if weights is None else weights)[KEPT],
        advantages=ADVANTAGES.to(old.dtype)[SEQUENCE],
        sequence=SEQUENCE,
        local_sequences=3,
        num_sequences=3,
        num_tokens=float(MASK.sum()),
        ref_logprobs=None if ref is None else ref[KEPT],
    )
    return LOSSES[config.name](inputs, config)[0]


def logprobs_of(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Old ones, current ones whose ratios are often clipped, and a reference's: [3, 5] each."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(3, 5, generator=generator, dtype=torch.float64)
    current, ref = (
        old + scale * torch.randn(3, 5, generator=generator, dtype=torch.float64)
        for scale in (0.3, 0.5)
    )
    return old, current, ref


def both(
    current: Tensor, old: Tensor, config: LossConfig, settings: dict[str, Any], **more: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Our loss and TRL's, and the gradient of each with respect to the log-probs."""
    losses, gradients = [], []
    for compute, setting in ((our_loss, config), (trl_loss, settings)):
        leaf = current.clone().requires_grad_()
        loss = compute(leaf, old, setting, **more)  # type: ignore[arg-type]
        loss.backward()
        assert leaf.grad is not None
        losses.append(loss.detach())
        gradients.append(leaf.grad * MASK)
    return losses, gradients


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_trls_with_some_ratios_clipped(name: str, seed: int) -> None:
    config, settings = CASES[name]
    old, current, _ = logprobs_of(seed)
    losses, gradients = both(current, old, config, settings)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)
    assert gradients[0].any()


WITH_KL = [name for name in CASES if name != "rloo"]
"""TRL's rloo puts its KL into the reward."""


@pytest.mark.parametrize("name", WITH_KL)
@pytest.mark.parametrize("ratio", [True, False])
def test_the_reference_kl_equals_trls_with_and_without_the_ratio(name: str, ratio: bool) -> None:
    config, settings = CASES[name]
    config = replace(config, kl_weight=0.3, kl_ratio=ratio)
    settings = {**settings, "use_bias_correction_kl": ratio}
    old, current, ref = logprobs_of(0)
    losses, gradients = both(current, old, config, settings, ref=ref)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)
    without = both(current, old, *CASES[name])[1]
    assert (gradients[0] - without[0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", WITH_KL)
def test_mismatch_weights_give_trls_gradient(name: str) -> None:
    """TRL multiplies the loss, we scale its gradient: the value differs, the update does not."""
    config, settings = CASES[name]
    config = replace(config, kl_weight=0.3)
    old, current, ref = logprobs_of(1)
    weights = torch.tensor(
        [[0.2, 2.0, 1.0, 1, 1], [0.0, 1.3, 1, 1, 1], [1.5, 0.7, 0, 1, 2]]
    ).double()
    if name == "gspo":  # its ratio is the sequence's, and TRL spreads a weight as evenly
        weights = torch.tensor([[0.2], [2.0], [0.6]]).double().expand(3, 5)
    _, gradients = both(current, old, config, settings, ref=ref, weights=weights)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)
    plain = both(current, old, config, settings, ref=ref)[1]
    assert (gradients[0] - plain[0]).abs().max() > 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tiny_llama(tmp_path_factory.mktemp("tiny"))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="segments"
    )
    head = TokenHead(loaded, 1 << 20)
    loaded.packed = PackedModel(loaded, head, "segments", torch.float32, torch.device("cpu"))
    return loaded


def padded_logprobs(model: Any, ids: Tensor) -> Tensor:
    """Log-probs of the last 5 of 8 tokens, one row a sequence, as TRL forwards them."""
    model.set_attn_implementation("sdpa")
    mask = torch.cat([torch.ones(3, 3), MASK], 1).long()
    logits = model(input_ids=ids, attention_mask=mask).logits[:, 2:-1]
    return logits.log_softmax(-1).gather(-1, ids[:, 3:, None])[..., 0]


def packed_logprobs(model: Any, ids: Tensor) -> Tensor:
    """Log-probs of the trained tokens alone, from one row without padding."""
    model.set_attn_implementation("segments")
    lengths = [3 + int(n) for n in MASK.sum(1)]
    starts = np.cumsum([0, *lengths[:-1]])
    tokens = torch.cat([row[:n] for row, n in zip(ids, lengths, strict=True)])
    targets = np.concatenate(
        [np.arange(s + 3, s + n) for s, n in zip(starts, lengths, strict=True)]
    )
    row = PackedRow(
        tokens.numpy(),
        np.concatenate([np.arange(n) for n in lengths]),
        np.array(lengths),
        np.full(len(lengths), -1),
    )
    return model.packed.logprobs(row, targets, targets - 1)[0]


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_every_parameter_equals_trls_over_padded_rows(name: str, model) -> None:
    config, settings = CASES[name]
    ids = torch.randint(0, 48, (3, 8), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        start = padded_logprobs(model, ids)
    shift, ref_shift = (x[1].float() - x[0].float() for x in (logprobs_of(0), logprobs_of(2)))
    old = start - shift
    more = {} if name == "rloo" else {"ref": start + ref_shift}
    config = config if name == "rloo" else replace(config, kl_weight=0.3)
    gradients, losses = [], []
    for compute, setting, forward in (
        (our_loss, config, packed_logprobs),
        (trl_loss, settings, padded_logprobs),
    ):
        model.zero_grad()
        loss = compute(forward(model, ids), old, setting, **more)  # type: ignore[arg-type]
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5)
    assert max(float(g.abs().max()) for g in gradients[0].values()) > 1e-3
