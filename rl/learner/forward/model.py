"""The model a learner trains, as it is before an adapter, DeepSpeed or an optimizer sees it.

Heavy: torch and transformers.
"""

from pathlib import Path
from typing import Any

import torch

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.forward.packed import check_attention

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(folder: Path, config: LearnerConfig, device: torch.device) -> Any:
    """The transformers model in `folder`, in training mode and without dropout, on the CPU.

    Raises ConjointError for what is no model folder, lacks weights, or has an attention that cannot
    keep packed sequences apart or be trained on `device`.
    """
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise ConjointError(f"{folder} is not a model folder: it has no config.json")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=DTYPES[config.dtype],
        attn_implementation=config.attention,
        output_loading_info=True,
    )
    model, info = loaded
    if info["missing_keys"]:
        raise ConjointError(
            f"the model in {folder} lacks weights: {sorted(info['missing_keys'])[:3]}"
        )
    check_attention(model.config, config, device)
    for module in model.modules():
        # Old and new log-probs must come from the same function: no dropout anywhere.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not a declared field
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def add_in_order() -> None:
    """Make this process's CPU gradients the same each time. Answers that share a prompt all read
    its last token, and torch adds up their gradients there by two threads in any order."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only finds reads of memory that was never written, by writing all of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
