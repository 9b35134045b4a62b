"""How many answers may run at once: additive increase, multiplicative decrease.

Each answer of a worker carries a `Load`: what its cache and its scheduler did since the last one. A
worker that had to preempt (throw away the KV of a started answer, to compute it again later) may
run half of what it ran; one whose cache has room may run a few more. No clock and no extra call:
time is counted in answers, and a round is as many of them as ran at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOMY = 0.95
"""Share of the KV cache up to which more answers are let in. What runs grows while it runs."""
STEP = 16
"""A round lets in 1/STEP of `max_num_seqs` more."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker did since its last report."""

    answers: int
    """That ended, and are reported with this."""
    active: int
    """Most answers the engine held at once, those that waited for KV included."""
    kv_usage: float
    """Largest share of the KV cache in use."""
    preemptions: int
    """Preemptions that the engine's scheduler chose itself. A weight update also drops the KV of
    the answers that it froze; those are not counted."""
    prompt_tokens: int
    cached_tokens: int
    """The part of `prompt_tokens` that was found in the prefix cache."""

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.answers + other.answers,
            max(self.active, other.active),
            max(self.kv_usage, other.kv_usage),
            self.preemptions + other.preemptions,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(slots=True)
class _Limit:
    """One worker's."""

    most: int
    now: float
    settling: int = 0
    """Answers until the last decrease has shown its effect."""

    def observe(self, load: Load) -> None:
        self.settling = max(0, self.settling - load.answers)
        if load.preemptions:
            if not self.settling:
                self.now = max(1.0, min(self.now, load.active) / 2)
                self.settling = load.active  # what runs too many must end first
        elif load.kv_usage < ROOMY and 2 * load.active >= self.now:
            # A limit that nothing reaches has not been tried, so it does not grow.
            self.now = min(self.most, self.now + load.answers * self.most / STEP / self.now)


@dataclass(slots=True)
class Admission:
    """The limits of all workers, and the counts that a step logs. Each worker starts at
    `max_num_seqs`, where the engine's own queue keeps order until something is known."""

    workers: int
    max_num_seqs: int
    _limits: list[_Limit] = field(init=False)
    _since: Load | None = field(init=False, default=None)
    """All reports since the metrics were last asked for."""

    def __post_init__(self) -> None:
        self._limits = [self._fresh() for _ in range(self.workers)]

    def _fresh(self) -> _Limit:
        return _Limit(self.max_num_seqs, float(self.max_num_seqs))

    def observe(self, worker: int, load: Load) -> None:
        self._since = self._since + load if self._since else load
        self._limits[worker].observe(load)

    def replaced(self, worker: int) -> None:
        """Another process answers for this worker now: nothing is known about it."""
        self._limits[worker] = self._fresh()

    def capacity(self, up: Sequence[int]) -> int:
        """Over the workers that are up; while none is, as much as one that comes will take."""
        return sum(int(self._limits[worker].now) for worker in up) or self.max_num_seqs

    def drain_metrics(self) -> dict[str, float]:
        """Over the reports since the last call; empty if there were none."""
        load, self._since = self._since, None
        if load is None:
            return {}
        return {
            "engine/preemptions": float(load.preemptions),
            "engine/kv_usage": load.kv_usage,
            "engine/prompt_tokens": float(load.prompt_tokens),
            "engine/cached_tokens": float(load.cached_tokens),
            "engine/prefix_hits": load.cached_tokens / max(1, load.prompt_tokens),
        }
