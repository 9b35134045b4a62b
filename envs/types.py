"""The nouns of conjoint: Task, Trajectory, Group, Score, Completion and Sampler.

The policy answers each `Task` `group_size` times. Each answer is recorded as a `Trajectory`. The K
trajectories of one task form a `Group`, the unit of scoring and of advantages.

Every other module but text.py may import this one. It imports the standard library only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NotRequired, Protocol, TypedDict

from conjoint.envs.text import digest


class ConjointError(Exception):
    """A user's mistake. The command prints the message, one sentence, and exits with code 2."""


class StopRun(Exception):
    """A stop rule fired, so the run must not continue. The message says why and what to do."""


class FunctionCall(TypedDict):
    """The function and arguments of a `ToolCall`."""

    name: str
    arguments: str
    """A JSON object, as text."""


class ToolCall(TypedDict):
    """One tool call of an assistant message, in the format of OpenAI's API."""

    id: str
    type: str
    """Always "function"."""
    function: FunctionCall


class Message(TypedDict):
    """One turn of a dialogue, in the format of OpenAI's API.

    An assistant message may call tools. A message with role "tool" is the result of one call.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class Status(StrEnum):
    """Progress of a trajectory."""

    RUNNING = "running"
    """The answer is unfinished. Its sampling may continue in a later step."""
    COMPLETED = "completed"
    """The policy ended its answer itself."""
    TRUNCATED = "truncated"
    """The answer was cut off by its budget, its context, its number of turns, or because it
    repeated itself. It is scored, and penalised where budgets are on."""
    FAILED = "failed"
    """The environment, the agent or the engine failed. The trajectory is counted and masked from
    every loss. It never gets a score of 0."""


class Outcome(StrEnum):
    """Result of one check of one trajectory."""

    PASS = "pass"
    FAIL = "fail"
    TIMEOUT = "timeout"
    """The response's own program or formula took too long: score 0."""
    ERROR = "error"
    """The response's own program or formula raised an error: score 0."""
    INFRA_ERROR = "infra_error"
    """Our machinery failed (a sandbox, a judge): the score is None and the trajectory is masked."""
    ABSTAIN = "abstain"
    """The reward has nothing to say of this answer: the score is None and does not count."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt, with the reference that verifies its answer.

    `kind` selects the token budget and the rewards. Only verifiers see `reference`: it never enters
    a prompt of the policy or of a judge.

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
        """A task whose id is a hash of kind and messages, so equal prompts of a kind share an id.

        A `prompt` given as text becomes one user message.
        """
        messages = (
            (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)
        )
        content = json.dumps([kind, list(messages)], sort_keys=True, ensure_ascii=False)
        return Task(f"{kind}-{digest(content)[:16]}", kind, messages, reference, dict(meta or {}))

    @property
    def prompt(self) -> str:
        """Text of the last user message, "" without one."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


CALIBRATION = "calibration"
"""Name of the score for the confidence that an answer states. It does not check the answer."""


@dataclass(frozen=True, slots=True)
class Score:
    """Value in [0, 1] that one check gives one trajectory, with reasons for a human reader.

    `value` is None exactly when `outcome` is INFRA_ERROR or ABSTAIN.
    """

    name: str
    value: float | None
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    judged: bool = False
    """Whether a judge's opinion decided it. Such a score proves nothing: it teaches no critic, pays
    no confidence and does not count as verified."""

    @staticmethod
    def of(name: str, value: float, *reasons: str) -> "Score":
        """A score whose outcome is PASS from 1.0 on and FAIL below."""
        return Score(name, value, Outcome.PASS if value >= 1.0 else Outcome.FAIL, reasons)

    @staticmethod
    def infra_error(name: str, *reasons: str) -> "Score":
        """A score without a value, which masks its trajectory from training."""
        return Score(name, None, Outcome.INFRA_ERROR, reasons)

    @staticmethod
    def abstain(name: str, *reasons: str) -> "Score":
        """A score without a value that leaves the answer to the other rewards. An answer that all
        of them abstain from is masked."""
        return Score(name, None, Outcome.ABSTAIN, reasons)


@dataclass(frozen=True, slots=True)
class Completion:
    """Result of one sampler call: n tokens, and n log-probs under the distribution they came from.

    `stop_reason` is "stop" (the policy sampled its end token), "length" (`max_tokens` was reached)
    or "abort" (the engine returned the answer unfinished; to continue it, call the sampler again
    with these tokens appended). Any other value means that the engine cut off a repetition.
    """

    tokens: list[int]
    logprobs: list[float]
    """Natural logarithms, after temperature and nucleus were applied."""
    stop_reason: str
    version: int
    """Version of the weights that drew the last token."""
    engine: str = ""
    """Name of the engine worker that sampled."""
    versions: list[int] = field(default_factory=list)
    """Version of the weights that drew each token, if the weights changed during the call. Empty
    if `version` drew all tokens."""


class Sampler(Protocol):
    """The policy as environments and judges see it: a plain async callable.

    Arguments: `tokens` is the context, `max_tokens` bounds the tokens to sample, and `top_p` is the
    probability mass of the nucleus (1.0 samples from the whole vocabulary). `session` names calls
    that share a prefix, such as the K samples of a group or the pairs of a judge. Calls of one
    session go to the same engine. Those made in the same tick of the event loop travel together.
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
    """Token-level record of one answer, prompt included.

    `tokens`, `sampled`, `behavior_logprobs` and `versions` have one entry for each token. Only
    `extend_context` and `extend_sampled` write to them, so they stay aligned. A context token has
    sampled=False, log-prob 0.0 and version -1.
    """

    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    """True for tokens that the policy drew: the tokens that a loss may train on."""
    behavior_logprobs: list[float] = field(default_factory=list)
    """Log-prob that the engine reported for each token when it sampled it."""
    versions: list[int] = field(default_factory=list)
    """Version of the weights that drew each token."""
    messages: list[Message] = field(default_factory=list)
    status: Status = Status.RUNNING
    temperature: float = 1.0
    top_p: float = 1.0
    """Probability mass of the nucleus that tokens were sampled from; 1 is the whole vocabulary."""
    budget: int = 0
    """Most sampled tokens that the answer was allowed; 0 if that is not known."""
    engine: str = ""
    """Name of the engine worker that sampled last."""
    scores: list[Score] = field(default_factory=list)
    reward: float | None = None
    """Scalar reward (`rewards/assign.py`). None masks the trajectory from training."""
    reward_parts: dict[str, float] = field(default_factory=dict)
    """Name of a score -> the reward from that score alone. `reward` is the weighted mean."""
    advantage: float | None = None
    """Reward relative to the group. None masks the trajectory from training."""
    metrics: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    """Last message without its stated confidence. None if the prompt asked for no confidence."""
    confidence: float | None = None
    """Stated probability in [0, 1] that the answer is right. None if no readable one is stated."""

    def extend_context(self, tokens: Sequence[int]) -> None:
        """Append tokens that the policy did not draw: prompt, environment or tool output."""
        n = len(tokens)
        self._extend(tokens, [False] * n, [0.0] * n, [-1] * n)

    def extend_sampled(self, completion: Completion) -> None:
        """Append tokens that the policy drew.

        Raises ValueError unless there is one log-prob and one version for each token.
        """
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
        """Text that rewards grade: the last assistant message without its stated confidence.

        "" before the first assistant message.
        """
        return self.last_message if self.answer is None else self.answer

    @property
    def last_message(self) -> str:
        """Text of the last assistant message, "" before the first one."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "assistant"), "")

    @property
    def checks(self) -> list[Score]:
        """Scores of the answer itself: all but abstentions and the score of its stated
        confidence."""
        return [s for s in self.scores if s.name != CALIBRATION and s.outcome != Outcome.ABSTAIN]

    @property
    def trainable(self) -> bool:
        """Whether a loss may use the trajectory: it has an advantage and has not failed."""
        return self.status is not Status.FAILED and self.advantage is not None


@dataclass(slots=True)
class Group:
    """The K trajectories of one task. `index` fixes the group's place in the batch of its step."""

    task: Task
    trajectories: list[Trajectory]
    index: int = 0

    @property
    def graded(self) -> list[Trajectory]:
        """Trajectories that have a reward."""
        return [t for t in self.trajectories if t.reward is not None]


def derive_seed(*parts: object) -> int:
    """A 31-bit seed from any parts, equal in every process and on every machine.

    All random draws of a run take their seed from here: there is no global random state.

    Example: `derive_seed(run_seed, task.id, sample_index)`.
    """
    # The separator keeps ("a", "bc") apart from ("ab", "c").
    return int(digest("\x1f".join(map(str, parts)))[:8], 16) & 0x7FFFFFFF
