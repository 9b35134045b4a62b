"""The optimizer's settings, and its learning rate as a pure function of the updates done."""

from dataclasses import dataclass, fields

from conjoint.envs.types import ConjointError
from conjoint.rollouts.schedule import SCHEDULES, scheduled

OPTIMIZERS = ("adamw", "muon", "muonclip")


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule (docs/optimizers.md says which to take)."""

    name: str = "adamw"
    """adamw; muon: Muon on the hidden matrices, AdamW on the rest; muonclip: that and QK-Clip."""
    lr: float = 1e-5
    """Learning rate of every parameter: Muon's update is scaled to the size of AdamW's."""
    momentum: float = 0.95
    """Nesterov momentum of Muon. Below, beta1, beta2 and eps are AdamW's."""
    qk_clip_tau: float = 100.0
    """muonclip: attention heads whose largest logit exceeds it are scaled back to it."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Decoupled; applies to matrices only (see `rl/learner/optim/param_groups.py`)."""
    warmup_updates: int = 0
    """Optimizer updates over which the learning rate rises linearly from lr/warmup_updates."""
    schedule: str = "constant"
    """After the warm-up: constant, linear or cosine; the last two end at 0."""

    def validate(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConjointError(f"optim.name is {self.name!r}; choose one of {list(OPTIMIZERS)}")
        if not 0 <= self.momentum < 1 or self.qk_clip_tau <= 0:
            raise ConjointError("optim.momentum must be in [0, 1) and optim.qk_clip_tau above 0")
        for key, users in _ONLY_OF.items():
            if self.name not in users and getattr(self, key) != _DEFAULTS[key]:
                raise ConjointError(
                    f"optim.{key} does nothing with optim.name={self.name}; it is of "
                    f"{' and '.join(users)}"
                )
        if self.schedule not in SCHEDULES:
            raise ConjointError(
                f"optim.schedule is {self.schedule!r}; choose one of {list(SCHEDULES)}"
            )
        if self.lr < 0 or self.weight_decay < 0 or self.warmup_updates < 0 or self.eps <= 0:
            raise ConjointError(
                "optim.lr, optim.weight_decay and optim.warmup_updates must be at least 0 and "
                "optim.eps above 0"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConjointError("optim.beta1 and optim.beta2 must be in [0, 1)")


_ONLY_OF = {"momentum": ("muon", "muonclip"), "qk_clip_tau": ("muonclip",)}
_DEFAULTS = {field.name: field.default for field in fields(OptimConfig)}


def learning_rate(config: OptimConfig, update: int, total_updates: int) -> float:
    """Learning rate of update number `update` (from 0) of `total_updates`."""
    if update < config.warmup_updates:
        return config.lr * (update + 1) / config.warmup_updates
    span = max(total_updates - config.warmup_updates, 1)
    progress = min((update - config.warmup_updates) / span, 1.0)
    return scheduled(config.schedule, config.lr, 0.0, progress)
