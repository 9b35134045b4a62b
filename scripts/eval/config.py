"""What a user types after `conjoint eval`: the policy to measure, the suites, how to sample."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from conjoint.envs.types import ConjointError
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.config.compose import compose, typed
from conjoint.rl.config.overrides import suggest
from conjoint.rollouts.endpoint import EndpointConfig
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.scripts.eval.suites import SUITES

T = TypeVar("T")

_ELSEWHERE = {
    "rollout.groups_per_step": "concurrency",
    "rollout.group_size": "k",
    "rollout.max_tokens": "max_tokens",
    "rollout.max_model_len": "max_model_len",
    "rollout.max_turns": None,
    "rollout.temperature": "temperature",
}
"""Keys of a run's rollouts that mean nothing here -> the one that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """A policy and how to sample it."""

    model: str = ""
    """A checkpoint's or a run's folder, a folder that from_pretrained opens, nano, smollm2-135m, a
    hub id; with `endpoint` the name by which the server knows the model."""
    endpoint: str = ""
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; "" starts engines
    as `rollout` says."""
    api_key_env: str = ""
    """Environment variable that holds the endpoint's key, if it wants one."""
    k: int = 1
    """Answers a task."""
    temperature: float | None = None
    """null: 0 for one answer a task, 0.8 for several."""
    max_tokens: int | None = None
    """Sampled tokens that an answer may have; null: what the suite has (docs/evaluation.md)."""
    max_model_len: int | None = None
    """Context of the engine in tokens; null: what the longest prompt and answer need, as far as the
    model goes. A prompt that does not fit is not answered and scores 0."""
    seed: int = 0
    """Every answer's own seed derives from it."""
    concurrency: int = 64
    """Answers in flight."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """The engines, as in a run."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def sampled_at(self) -> float:
        """The temperature."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.k == 1 else 0.8

    def endpoint_config(self) -> EndpointConfig:
        seconds = self.rollout.request_timeout_s
        return EndpointConfig(
            self.endpoint,
            self.model,
            self.api_key_env,
            concurrency=self.concurrency,
            timeout_s=seconds,
            deadline_s=2 * seconds,
        )

    def engine_config(self, max_model_len: int) -> RolloutConfig:
        return replace(self.rollout, max_model_len=max_model_len, max_tokens=max_model_len - 1)

    def validate(self) -> None:
        """Raises ConjointError for what cannot be sampled."""
        if not self.model:
            raise ConjointError(
                "model is not given; name a checkpoint or model folder, nano, smollm2-135m or, "
                "with endpoint=URL, the server's model"
            )
        for key in ("k", "concurrency", "max_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConjointError(f"{key}={value} must be at least 1")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConjointError(f"max_model_len={self.max_model_len} must be at least 2")
        if self.sampled_at < 0:
            raise ConjointError(f"temperature={self.temperature} must be 0 or more")
        if self.rollout.sleep:
            raise ConjointError("rollout.sleep has no effect here; there is no learner")
        if self.k > 1 and self.sampled_at == 0:
            raise ConjointError(
                f"k={self.k} answers at temperature=0 are {self.k} times the same; raise one or "
                "take k=1"
            )
        if self.endpoint:
            self.endpoint_config().validate()
        elif self.api_key_env:
            raise ConjointError("api_key_env has no effect without endpoint=URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitesConfig(SampleConfig):
    """`conjoint eval`."""

    suite: list[str] = field(default_factory=lambda: list(SUITES))
    """Which suites, in this order."""
    data: str = ""
    """Folder that holds the public files of the suites."""
    paths: dict[str, str] = field(default_factory=dict)
    """Suite -> its file, where it has another name or place."""
    limit: int | None = None
    """The first so many tasks of each suite; null: all."""
    confidence: bool = False
    """Ask for the chance that the answer is right and measure it (docs/self-critique.md)."""
    grade_truncated: bool = False
    """Grade what there is of an answer that ran out of tokens, as most public harnesses do; false:
    it scores 0, as in training."""
    output: str = ""
    """A folder that does not exist yet; "": evals/MODEL-TIME."""

    def file_of(self, suite: str) -> Path:
        """Raises ConjointError naming the key if there is no such file."""
        name = SUITES[suite].file
        given = self.paths.get(suite)
        path = Path(given or Path(self.data) / name)
        if not given and not self.data:
            raise ConjointError(
                f"suite {suite} needs its file {name}: give data=FOLDER that holds it, or "
                f"paths.{suite}=FILE"
            )
        if not os.path.exists(path):
            key = f"paths.{suite}={given}" if given else f"data={self.data}"
            raise ConjointError(
                f"{key}: there is no file {path} for suite {suite}; get {name}, or name it with "
                f"paths.{suite}=FILE"
            )
        return path

    def validate(self) -> None:
        SampleConfig.validate(self)
        for name in (*self.suite, *self.paths):
            if name not in SUITES:
                raise ConjointError(f"there is no suite {name!r}; {suggest(name, SUITES)}")
        if not self.suite or len(set(self.suite)) < len(self.suite):
            raise ConjointError(f"suite={self.suite} must name each suite once, and one at least")
        if self.limit is not None and self.limit < 1:
            raise ConjointError(f"limit={self.limit} must be at least 1")


def load_suites(overrides: Sequence[str]) -> SuitesConfig:
    """The checked config of `conjoint eval`. Raises ConjointError."""
    cfg = typed(SuitesConfig, _composed([_listed(o) for o in overrides], SuitesConfig))
    cfg.validate()
    return cfg


def load_sampled(root: type[T], overrides: Sequence[str]) -> T:
    """The config `root` of a command that samples, unvalidated. Raises ConjointError."""
    return typed(root, _composed(overrides, root))


def _composed(overrides: Sequence[str], root: type) -> Mapping[str, Any]:
    for override in overrides:
        key = override.partition("=")[0]
        for idle, instead in _ELSEWHERE.items():
            if key == idle or key.startswith(f"{idle}."):
                advice = f"use {instead}" if instead else "an answer is one turn"
                raise ConjointError(f"{key} has no effect here; {advice}")
    return compose(overrides, root=root, file="eval")


def _listed(override: str) -> str:
    """suite=a,b as the list that it is."""
    key, _, value = override.partition("=")
    return f"suite=[{value}]" if key == "suite" and value[:1] != "[" else override
