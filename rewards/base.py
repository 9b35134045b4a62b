"""The reward contract: a group in, one `Score` a trajectory out.

`each` lifts a plain check of one response to a group. What a response caused is a score of 0; what
our machinery caused is `Score.infra_error`, which masks the trajectory and is never a reward of 0.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rl.types import Group, Sampler, Score, Task

if TYPE_CHECKING:
    from rollouts.renderer import Renderer


@dataclass(frozen=True, slots=True)
class RewardContext:
    """What a reward may use: the policy as a sampler, the renderer, a seed for its own draws."""

    sampler: Sampler | None = None
    renderer: "Renderer | None" = None
    seed: int = 0


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
