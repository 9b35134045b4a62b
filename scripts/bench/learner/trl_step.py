"""TRL's GRPOTrainer as the other side of the comparison. Heavy: trl, torch, datasets."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conjoint.envs.types import Group

_ROWS = 8  # GRPOConfig's default per_device_train_batch_size, and num_generations


class TrlStep:
    """`_compute_loss`, backward, clipping and AdamW on rollouts that are given, in fp32 on CPU.

    Left as a user finds it: sdpa attention, prompts padded left and answers right to the longest of
    the whole batch, 8 rows a micro-batch, its fused output layer, loss_type dapo. Gradient
    checkpointing, which TRL turns on, is off on both sides: it trades time for memory.
    """

    def __init__(self, model: Path, workdir: Path, learning_rate: float) -> None:
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        config = GRPOConfig(
            output_dir=str(workdir),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        )
        self._trainer: Any = GRPOTrainer(
            model=policy,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "unused"}]),
        )
        self._model = self._trainer.model.train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=learning_rate)

    def __call__(self, made: list[Group]) -> None:
        padded = _padded(made)
        rows = len(padded["advantages"])
        starts = range(0, rows, _ROWS)
        self._trainer.current_gradient_accumulation_steps = len(starts)
        for start in starts:
            micro = {k: v[start : start + _ROWS] for k, v in padded.items()}
            micro["num_items_in_batch"] = padded["completion_mask"].sum()
            self._trainer._compute_loss(self._model, micro).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def _padded(made: list[Group]) -> dict[str, Tensor]:
    trajectories = [t for group in made for t in group.trajectories]
    split = [t.sampled.index(True) for t in trajectories]
    prompts = [t.tokens[:n] for t, n in zip(trajectories, split, strict=True)]
    answers = [t.tokens[n:] for t, n in zip(trajectories, split, strict=True)]
    before, after = max(map(len, prompts)), max(map(len, answers))
    return {
        "prompt_ids": torch.tensor([[0] * (before - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (before - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([a + [0] * (after - len(a)) for a in answers]),
        "completion_mask": torch.tensor([[1] * len(a) + [0] * (after - len(a)) for a in answers]),
        "advantages": torch.tensor([t.advantage for t in trajectories]),
    }


def padded_tokens(made: list[Group]) -> int:
    """Tokens that TRL's forward passes go through, padding included."""
    padded = _padded(made)
    return padded["prompt_ids"].numel() + padded["completion_ids"].numel()
