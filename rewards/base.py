"""The reward contract: a reward takes a group and returns one `Score` for each trajectory.

A failure that the response caused scores 0. A failure of our machinery is `Score.infra_error`,
which masks the trajectory; it is never a reward of 0. `each` in `rewards/combine.py` makes a reward
from a check of a single response.
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
    """Access of a reward to the policy, to the judge and to a seed."""

    sampler: Sampler | None = None
    """The policy, or the snapshot that judges instead of it; None outside a run."""
    renderer: "Renderer | None" = None
    """Turns messages into tokens for `sampler`."""
    seed: int = 0
    """Seed of the reward's own draws."""
    judge: "ChatPolicy | None" = None
    """A judge with a chat interface, such as an endpoint; None asks `sampler`."""
    step: int = 0
    """Steps done."""
    num_steps: int = 0
    """Steps of the run; 0 outside one."""

    async def ask_judge(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> str:
        """The reply of the judge, or of the policy if there is no other judge.

        Arguments as in `conjoint.envs.types.Sampler`, with messages instead of tokens. Raises
        ConjointError if the context has neither judge nor policy, RuntimeError if the prompt is too
        long or the call was aborted, and any error of the judge itself.
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
    """Scores the K trajectories of one task: returns one `Score` for each, in order."""

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]: ...


Check = Callable[[Task, str], Score | Awaitable[Score]]
"""(task, response) -> score of a single response."""


@dataclass(frozen=True, slots=True)
class Example:
    """A task, an answer that a reward must pay, and answers that it must not pay.

    Each shipped reward has examples (`examples()` in its module). The probes grade them. They also
    make cheats from them that fit every reward: an empty answer, the prompt again, repetition.
    """

    task: Task
    right: str
    """An answer that must be paid."""
    cheats: Mapping[str, str] = field(default_factory=dict)
    """Name of a cheat -> an answer that only this reward could be fooled by."""
