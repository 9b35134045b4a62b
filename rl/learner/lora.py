"""LoRA by PEFT (arXiv 2106.09685): W + (alpha / rank) B A, where only A and B are trained.

The learner holds base and adapter apart; engines, and every `hf` folder of a checkpoint, get the
merged weights under the base's own names, so nothing else knows that there is an adapter.
Heavy packages are imported where they are used.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoint.envs.types import ConjointError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Adapters on every linear layer but the head."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: float = 32.0
    """The adapter's product is scaled by alpha / rank."""

    def validate(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise ConjointError(
                "learner.lora.rank must be 0 (off) or more and learner.lora.alpha above 0"
            )
        if not self.rank and self.alpha != LoraConfig().alpha:
            raise ConjointError(
                "learner.lora.alpha does nothing with learner.lora.rank=0; give a rank, such as 16"
            )


def add_adapter(model: "nn.Module", config: LoraConfig) -> "nn.Module":
    """`model` frozen, with fresh adapters (B = 0: it computes what it did), as a PEFT model.

    The start is the same on every rank and in every run, and no global random state is drawn.
    """
    import peft
    import torch

    adapter = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - PEFT divides it
        target_modules="all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # ZeRO keeps fp32 masters of bf16 adapters, like those of any other weight.
        return peft.get_peft_model(model, adapter, autocast_adapter_dtype=False)  # pyright: ignore


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model; any other model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of the base, and the adapter on it if it has one."""

    name: str
    """Its Hugging Face name, as without an adapter."""
    parameter: "nn.Parameter"
    layer: Any = None
    """PEFT's layer, which holds A and B."""

    def parts(self) -> "list[nn.Parameter]":
        """All parameters that `value` reads."""
        if self.layer is None:
            return [self.parameter]
        return [self.parameter, *(getattr(self.layer, f"lora_{x}")["default"].weight for x in "AB")]

    def value(self) -> "Tensor":
        """W, or W + (alpha / rank) B A, rounded once from fp32 to the type of W."""
        if self.layer is None:
            return self.parameter.detach()
        weight, a, b = (part.detach().float() for part in self.parts())
        delta = (b @ a) * self.layer.scaling["default"]
        # A Conv1D (GPT-2) keeps its weight transposed.
        delta = delta.mT if self.layer.fan_in_fan_out else delta
        return (weight + delta).to(self.parameter.dtype)


def weights_of(model: Any) -> Iterator[Weight]:
    """Every parameter of the base model, tied ones once, with its adapter."""
    base = base_model(model)
    for name, parameter in base.named_parameters():
        if ".lora_" in name:
            continue
        above, wrapped, leaf = name.partition(".base_layer.")
        if not wrapped:
            yield Weight(name, parameter)
        else:
            layer = base.get_submodule(above) if leaf == "weight" else None
            yield Weight(f"{above}.{leaf}", parameter, layer)


def merge_adapter(adapter: Path, output: Path, base: str | None = None) -> Path:
    """Write base + adapter as one folder that from_pretrained opens; returns it.

    `base` is a model as a run's config names it; by default the one that the adapter was trained
    on. Raises ConjointError for a folder without an adapter, and for an `output` that is not empty.
    """
    from conjoint.rl.models.resolve import copy_tokenizer, resolve_model

    if not (adapter / CONFIG_FILE).is_file():
        raise ConjointError(f"{adapter} is not an adapter folder: it has no {CONFIG_FILE}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConjointError(f"{output} exists and is not empty; give another folder")
    named = base or json.loads((adapter / CONFIG_FILE).read_text())["base_model_name_or_path"]
    if not named:
        raise ConjointError(f"{adapter / CONFIG_FILE} names no base model; give one with --base")
    folder = resolve_model(named)

    import peft
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    try:
        merged: Any = peft.PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:
        raise ConjointError(
            f"the adapter in {adapter} does not fit the model {folder}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    merged.merge_and_unload().save_pretrained(output)
    copy_tokenizer(folder, output)
    return output
