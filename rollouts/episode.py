"""One episode: environment and policy take turns until the environment or a limit ends it.

One turn may take several calls to the sampler. An engine returns an answer unfinished when its call
is aborted, and a `Pace` may bound the tokens of one call. Each call continues from the tokens of
the calls before it; no token is sampled twice.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from conjoint.envs.base import Env
from conjoint.envs.types import Completion, Message, Sampler, Status, Trajectory, derive_seed
from conjoint.rollouts.renderer import Renderer

Pace = Callable[[int], AbstractAsyncContextManager[int]]
"""Waits until an answer may sample on: `async with pace(sampled) as room`.

`sampled` counts the tokens that the answer has sampled so far. `room` is the most that it may
sample now. The body of the `async with` makes one call to the sampler.
"""


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Limits and sampling parameters of one episode."""

    budget: int
    """Most sampled tokens, over all turns."""
    max_model_len: int
    """Most tokens of the whole sequence: prompt, answers and environment messages."""
    max_turns: int
    """Most messages of the policy."""
    temperature: float
    top_p: float = 1.0
    """Probability mass of the nucleus; 1 samples from the whole vocabulary."""

    def begin(self) -> Trajectory:
        """An empty trajectory with these sampling parameters."""
        return Trajectory(temperature=self.temperature, top_p=self.top_p, budget=self.budget)


def unpaced(sampled: int) -> AbstractAsyncContextManager[int]:
    """A `Pace` without waits and without a bound."""
    return nullcontext(1 << 30)


PlayedBy = Callable[[EpisodeLimits, int, str, Pace], Awaitable[Trajectory]]
"""(limits, seed, session, pace) -> the trajectory of an agent that plays a whole episode itself."""


class Episode:
    """Plays one trajectory. `trajectory` may be read at any time, also while it is played."""

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
        """Index of the first token of the current policy turn."""

    async def play(self, env: Env, begun: Trajectory | None = None) -> Trajectory:
        """Play against `env` and close it.

        The trajectory ends COMPLETED, or TRUNCATED if budget, context or turns run out or the
        answer repeats itself. Exceptions of environment and engine go to the caller, which masks
        the trajectory. `begun` is an unfinished first turn, which is continued from its last token.
        """
        try:
            messages = await env.start()
            if begun is not None:
                self.trajectory = begun
                # Schedules may have moved since then, but one answer has one temperature.
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
        """Let `agent` play the episode with policy calls of its own.

        `trajectory` stays empty until the agent ends, so a checkpoint cannot continue the episode.
        """
        self.trajectory = await agent(self._limits, self._seed, self._session, self._pace)
        return self.trajectory

    def _give(self, tokens: Sequence[int]) -> None:
        """Append context tokens. The policy's next turn begins after them."""
        self.trajectory.extend_context(tokens)
        self._turn_start = len(self.trajectory.tokens)

    async def _turn(self, turn: int) -> Message | None:
        """Sample one turn and append its message. None if the turn did not reach its end token."""
        # A continued turn may have its end token already: it was aborted just after that.
        ended, asked = self._ended(), False
        while not ended and (room := self._room) > 0:
            asked = True
            async with self._pace(self.trajectory.num_sampled) as share:
                completion = await self._ask(turn, min(room, share))
            self.trajectory.extend_sampled(completion)
            ended = completion.stop_reason == "stop"
            if completion.stop_reason not in ("stop", "length", "abort"):
                break  # the engine saw it repeat itself
        # Without room for a single token there is no turn, and no empty message for it.
        if not (asked or ended):
            return None
        tokens = self.trajectory.tokens[self._turn_start :]
        answer = Message(role="assistant", content=self._renderer.text(tokens))
        self.trajectory.messages.append(answer)
        return answer if ended else None

    async def _ask(self, turn: int, max_tokens: int) -> Completion:
        """One call to the sampler for the next tokens of this turn."""
        part = len(self.trajectory.tokens) - self._turn_start
        return await self._sampler(
            self.trajectory.tokens,
            max_tokens=max_tokens,
            temperature=self._limits.temperature,
            top_p=self._limits.top_p,
            # A later call of the turn must not repeat the random numbers of an earlier one.
            seed=derive_seed(self._seed, turn, *([part] if part else [])),
            session=self._session,
        )

    @property
    def _room(self) -> int:
        """Tokens that budget and context still allow."""
        t = self.trajectory
        return min(self._limits.budget - t.num_sampled, self._limits.max_model_len - len(t.tokens))

    def _ended(self) -> bool:
        """Whether the last token is an end token of the policy."""
        t = self.trajectory
        return bool(t.sampled and t.sampled[-1] and t.tokens[-1] in self._renderer.stop_ids)


def to_the_end(sampler: Sampler) -> Sampler:
    """A sampler that continues aborted calls of `sampler`, for callers that cannot, like judges.

    Its completions never have stop_reason "abort" with room left for further tokens.
    """

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
    """One completion from two consecutive parts of an answer."""
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
