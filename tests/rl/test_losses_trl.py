"""The objectives that TRL has too give TRL's loss and gradient, in log-prob space.

`GRPOTrainer._compute_loss` runs as it stands, on a stand-in for the trainer that holds its settings
and returns given log-probs instead of a model's.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.losses import LOSSES, LossConfig, LossInputs

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
}


def trl_loss(logprobs: Tensor, old: Tensor, settings: dict[str, Any]) -> Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(old), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        beta=0.0,
        max_completion_length=64,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        **{
            "importance_sampling_level": "token",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            **settings,
        },
    )
    ids = torch.zeros(3, 1, dtype=torch.long)
    batch = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": torch.zeros(3, 5, dtype=torch.long),
        "completion_mask": MASK,
        "advantages": ADVANTAGES,
        "old_per_token_logps": old,
        "num_items_in_batch": MASK.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, trainer.model, batch)  # type: ignore[arg-type]


def our_loss(logprobs: Tensor, old: Tensor, config: LossConfig) -> Tensor:
    kept = MASK.bool()
    sequence = torch.arange(3)[:, None].expand(3, 5)[kept]
    inputs = LossInputs(
        logprobs=logprobs[kept],
        old_logprobs=old[kept],
        weights=torch.ones_like(old[kept]),
        advantages=ADVANTAGES[sequence],
        sequence=sequence,
        local_sequences=3,
        num_sequences=3,
        num_tokens=float(MASK.sum()),
    )
    return LOSSES[config.name](inputs, config)[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_trls_with_some_ratios_clipped(name: str, seed: int) -> None:
    config, settings = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(3, 5, generator=generator, dtype=torch.float64)
    current = old + 0.3 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    losses, gradients = [], []
    for compute, setting in ((our_loss, config), (trl_loss, settings)):
        leaf = current.clone().requires_grad_()
        loss = compute(leaf, old, setting)  # type: ignore[arg-type]
        loss.backward()
        assert leaf.grad is not None
        losses.append(loss.detach())
        gradients.append(leaf.grad * MASK)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)
    assert gradients[0].any()
