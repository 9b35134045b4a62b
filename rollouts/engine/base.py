"""The rollout engine's contract, and the configuration of rollouts."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from conjoint.envs.types import ConjointError, Sampler
from conjoint.rollouts.schedule import progress_of, scheduled
from conjoint.rollouts.weights.manifest import Sent


@dataclass(frozen=True, slots=True)
class TemperatureConfig:
    """Sampling temperature over the run (Kimi K2 decays it; the shape is not disclosed)."""

    start: float = 1.0
    end: float = 1.0
    shape: str = "linear"
    """linear or cosine, from `start` at step 0 to `end` at the last step."""

    def validate(self) -> None:
        if self.shape not in ("linear", "cosine"):
            raise ConjointError(
                f"rollout.temperature.shape={self.shape!r} is unknown; use linear or cosine"
            )
        if min(self.start, self.end) <= 0:
            raise ConjointError("rollout.temperature must stay above 0 in training")

    def at(self, step: int, num_steps: int) -> float:
        return scheduled(self.shape, self.start, self.end, progress_of(step, num_steps))


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    groups_per_step: int = 32
    """Prompts a step, over all task kinds."""
    group_size: int = 8
    """K: answers a prompt."""
    max_tokens: int = 64
    """Hard cap on sampled tokens a trajectory, whatever its budget."""
    max_model_len: int = 256
    """Context of the engine, in tokens; prompt and answer together."""
    max_turns: int = 1
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    top_p: dict[str, float] = field(default_factory=dict)
    """Nucleus sampling by task kind: the share of the likeliest tokens that are drawn from, 1 where
    a kind is not named. Training only; evaluation and judge sample from all tokens."""
    max_staleness: int = 0
    """Versions by which a trained token may be older than the weights being trained. 0 is
    synchronous, 1 one step off; the answers of so many later steps are sampled ahead."""
    overlap: bool = True
    """Sample while the learner trains; false pauses the engines then. With max_staleness only."""
    partial: bool = True
    """An update of the weights freezes unfinished answers, which go on under the new ones; false
    lets them end first. With max_staleness only."""
    segment_tokens: int = 0
    """Tokens that an answer samples at most under one version, until its step is due; 0: no bound
    (Kimi K1.5's budget of an iteration). With max_staleness only."""
    mask_stale: bool = False
    """Train an answer's newest segment only; tokens of older versions become context. With
    max_staleness only."""
    oversample: float = 0.0
    """Share of further groups that a step starts; the slowest ones are cut off when it has enough.
    Saves the tail and prefers short answers."""
    replace_flat: int = 0
    """Rounds in which groups whose rewards are all equal are replaced by new tasks (DAPO's dynamic
    sampling, arXiv 2503.14476)."""
    repeat_pattern: int = 0
    """Cut an answer off that repeats a pattern of up to so many tokens; 0: never."""
    repeat_count: int = 8
    """Repetitions in a row that cut it off."""
    backend: str = "vllm"
    """vllm, or transformers: slower and plain, for debugging and where there is no vLLM."""
    engines: int = 1
    """Workers of that backend."""
    tensor_parallel: int = 1
    gpus_per_engine: float = 0.0
    """0 samples on CPU; else equal to `tensor_parallel`, or a fraction to share one GPU."""
    sleep: bool = False
    """Free the engine's part of a GPU that it shares with the learner while that one steps."""
    dtype: str = "float32"
    threads: int = 2
    """CPU threads of one engine; CPU engines only."""
    kv_cache_gb: float = 1.0
    """KV cache on CPU, in GiB."""
    block_size: int = 32
    max_num_seqs: int = 256
    start_timeout_s: float = 300.0
    request_timeout_s: float = 300.0
    """Deadline of one call to an engine; sampling has none, the heartbeat finds what hangs."""
    heartbeat_s: float = 5.0
    """How often each engine is asked whether it lives."""
    hang_timeout_s: float = 120.0
    """An engine that takes longer to say so is killed and replaced. One step of the engine, such as
    the prefill of a long batch on a busy CPU, must fit."""
    max_deaths: int = 3
    """Deaths of one engine in a row, without an answer between them, that are mended; one more ends
    the run."""
    vllm: dict[str, Any] = field(default_factory=dict)
    """Raw AsyncEngineArgs, merged last."""

    def in_words(self) -> str:
        """What samples, for a run's records."""
        name = {"vllm": "vLLM"}.get(self.backend, self.backend)
        return f"{self.engines} {name} worker(s), {self.dtype}"

    def validate(self) -> None:
        for key in ("groups_per_step", "group_size", "max_tokens", "engines", "tensor_parallel"):
            if getattr(self, key) < 1:
                raise ConjointError(f"rollout.{key}={getattr(self, key)} must be at least 1")
        if self.group_size < 2:
            raise ConjointError(
                "rollout.group_size=1 leaves nothing to compare an answer with; use 2 or more"
            )
        if self.max_tokens >= self.max_model_len:
            raise ConjointError(
                f"rollout.max_tokens={self.max_tokens} leaves no room for a prompt in "
                f"rollout.max_model_len={self.max_model_len}; raise the latter"
            )
        self._validate_schedule()
        if self.gpus_per_engine not in (0, self.tensor_parallel) and not (
            self.tensor_parallel == 1 and 0 < self.gpus_per_engine < 1
        ):
            raise ConjointError(
                f"rollout.gpus_per_engine={self.gpus_per_engine:g} must be 0 (CPU), equal to "
                f"rollout.tensor_parallel={self.tensor_parallel}, or a fraction of one GPU"
            )
        if not 0 < self.heartbeat_s <= self.hang_timeout_s:
            raise ConjointError(
                f"rollout.heartbeat_s={self.heartbeat_s:g} must be above 0 and at most "
                f"rollout.hang_timeout_s={self.hang_timeout_s:g}"
            )
        if self.max_deaths < 0:
            raise ConjointError(
                f"rollout.max_deaths={self.max_deaths} must not be negative; 0 replaces no engine"
            )
        self._validate_backend()
        for kind, top_p in self.top_p.items():
            if not 0 < top_p <= 1:
                raise ConjointError(f"rollout.top_p.{kind}={top_p} must be above 0 and at most 1")

    def _validate_schedule(self) -> None:
        for key in ("max_staleness", "segment_tokens", "oversample", "replace_flat"):
            if getattr(self, key) < 0:
                raise ConjointError(f"rollout.{key}={getattr(self, key)} must be 0 or more")
        default = RolloutConfig()
        for key in ("overlap", "partial", "segment_tokens", "mask_stale"):
            if not self.max_staleness and getattr(self, key) != getattr(default, key):
                raise ConjointError(
                    f"rollout.{key}={str(getattr(self, key)).lower()} has no effect with "
                    "rollout.max_staleness=0, where every answer ends within its step; raise "
                    "rollout.max_staleness or leave it out"
                )
        if self.repeat_pattern < 0 or self.repeat_count < 2:
            raise ConjointError(
                f"rollout.repeat_pattern={self.repeat_pattern} must be 0 or more and "
                f"rollout.repeat_count={self.repeat_count} at least 2"
            )

    def _validate_backend(self) -> None:
        if self.backend not in ("vllm", "transformers"):
            raise ConjointError(
                f"rollout.backend={self.backend!r} is unknown; use vllm or transformers"
            )
        default = RolloutConfig()
        for key in ("vllm", "tensor_parallel", "kv_cache_gb", "block_size", "sleep"):
            if self.backend != "vllm" and getattr(self, key) != getattr(default, key):
                raise ConjointError(
                    f"rollout.{key}={getattr(self, key)} has no effect with "
                    f"rollout.backend={self.backend}; leave it at {getattr(default, key)}"
                )


class RolloutEngine(Sampler, Protocol):
    """A sampler whose weights can be replaced. It refuses to sample between `pause` and the
    confirmation of the weights it was last given."""

    version: int

    @property
    def capacity(self) -> int:
        """Answers that fit at once, over all workers: what the scheduler admits."""
        ...

    async def pause(self, *, drain: bool = True) -> None:
        """Nothing runs when it returns, and new requests wait for `resume`. `drain` lets what runs
        end first; otherwise it is frozen where it is and goes on after `resume`, under the weights
        loaded by then."""
        ...

    async def resume(self) -> None: ...

    async def abort(self) -> None:
        """End what runs: each call returns what it has sampled, with stop_reason "abort"."""
        ...

    async def load_weights(self, sent: Sent, version: int, /) -> str:
        """Load what was sent, unless the sender did; returns the checksum of what was received."""
        ...

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        """log p(tokens[i] | tokens[:i]) for i >= 1: what the weight probe compares."""
        ...

    def drain_metrics(self) -> dict[str, float]:
        """Counts since the last call, as `engine/...`."""
        ...

    async def close(self) -> None: ...
