"""The reward contract: a group in, one `Score` a trajectory out.

`each` lifts a plain check of one response to a group. What a response caused is a score of 0; what
our machinery caused is `Score.infra_error`, which masks the trajectory and is never a reward of 0.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from conjoint.envs.types import ConjointError, Group, Message, Sampler, Score, Task

if TYPE_CHECKING:
    from conjoint.rollouts.chat import ChatPolicy
    from conjoint.rollouts.renderer import Renderer


@dataclass(frozen=True, slots=True)
class RewardContext:
    """What a reward may use: the policy as a sampler, the renderer, a seed for its own draws, and
    the `judge` that is asked instead of the policy where there is one (an endpoint)."""

    sampler: Sampler | None = None
    renderer: "Renderer | None" = None
    seed: int = 0
    judge: "ChatPolicy | None" = None

    async def ask_judge(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> str:
        """The judge's own reply. `session` as in `conjoint.envs.types.Sampler`.

        Raises ConjointError where there is nobody to ask, and whatever a broken judge raises.
        """
        how = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if self.judge is not None:
            answer = await self.judge.chat(messages, **how, session=session)
            if answer.stop_reason == "too_long":
                raise RuntimeError("the judge's prompt is longer than its context")
            return answer.text
        if self.sampler is None or self.renderer is None:
            raise ConjointError(
                "a judged reward needs a policy to ask and this command has none; give "
                "judge.endpoint=URL and judge.endpoint_model=NAME, or turn rubrics off with "
                "reward.rubrics=[]"
            )
        tokens = self.renderer.prompt(messages)
        completion = await self.sampler(tokens, **how, session=session)
        if completion.stop_reason == "abort":
            raise RuntimeError("the engine aborted the call")
        return self.renderer.text(completion.tokens)


class RewardFn(Protocol):
    """Scores the K trajectories of one task; returns exactly one `Score` for each, in order."""

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]: ...


Check = Callable[[Task, str], Score | Awaitable[Score]]


@dataclass(frozen=True, slots=True)
class Example:
    """A task, an answer to it that must be paid, and answers that must not be.

    Each shipped reward has some (`examples()` in its module). The probes grade them, and make more
    cheats of them that fit every reward: an empty answer, the prompt again, repetition.
    """

    task: Task
    right: str
    cheats: Mapping[str, str] = field(default_factory=dict)
    """What the cheat is called -> the answer; those that only this reward could be fooled by."""


JUDGED = frozenset(("rubric", "faithfulness", "safety"))
"""Scores that are a judge's opinion."""
