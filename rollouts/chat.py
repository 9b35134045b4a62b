"""The policy one level above tokens: messages in, the next message out.

For whoever needs an answer and nothing that a loss would: evaluation, judges, simulators. Behind it
is an engine (`EngineChat`) or an endpoint that shows no tokens (`rollouts/endpoint.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from conjoint.envs.types import Message, Sampler
from conjoint.rollouts.renderer import Renderer


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One answer. `stop_reason` is "stop" (the model ended), "length" (ran out of tokens) or
    "too_long" (the prompt leaves no room for a single token; nothing was sampled)."""

    text: str
    stop_reason: str
    tokens: int
    """Sampled tokens; 0 if a server does not say."""
    prompt_tokens: int
    """Likewise, of the prompt."""


class ChatPolicy(Protocol):
    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> ChatAnswer:
        """The next assistant message. `session` as in `conjoint.envs.types.Sampler`."""
        ...


class EngineChat:
    """A sampler of tokens with its renderer. `max_model_len` tokens hold prompt and answer."""

    def __init__(self, sampler: Sampler, renderer: Renderer, max_model_len: int) -> None:
        self._sampler = sampler
        self._renderer = renderer
        self._max_model_len = max_model_len

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> ChatAnswer:
        prompt = self._renderer.prompt(messages)
        room = min(max_tokens, self._max_model_len - len(prompt))
        if room < 1:
            return ChatAnswer("", "too_long", 0, len(prompt))
        completion = await self._sampler(
            prompt, max_tokens=room, temperature=temperature, seed=seed, session=session
        )
        return ChatAnswer(
            self._renderer.text(completion.tokens),
            "stop" if completion.stop_reason == "stop" else "length",
            len(completion.tokens),
            len(prompt),
        )
