"""Our typed keys -> DeepSpeed's configuration, and raw keys merged in. Pure; no heavy imports.

A raw key may add to what we generate or replace a tuning default, never contradict a typed key.
"""

from collections.abc import Mapping
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig

_TYPED_KEY = {
    "train_batch_size": "learner.tokens_per_microbatch",
    "train_micro_batch_size_per_gpu": "learner.tokens_per_microbatch",
    "gradient_accumulation_steps": "learner.tokens_per_microbatch",
    "gradient_clipping": "learner.gradient_clipping",
    "fp16": "learner.dtype",
    "bf16": "learner.dtype",
    "scheduler": "optim.schedule",
    "optimizer": "the optim group",
    "zero_optimization.stage": "learner.zero_stage",
    "zero_optimization.offload_optimizer": "learner.offload",
    "managed_gradient_accumulation": "learner.tokens_per_microbatch",
    "zero_allow_untested_optimizer": "optim.name",
}
"""DeepSpeed keys that a typed key owns, with the key to use instead."""

_KNOWN_KEYS = frozenset(
    {
        "activation_checkpointing",
        "aio",
        "amp",
        "bf16",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "compile",
        "compression_training",
        "csv_monitor",
        "curriculum_learning",
        "data_types",
        "disable_allgather",
        "dump_state",
        "elasticity",
        "flops_profiler",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "gradient_predivide_factor",
        "managed_gradient_accumulation",
        "memory_breakdown",
        "optimizer",
        "prescale_gradients",
        "scheduler",
        "seq_parallel_communication_data_type",
        "sparse_gradients",
        "steps_per_print",
        "tensorboard",
        "tensor_parallel",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "wall_clock_breakdown",
        "wandb",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)
"""Top-level names DeepSpeed 0.19 reads; it ignores others without a word, so we refuse them."""

_NO_MUON = (
    "tensor_parallel",
    "compression_training",
    "data_types.grad_accum_dtype",
    "zero_optimization.zenflow",
    "zero_optimization.offload_param",
    "zero_optimization.mics_shard_size",
    "zero_optimization.zero_hpz_partition_size",
)
"""Raw keys under which the optimizer's tensors are no longer laid out as `rl/optim` knows them."""

_BUCKET = 50_000_000


def deepspeed_config(learner: LearnerConfig, optim: OptimConfig) -> dict[str, Any]:
    """The dict for `deepspeed.initialize`. Raises ConjointError for a contradicting raw key.

    Each engine call is one micro-batch of one packed row; the rank itself says which backward is
    the last of an update, so DeepSpeed's accumulation count stays 1.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": learner.gradient_clipping,
        **(_adamw(learner, optim) if optim.name == "adamw" else _muon(learner, optim)),
        "zero_optimization": _zero(learner),
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
    }
    if learner.dtype == "bf16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return _merge(config, learner.deepspeed, "")


def _adamw(learner: LearnerConfig, optim: OptimConfig) -> dict[str, Any]:
    adamw: dict[str, Any] = {
        "lr": optim.lr,
        "betas": [optim.beta1, optim.beta2],
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    if not learner.offload:
        adamw["torch_adam"] = True
    return {"optimizer": {"type": "AdamW", "params": adamw}}


def _muon(learner: LearnerConfig, optim: OptimConfig) -> dict[str, Any]:
    """Our own optimizer, handed to DeepSpeed: DeepSpeed's Muon scales its update otherwise and
    clips gradients after it has orthogonalised them. Refuses what would take its matrices away."""
    if learner.offload:
        raise ConjointError(
            f"optim.name={optim.name} orthogonalises on the learner's device; turn learner.offload "
            "off, or use learner.zero_stage=2 or 3 with more ranks to save memory"
        )
    if learner.lora.rank:
        raise ConjointError(
            f"optim.name={optim.name} orthogonalises the update of whole matrices, which "
            "learner.lora freezes; use optim.name=adamw or learner.lora.rank=0"
        )
    for place in _NO_MUON:
        if _lookup(learner.deepspeed, place):
            raise ConjointError(
                f"learner.deepspeed.{place} cannot go with optim.name={optim.name}: Muon would "
                "not see whole matrices; use optim.name=adamw"
            )
    return {"zero_allow_untested_optimizer": True}


def _zero(learner: LearnerConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": learner.zero_stage,
        "overlap_comm": learner.gpus_per_rank > 0,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
    }
    if learner.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return zero


def _lookup(raw: Mapping[str, Any], place: str) -> Any:
    """The raw value at a dotted place, None if there is none."""
    value: Any = raw
    for part in place.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _merge(base: dict[str, Any], raw: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in raw.items():
        place = f"{path}{key}"
        if not path and key not in _KNOWN_KEYS:
            raise ConjointError(f"learner.deepspeed.{key} is not a key that DeepSpeed reads")
        if isinstance(value, Mapping) and isinstance(merged.get(key, {}), dict):
            merged[key] = _merge(merged.get(key, {}), value, f"{place}.")
            continue
        owner = _owner(place)
        if owner and merged.get(key) != value:
            raise ConjointError(
                f"learner.deepspeed.{place}={value!r} contradicts {owner}; set {owner} instead"
            )
        merged[key] = value
    return merged


def _owner(place: str) -> str | None:
    """The typed key that owns a dotted DeepSpeed key or one of its parents."""
    parts = place.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((_TYPED_KEY[p] for p in prefixes if p in _TYPED_KEY), None)
