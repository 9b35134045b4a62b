"""What `conjoint bench` measures and the targets it is held against. Imports nothing heavy."""

from dataclasses import dataclass, field

from rl.types import ConjointError

TARGETS = {
    "head_memory": 0.25,
    "head_time": 1.4,
    "packing": 1.0,
    "tokens_per_second": 1.5,
}
"""head_memory, head_time: at most; packing, tokens_per_second: at least."""
AT_MOST = ("head_memory", "head_time")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """`conjoint bench learner`: sizes and targets. The learner itself is set by `learner` keys."""

    model: str = "smollm2-135m"
    """smollm2-135m, or a folder that from_pretrained opens."""
    rows: str | None = None
    """A .jsonl file of GSM8K's columns, question and answer, whose lengths are taken; null draws
    lengths from a distribution like them."""
    groups: int = 2
    group_size: int = 8
    repeats: int = 2
    """Each repeat times every variant once, one after the other; medians are compared."""
    head_tokens: int = 1024
    """Trained tokens of the loss head's own measurement."""
    targets: dict[str, float] = field(default_factory=lambda: dict(TARGETS))

    def validate(self) -> None:
        for key in ("groups", "repeats", "head_tokens"):
            if getattr(self, key) < 1:
                raise ConjointError(f"bench.{key} must be at least 1, not {getattr(self, key)}")
        if self.group_size < 2:
            raise ConjointError(f"bench.group_size must be at least 2, not {self.group_size}")
        if unknown := sorted(set(self.targets) - set(TARGETS)):
            raise ConjointError(
                f"bench.targets.{unknown[0]} is not measured; choose among {sorted(TARGETS)}"
            )
