"""A policy behind an OpenAI-compatible endpoint: messages in, text out, no tokens.

What an answer needs beyond the `openai` package: one deadline over all attempts, answers that are
checked for being answers, and errors that hold no key. It knows no log-probs, so it can be measured
and can judge, but never be trained.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.envs.text import sound
from conjoint.envs.types import ConjointError, Message
from conjoint.rollouts.chat import ChatAnswer

_MAX_REASON = 300
"""Characters of a server's own words that are passed on."""


class EndpointError(Exception):
    """The endpoint gave no usable answer: our machinery, never the policy's doing. Holds no key."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Where the endpoint is and how patient to be with it."""

    url: str
    """Up to and with the version, such as http://127.0.0.1:8000/v1."""
    model: str
    """The name under which the server knows the model."""
    api_key_env: str = ""
    """Environment variable that holds the API key; "": the server asks for none."""
    concurrency: int = 16
    """Requests in flight."""
    timeout_s: float = 120.0
    """Seconds for one attempt."""
    deadline_s: float = 600.0
    """Seconds for one answer, with all its attempts and the pauses between them."""
    retries: int = 4
    """Further attempts after 408, 409, 429, a 5xx, a dropped or refused connection, a time-out, or
    an answer that is none. A server's Retry-After is obeyed, else the pause doubles."""

    def validate(self) -> None:
        """Raises ConjointError for what could not be called."""
        if not re.fullmatch(r"https?://[^\s/]+\S*", self.url):
            raise ConjointError(
                f"endpoint={self.url!r} is not an address; expected one such as "
                "http://127.0.0.1:8000/v1"
            )
        if not self.model:
            raise ConjointError(f"endpoint={self.url} needs the name of its model: model=NAME")
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise ConjointError(
                f"api_key_env={self.api_key_env}: there is no such environment variable, or it is "
                "empty; put the key of the endpoint into it"
            )
        if self.concurrency < 1 or self.retries < 0 or min(self.timeout_s, self.deadline_s) <= 0:
            raise ConjointError(
                "an endpoint needs concurrency of at least 1, retries of at least 0, and timeout_s "
                "and deadline_s above 0"
            )


class EndpointPolicy:
    """Answers chats, at most `concurrency` of them at a time. Close it when done."""

    def __init__(self, cfg: EndpointConfig) -> None:
        """Connects to nothing yet. Raises ConjointError for a config that cannot be."""
        cfg.validate()
        from openai import AsyncOpenAI

        self.cfg = cfg
        self._key = os.environ[cfg.api_key_env] if cfg.api_key_env else ""
        self._gate = asyncio.Semaphore(cfg.concurrency)
        self._client = AsyncOpenAI(
            base_url=cfg.url,
            # The package would send OPENAI_API_KEY to any server if it were given none.
            api_key=self._key or "none",
            max_retries=cfg.retries,
            timeout=cfg.timeout_s,
        )

    async def check(self) -> None:
        """Ask the server for its models. Raises ConjointError if it cannot be reached, refuses the
        key, or lists models without ours."""
        from openai import APIStatusError, OpenAIError

        try:
            async with asyncio.timeout(self.cfg.timeout_s):
                listed = await self._client.with_options(max_retries=1).models.list()
                names = [model.id async for model in listed]
        except APIStatusError as error:
            if error.status_code in (401, 403):
                raise ConjointError(
                    f"endpoint={self.cfg.url} refuses the key ({self._words(error)}); name the "
                    "environment variable that holds it: api_key_env=NAME"
                ) from None
            return  # some servers have no list; the first answer will tell
        except (OpenAIError, TimeoutError, AttributeError, TypeError) as error:
            raise ConjointError(
                f"endpoint={self.cfg.url} cannot be used: {self._words(error)}; start the server, "
                "or mend the address (it ends in /v1 on most servers)"
            ) from None
        if names and self.cfg.model not in names:
            shown = ", ".join(sorted(map(str, names))[:8])
            raise ConjointError(
                f"endpoint={self.cfg.url} has no model {self.cfg.model!r}; it lists {shown}"
            )

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
    ) -> ChatAnswer:
        """The next assistant message; `session` is unused, since a server routes by itself.

        Raises EndpointError when the deadline or the retries are used up, or at once for what
        trying again cannot mend (a wrong key, a prompt too long).
        """
        from openai import OpenAIError

        async with self._gate:
            try:
                async with asyncio.timeout(self.cfg.deadline_s):
                    return await self._answer(
                        model=self.cfg.model,
                        messages=sound(messages),
                        max_tokens=max_tokens,
                        temperature=temperature,
                        seed=seed,
                    )
            except TimeoutError:
                raise EndpointError(
                    f"the endpoint gave no answer within {self.cfg.deadline_s:g} s"
                ) from None
            except OpenAIError as error:
                # Without its cause: that one holds the request, and the key in its headers.
                raise EndpointError(f"the endpoint failed: {self._words(error)}") from None

    async def close(self) -> None:
        await self._client.close()

    async def _answer(self, **request: Any) -> ChatAnswer:
        """The package tries again what failed; an answer that is none is tried again here."""
        problem = ""
        for _ in range(self.cfg.retries + 1):
            try:
                reply = await self._client.chat.completions.create(**request)
            except (ValueError, RecursionError) as error:  # it called itself JSON and was not
                problem = str(error)
                continue
            answer = _read(reply)
            if isinstance(answer, ChatAnswer):
                return answer
            problem = answer
        raise EndpointError(f"the endpoint's answer cannot be read: {self._hide(problem)}")

    def _words(self, error: Exception) -> str:
        """The error in one line without the key, which a server may quote."""
        text = " ".join(str(error).split()) or type(error).__name__
        cause = error.__cause__
        if cause is not None and str(cause):
            text += f" ({' '.join(str(cause).split())})"
        return self._hide(text)

    def _hide(self, text: str) -> str:
        shown = text.replace(self._key, "[key]") if self._key else text
        return shown[:_MAX_REASON].encode("utf-8", "replace").decode()


def _read(reply: Any) -> ChatAnswer | str:
    """The answer in a reply, or what is wrong with it: the package checks no field."""
    try:
        choice = reply.choices[0]
        text, usage = choice.message.content, reply.usage
        stop = "length" if choice.finish_reason == "length" else "stop"
        tokens = int(usage.completion_tokens or 0) if usage else 0
        prompt_tokens = int(usage.prompt_tokens or 0) if usage else 0
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return f"it has not the form of a chat completion: {_shown(reply)}"
    if text is not None and not isinstance(text, str):
        return f"its content is a {type(text).__name__}, not text"
    return ChatAnswer(sound(text or ""), stop, tokens, prompt_tokens)


def _shown(reply: Any) -> str:
    try:
        return repr(str(reply)[:120])
    except RecursionError:
        return "it is nested too deeply"
