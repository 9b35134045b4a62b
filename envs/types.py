"""The nouns of conjoint. A leaf: standard library only, imported by everything else.

A `Task` is asked `group_size` times; each answer is a `Trajectory`; the K trajectories of one task
are a `Group`, the unit of scoring and of advantage.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NotRequired, Protocol, TypedDict


class ConjointError(Exception):
    """A mistake the user can mend. The command prints it as one sentence and exits with code 2."""


class StopRun(Exception):
    """The run must not go on (a guard's stop rule); the message says why and what to do."""


class FunctionCall(TypedDict):
    name: str
    arguments: str
    """A JSON object, as text."""


class ToolCall(TypedDict):
    """A tool that an assistant message asks for, as OpenAI's API has it."""

    id: str
    type: str
    """Always "function"."""
    function: FunctionCall


class Message(TypedDict):
    """One turn of a dialogue. An assistant may call tools; a "tool" message answers one call."""

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class Status(StrEnum):
    """Where a trajectory stands."""

    RUNNING = "running"
    """Still being sampled; carried over to the next step."""
    COMPLETED = "completed"
    """The policy ended its answer by itself."""
    TRUNCATED = "truncated"
    """Ran out of budget or context: scored, and penalised where budgets are on."""
    FAILED = "failed"
    """Our machinery broke: masked from every loss, counted, never scored 0."""


class Outcome(StrEnum):
    """How one check of one trajectory ended."""

    PASS = "pass"
    FAIL = "fail"
    TIMEOUT = "timeout"
    """The response's own program or formula took too long: score 0."""
    ERROR = "error"
    """The response's own program or formula broke: score 0."""
    INFRA_ERROR = "infra_error"
    """Our machinery broke: score null, masked."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt and what is needed to verify its answer.

    `kind` routes budget and reward. `reference` is for verifiers only: it never reaches the policy
    or a judge prompt.

    Example: `Task.make("math", "What is 2+3?", reference="5")`.
    """

    id: str
    kind: str
    messages: tuple[Message, ...]
    reference: Any = None
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    def make(
        kind: str,
        prompt: str | Sequence[Message],
        reference: Any = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "Task":
        """A task whose id is the hash of its content, so equal tasks have equal ids."""
        messages = (
            (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)
        )
        content = json.dumps([kind, list(messages)], sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return Task(f"{kind}-{digest}", kind, messages, reference, dict(meta or {}))

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


CALIBRATION = "calibration"
"""Name of the score that pays the confidence an answer states. It is no check of the answer."""


@dataclass(frozen=True, slots=True)
class Score:
    """One check's value in [0, 1] for one trajectory, with the reasons a reader needs.

    `value` is None exactly when `outcome` is INFRA_ERROR.
    """

    name: str
    value: float | None
    outcome: Outcome
    reasons: tuple[str, ...] = ()

    @staticmethod
    def of(name: str, value: float, *reasons: str) -> "Score":
        return Score(name, value, Outcome.PASS if value >= 1.0 else Outcome.FAIL, reasons)

    @staticmethod
    def infra_error(name: str, *reasons: str) -> "Score":
        return Score(name, None, Outcome.INFRA_ERROR, reasons)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a sampler returns: n tokens and their n log-probs under the distribution sampled from.

    `stop_reason` is "stop" (the policy ended), "length" (ran into max_tokens) or "abort" (taken out
    of the engine unfinished; ask again with these tokens appended).
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: str
    version: int
    """Of the weights that drew the last token."""
    engine: str = ""
    versions: list[int] = field(default_factory=list)
    """One a token, where weights changed in the middle; empty: `version` drew them all."""


class Sampler(Protocol):
    """The policy as environments and judges see it: a plain async callable.

    `session` groups calls that share a prefix (the K samples of a group, the pairs of a judge):
    they go to one engine, and calls of one session made in the same tick travel together.
    """

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion: ...


@dataclass(slots=True)
class Trajectory:
    """The token-level record of one answer; written through the two `extend_` methods only.

    `tokens`, `sampled`, `behavior_logprobs` and `versions` are aligned: one entry a token.
    A context token has sampled=False, log-prob 0.0 and version -1.
    """

    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    behavior_logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    status: Status = Status.RUNNING
    temperature: float = 1.0
    top_p: float = 1.0
    """Below 1 a token was drawn from the likeliest ones that have this share together."""
    budget: int = 0
    """Sampled tokens it might have; 0 is not known."""
    engine: str = ""
    scores: list[Score] = field(default_factory=list)
    reward: float | None = None
    reward_parts: dict[str, float] = field(default_factory=dict)
    """What each score pays by its name; `reward` is their weighted mean."""
    advantage: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    """The last message without the confidence that it states; None where none was asked for."""
    confidence: float | None = None
    """The chance of being right that the answer states, None where it states none that is
    readable."""

    def extend_context(self, tokens: Sequence[int]) -> None:
        """Append tokens the policy was given (prompt, environment, tools)."""
        n = len(tokens)
        self._extend(tokens, [False] * n, [0.0] * n, [-1] * n)

    def extend_sampled(self, completion: Completion) -> None:
        """Append tokens the policy drew. ValueError if log-probs, versions and tokens differ in
        number."""
        n = len(completion.tokens)
        versions = completion.versions or [completion.version] * n
        if not len(completion.logprobs) == len(versions) == n:
            raise ValueError(
                f"{n} tokens but {len(completion.logprobs)} log-probs and {len(versions)} versions"
            )
        self.engine = completion.engine
        self._extend(completion.tokens, [True] * n, completion.logprobs, versions)

    def _extend(
        self,
        tokens: Sequence[int],
        sampled: Sequence[bool],
        logprobs: Sequence[float],
        versions: Sequence[int],
    ) -> None:
        self.tokens.extend(tokens)
        self.sampled.extend(sampled)
        self.behavior_logprobs.extend(logprobs)
        self.versions.extend(versions)

    @property
    def num_sampled(self) -> int:
        return sum(self.sampled)

    @property
    def response(self) -> str:
        """What is graded: the last assistant message without the confidence it was asked for, ""
        before there is one."""
        return self.last_message if self.answer is None else self.answer

    @property
    def last_message(self) -> str:
        """The text of the last assistant message, "" before there is one."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "assistant"), "")

    @property
    def checks(self) -> list[Score]:
        """The scores of the answer itself, without that of its confidence."""
        return [score for score in self.scores if score.name != CALIBRATION]

    @property
    def trainable(self) -> bool:
        """Whether a loss may use it: finished, graded and with an advantage."""
        return self.status is not Status.FAILED and self.advantage is not None


@dataclass(slots=True)
class Group:
    """The K trajectories of one task, and the step-wide `index` that fixes its place in a batch."""

    task: Task
    trajectories: list[Trajectory]
    index: int = 0

    @property
    def graded(self) -> list[Trajectory]:
        return [t for t in self.trajectories if t.reward is not None]


def derive_seed(*parts: object) -> int:
    """A 31-bit seed from any parts, the same in every process and on every machine.

    Example: `derive_seed(run_seed, task.id, sample_index)`.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
