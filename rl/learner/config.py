"""What the learner's part of the config says. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.lora import LoraConfig

ATTENTIONS = ("segments", "sdpa", "eager", "flash_attention_2", "flex_attention")


SHARING = ("segments", "sdpa", "eager")
"""Attention that can run a group's prompt once."""


DTYPES = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Where the learner runs and how a batch is cut. Counts are per learner unless said."""

    ranks: int = 1
    gpus_per_rank: float = 0
    """0 trains on CPU, 1 gives each rank a GPU; a fraction shares one with engines (ranks=1)."""
    threads: int = 2
    """CPU threads of one rank. A fixed number keeps results bit-equal between runs."""
    dtype: str = "fp32"
    """fp32, or bf16 with fp32 master weights (ZeRO 1-3)."""
    zero_stage: int = 1
    offload: bool = False
    """Keep optimizer state in CPU memory (GPU ranks, ZeRO 1-3)."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    tokens_per_microbatch: int = 4096
    """Packed tokens in one forward pass of one rank, which bounds activation memory."""
    updates_per_batch: int = 1
    """Optimizer updates in one step, each on its own share of the groups. Above 1 the batch turns
    off-policy after the first: tau and the ratio clip then matter."""
    attention: str = "segments"
    """segments: causal attention looped over packed pieces; sdpa, eager: one masked call over all
    of them; flash_attention_2: variable-length kernel (GPU, bf16); flex_attention: block mask
    (GPU). A backend without a backward pass on the device is refused at start."""
    share_prompts: bool = True
    """Run the prompt of a group once, for all of its answers (segments, sdpa, eager)."""
    logits_bytes: int = 256 * 2**20
    """Largest fp32 logits [trained tokens, vocabulary] of a micro-batch that are kept for the
    backward pass. Larger ones are computed twice, in chunks of a quarter of this size."""
    gradient_checkpointing: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw DeepSpeed keys merged into the generated configuration; a key that contradicts one of
    the fields above is refused."""
    start_seconds: float = 300.0
    """Deadline for all ranks to load the model."""
    step_seconds: float = 3600.0
    """Deadline for one call: a step, a save, a load or a weight transfer."""

    def validate(self) -> None:
        _check_choice("attention", self.attention, ATTENTIONS)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("zero_stage", self.zero_stage, (0, 1, 2, 3))
        if self.gpus_per_rank not in (0, 1) and not (
            self.ranks == 1 and 0 < self.gpus_per_rank < 1
        ):
            raise ConjointError(
                f"learner.gpus_per_rank is {self.gpus_per_rank}; use 0 (CPU), 1, or a fraction "
                "with learner.ranks=1"
            )
        for key in (
            "ranks",
            "threads",
            "tokens_per_microbatch",
            "updates_per_batch",
            "logits_bytes",
        ):
            if getattr(self, key) < 1:
                raise ConjointError(f"learner.{key} must be at least 1, not {getattr(self, key)}")
        if self.gradient_clipping < 0:
            raise ConjointError("learner.gradient_clipping must be 0 (off) or above")
        if min(self.start_seconds, self.step_seconds) <= 0:
            raise ConjointError("learner.start_seconds and learner.step_seconds must be above 0")
        if self.dtype == "bf16" and self.zero_stage == 0:
            raise ConjointError(
                "learner.dtype=bf16 needs fp32 master weights, which ZeRO keeps; "
                "set learner.zero_stage to 1, 2 or 3"
            )
        if self.offload and (self.zero_stage == 0 or self.gpus_per_rank == 0):
            raise ConjointError(
                "learner.offload moves ZeRO's optimizer state off a GPU; set "
                "learner.gpus_per_rank=1 and learner.zero_stage to 1, 2 or 3, or turn it off"
            )
        if self.attention == "flash_attention_2" and (
            self.gpus_per_rank == 0 or self.dtype != "bf16"
        ):
            raise ConjointError(
                "learner.attention=flash_attention_2 needs learner.gpus_per_rank=1 and "
                "learner.dtype=bf16; use segments or sdpa"
            )
        if self.share_prompts and self.attention not in SHARING:
            raise ConjointError(
                f"learner.attention={self.attention} cannot share the prompt of a group; set "
                f"learner.share_prompts=false, or use one of {list(SHARING)}"
            )


def _check_choice(key: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ConjointError(f"learner.{key} is {value!r}; choose one of {list(choices)}")
