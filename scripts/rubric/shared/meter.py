"""What the calls of a judge or a policy cost, and when to stop asking one that is down."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from conjoint.envs.types import Message, StopRun
from conjoint.rollouts.chat import ChatAnswer, ChatPolicy

_GIVE_UP = 24
"""Failed calls, none having come through, after which nobody is asked any more."""


@dataclass(slots=True)
class Meter:
    """A `ChatPolicy` that counts what is asked of another one, at most `concurrency` at a time.

    Raises StopRun when nothing but failures came: what is down is not asked a thousand times.
    """

    policy: ChatPolicy
    concurrency: int
    calls: int = 0
    answered: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    too_long: int = 0
    _gate: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._gate = asyncio.Semaphore(self.concurrency)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> ChatAnswer:
        async with self._gate:
            self.calls += 1
            try:
                answer = await self.policy.chat(
                    messages,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                    session=session,
                )
            except Exception as error:
                self.failed += 1
                if self.failed >= _GIVE_UP and not self.answered:
                    raise StopRun(
                        f"the first {self.failed} calls of the judge all failed ({error}); see "
                        "that it answers, then try again"
                    ) from error
                raise
        self.answered += 1
        self.tokens += answer.tokens
        self.prompt_tokens += answer.prompt_tokens
        self.too_long += answer.stop_reason == "too_long"
        return answer

    def words(self) -> str:
        """What it cost, and what broke."""
        said = [
            f"{self.calls:,} calls",
            f"{self.prompt_tokens:,} prompt tokens",
            f"{self.tokens:,} sampled tokens",
        ]
        said += [f"{self.too_long:,} prompts too long for the context"] if self.too_long else []
        said += [f"{self.failed:,} calls failed"] if self.failed else []
        return ", ".join(said)
