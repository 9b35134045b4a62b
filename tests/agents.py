"""What tests of the gateway need: a policy with a script, a template with tools, and an agent."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from conjoint.envs.types import Completion
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.gateway.server import Gateway
from conjoint.rollouts.gateway.session import Session
from conjoint.rollouts.renderer import Renderer

ROOMY = EpisodeLimits(budget=1000, max_model_len=4000, max_turns=20, temperature=1.0)

TOOL_TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>"
    "{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Nano's dialogue with tools in the way of Qwen and Hermes, and a line feed after each turn."""

WORDS = "the weather in Paris is 18 degrees and sunny, in Rome 25; add a b city tool_call name"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {"type": "object", "properties": properties},
        },
    }
    for name, about, properties in (
        ("weather", "Degrees in a city.", {"city": {"type": "string"}}),
        ("add", "Add two numbers.", {"a": {"type": "number"}, "b": {"type": "number"}}),
    )
]


@cache
def tokenizer(template: str = TOOL_TEMPLATE) -> Any:
    """Nano's tokenizer with another template."""
    from conjoint.rl.nano.model import NanoConfig, build_tokenizer

    made = build_tokenizer([WORDS, json.dumps(TOOLS)], NanoConfig(vocab_size=400))
    made.chat_template = template
    return made


@cache
def tool_renderer(template: str = TOOL_TEMPLATE) -> Renderer:
    return Renderer(tokenizer(template))


def call(name: str, **arguments: Any) -> str:
    """A tool call as the policy writes it; spaced otherwise than any JSON library does."""
    inside = ",".join(f'"{key}":  {json.dumps(value)}' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{inside}}}}}\n</tool_call>'


class Scripted:
    """A sampler that says what its script says, one token a character: never the tokens that an
    encoder would choose, so whoever encodes an answer again is found out."""

    def __init__(self, *script: str | Callable[[int], str], renderer: Renderer | None = None):
        self.script = list(script)
        self.renderer = renderer or tool_renderer()
        self.asked: list[list[int]] = []
        self.given: list[Completion] = []
        self.how: list[dict[str, Any]] = []

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
        top_p: float = 1.0,
    ) -> Completion:
        said = self.script[min(len(self.asked), len(self.script) - 1)]
        text = said if isinstance(said, str) else said(seed)
        drawn = [t for c in text for t in self.renderer.encode(c)] + [self.renderer.stop_ids[0]]
        stop = "stop" if len(drawn) <= max_tokens else "length"
        drawn = drawn[:max_tokens]
        # Log-probs that tell calls and places apart.
        logprobs = [-(len(self.asked) + 1) - i / 1000 for i in range(len(drawn))]
        self.asked.append(list(tokens))
        self.how.append({"temperature": temperature, "seed": seed, "session": session})
        self.given.append(Completion(drawn, logprobs, stop, 3, "fake-0"))
        return self.given[-1]

    def text_of(self, index: int) -> str:
        """The prompt of one call."""
        return self.renderer.raw_text(self.asked[index])


@asynccontextmanager
async def served(
    engine: Scripted, limits: EpisodeLimits = ROOMY
) -> AsyncIterator[tuple[Any, Session]]:
    """(official client, session) of one episode."""
    from openai import AsyncOpenAI

    gateway = Gateway(engine, engine.renderer)
    await gateway.start()
    try:
        with gateway.open(limits, 7, "group") as (url, session):
            async with AsyncOpenAI(base_url=url, api_key="none") as client:
                yield client, session
    finally:
        await gateway.close()


def use_tool(name: str, arguments: str) -> str:
    given = json.loads(arguments)
    try:
        if name == "weather":
            return json.dumps({"degrees": {"Paris": 18, "Rome": 25}[given["city"]]})
        return str(given["a"] + given["b"])
    except (KeyError, TypeError) as error:
        return f"error: {error!r}"


def main() -> None:
    """An agent as people write them: the official client, its environment variables, a loop over
    tool calls. It knows nothing of this project but the task on its standard input."""
    from openai import OpenAI

    client = OpenAI()
    messages: list[Any] = list(json.loads(sys.stdin.readline())["messages"])
    while True:
        reply = client.chat.completions.create(
            model="gpt-4o", messages=messages, tools=TOOLS, temperature=0.2
        )
        message = reply.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for tool_call in message.tool_calls:
            result = use_tool(tool_call.function.name, tool_call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": result})


async def play(base_url: str, task: Any) -> None:
    """The same, asynchronous."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        messages: list[Any] = list(task.messages)
        while True:
            reply = await client.chat.completions.create(
                model="gpt-4o", messages=messages, tools=TOOLS
            )
            message = reply.choices[0].message
            messages.append(message.model_dump())
            if not message.tool_calls:
                break
            for tool_call in message.tool_calls:
                result = use_tool(tool_call.function.name, tool_call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": result})


if __name__ == "__main__":
    main()
