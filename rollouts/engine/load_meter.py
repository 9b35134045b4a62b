"""What happens inside one vLLM engine between two reports, for `rollouts/engine/admission.py`.

vLLM calls `record` after each step of its scheduler: to it this is one more logger of statistics.
"""

from typing import Any

from conjoint.rollouts.engine.admission import Load


class LoadMeter:
    """Has the methods of vLLM's StatLoggerBase, but imports nothing of it: it may be made, and
    tested, where vLLM is not."""

    def __init__(self) -> None:
        self._running = 0
        """In the scheduler's last step."""
        self._dropped = 0
        """Preemptions to come that are no sign of a full cache: see `froze`."""
        self._kv_now = 0.0
        self._active = 0
        self._begin()

    def _begin(self) -> None:
        self._kv_usage = self._kv_now
        self._most_active = self._active
        self._preemptions = 0
        self._prompt_tokens = self._cached_tokens = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self._running = scheduler_stats.num_running_reqs
            self._kv_now = scheduler_stats.kv_cache_usage
            self._kv_usage = max(self._kv_usage, self._kv_now)
        if iteration_stats is not None:
            expected = min(self._dropped, iteration_stats.num_preempted_reqs)
            self._dropped -= expected
            self._preemptions += iteration_stats.num_preempted_reqs - expected

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, *_: Any) -> None: ...

    def entered(self, count: int) -> None:
        """So many requests were given to the engine; negative: have left it."""
        self._active += count
        self._most_active = max(self._most_active, self._active)

    def answered(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += cached_tokens

    def froze(self) -> None:
        """The KV of what runs was dropped for new weights: vLLM reports each of them as preempted,
        with its next token."""
        self._dropped += self._running
        self._running = 0

    def emptied(self) -> None:
        """Nothing is left that could still be reported so."""
        self._dropped = 0

    def report(self, answers: int) -> Load:
        load = Load(
            answers,
            self._most_active,
            self._kv_usage,
            self._preemptions,
            self._prompt_tokens,
            self._cached_tokens,
        )
        self._begin()
        return load
