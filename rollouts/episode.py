"""One episode: an environment and a policy take turns until one of them ends it.

A turn may be sampled in parts: an engine returns what it has when a call is aborted, and a `Pace`
may bound what an answer samples under one version of the weights. The parts are appended; nothing
is sampled twice.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from conjoint.envs.base import Env
from conjoint.envs.types import Completion, Message, Sampler, Status, Trajectory, derive_seed
from conjoint.rollouts.renderer import Renderer

Pace = Callable[[int], AbstractAsyncContextManager[int]]
"""`async with pace(sampled) as room`: waits until an answer that has sampled so many tokens may go
on, and for how many more at most; the body is one call to the sampler."""


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    budget: int
    """Sampled tokens over the whole episode."""
    max_model_len: int
    max_turns: int
    temperature: float
    top_p: float = 1.0

    def begin(self) -> Trajectory:
        """An empty trajectory that knows how it is sampled."""
        return Trajectory(temperature=self.temperature, top_p=self.top_p, budget=self.budget)


def unpaced(sampled: int) -> AbstractAsyncContextManager[int]:
    """On at once, to the end."""
    return nullcontext(1 << 30)


PlayedBy = Callable[[EpisodeLimits, int, str, Pace], Awaitable[Trajectory]]
"""(limits, seed, session, pace) -> the trajectory of somebody who plays a whole episode alone."""


class Episode:
    """Plays one trajectory; `trajectory` can be looked at while it is played."""

    def __init__(
        self,
        sampler: Sampler,
        renderer: Renderer,
        limits: EpisodeLimits,
        seed: int,
        session: str,
        pace: Pace = unpaced,
    ) -> None:
        self._sampler = sampler
        self._renderer = renderer
        self._limits = limits
        self._seed = seed
        self._session = session
        self._pace = pace
        self.trajectory = limits.begin()
        self._turn_start = 0
        """Where the tokens of the turn under way begin."""

    async def play(self, env: Env, begun: Trajectory | None = None) -> Trajectory:
        """The trajectory ends COMPLETED, or TRUNCATED when budget, context or turns run out; an
        exception from the environment or the engine is the caller's to mask. `begun` is a first
        turn that was taken out unfinished: it goes on from its last token."""
        try:
            messages = await env.start()
            if begun is not None:
                self.trajectory = begun
                # Schedules may have moved since; an answer is drawn in one way from end to end.
                self._limits = replace(
                    self._limits,
                    budget=begun.budget,
                    temperature=begun.temperature,
                    top_p=begun.top_p,
                )
                self._turn_start = len(begun.tokens) - begun.num_sampled
            else:
                self.trajectory.messages.extend(messages)
                self._give(self._renderer.prompt(messages))
            for turn in range(self._limits.max_turns):
                answer = await self._turn(turn)
                if answer is None:
                    break
                messages = await env.reply(answer)
                if not messages:
                    self.trajectory.status = Status.COMPLETED
                    return self.trajectory
                self.trajectory.messages.extend(messages)
                self._give(self._renderer.next_turn(messages))
            self.trajectory.status = Status.TRUNCATED
            return self.trajectory
        finally:
            await env.close()

    async def play_by(self, agent: PlayedBy) -> Trajectory:
        """Leave it to an agent that asks the policy by itself. Until it ends there is nothing to be
        looked at: it can be started anew and not taken up again."""
        self.trajectory = await agent(self._limits, self._seed, self._session, self._pace)
        return self.trajectory

    def _give(self, tokens: Sequence[int]) -> None:
        """Context, after which the policy's turn begins."""
        self.trajectory.extend_context(tokens)
        self._turn_start = len(self.trajectory.tokens)

    async def _turn(self, turn: int) -> Message | None:
        """Sample one turn to its end; None if it was cut off."""
        ended, asked = self._ended(), False
        while not ended and (room := self._room) > 0:
            asked = True
            async with self._pace(self.trajectory.num_sampled) as share:
                completion = await self._ask(turn, min(room, share))
            self.trajectory.extend_sampled(completion)
            ended = completion.stop_reason == "stop"
            if completion.stop_reason not in ("stop", "length", "abort"):
                break  # the engine saw it repeat itself
        if not (asked or ended):
            return None
        tokens = self.trajectory.tokens[self._turn_start :]
        answer = Message(role="assistant", content=self._renderer.text(tokens))
        self.trajectory.messages.append(answer)
        return answer if ended else None

    async def _ask(self, turn: int, max_tokens: int) -> Completion:
        part = len(self.trajectory.tokens) - self._turn_start
        return await self._sampler(
            self.trajectory.tokens,
            max_tokens=max_tokens,
            temperature=self._limits.temperature,
            top_p=self._limits.top_p,
            # A part that goes on after others must not draw their random numbers again.
            seed=derive_seed(self._seed, turn, *([part] if part else [])),
            session=self._session,
        )

    @property
    def _room(self) -> int:
        t = self.trajectory
        return min(self._limits.budget - t.num_sampled, self._limits.max_model_len - len(t.tokens))

    def _ended(self) -> bool:
        """Whether the turn under way has its last token already: it was taken out just then."""
        t = self.trajectory
        return bool(t.sampled and t.sampled[-1] and t.tokens[-1] in self._renderer.stop_ids)


def to_the_end(sampler: Sampler) -> Sampler:
    """The same sampler for callers that know nothing of parts: an aborted call is asked again for
    the rest."""

    async def sample(
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion:
        how: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "session": session}
        whole = await sampler(tokens, max_tokens=max_tokens, seed=seed, **how)
        while whole.stop_reason == "abort" and len(whole.tokens) < max_tokens:
            n = len(whole.tokens)
            rest = await sampler(
                [*tokens, *whole.tokens],
                max_tokens=max_tokens - n,
                seed=derive_seed(seed, n),
                **how,
            )
            whole = joined(whole, rest)
        return whole

    return sample


def joined(first: Completion, rest: Completion) -> Completion:
    """Two parts of one answer as one."""
    versions = [
        v for part in (first, rest) for v in part.versions or [part.version] * len(part.tokens)
    ]
    return Completion(
        first.tokens + rest.tokens,
        first.logprobs + rest.logprobs,
        rest.stop_reason,
        rest.version,
        rest.engine,
        versions,
    )
