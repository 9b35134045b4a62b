"""Tool calls in the text of an answer: one form for each family of chat templates.

hermes (Hermes, Qwen2.5, Qwen3)   `<tool_call>{"name": N, "arguments": {...}}</tool_call>`
kimi (Kimi K2)                    `<|tool_call_begin|>functions.N:0<|tool_call_argument_begin|>{...}
                                  <|tool_call_end|>`
mistral (Mistral)                 `[TOOL_CALLS][{"name": N, "arguments": {...}}, ...]`
llama (Llama 3.1 to 3.3)          the whole answer is `{"name": N, "parameters": {...}}`
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.envs.text import from_json, sound, to_json
from conjoint.envs.types import Message, ToolCall

_Found = tuple[str, list[tuple[str, str]]]
"""The text outside the calls, and (name, arguments as JSON text) of each call."""


@dataclass(frozen=True, slots=True)
class Form:
    """How one family of models writes calls. `read` raises ValueError for a malformed one."""

    name: str
    mark: str
    """What the chat template of such a model holds."""
    read: Callable[[str], _Found]


def _hermes(text: str) -> _Found:
    rest, bodies = _cut(text, "<tool_call>", "</tool_call>")
    return rest, [_call(from_json(body)) for body in bodies]


def _kimi(text: str) -> _Found:
    between = "<|tool_call_argument_begin|>"
    rest, bodies = _cut(text, "<|tool_call_begin|>", "<|tool_call_end|>")
    calls = []
    for body in bodies:
        written, mark, arguments = body.partition(between)
        name = re.fullmatch(r"\s*(?:functions\.)?([\w.-]+):\d+\s*", written)
        if name is None or not mark:
            raise ValueError(f"{written!r} is not functions.NAME:COUNTER")
        calls.append(_call({"name": name[1], "arguments": from_json(arguments)}))
    rest = re.sub(r"<\|tool_calls_section_(?:begin|end)\|>", "", rest)
    if between in rest:
        raise ValueError("arguments outside a call")
    return rest, calls


def _cut(text: str, begin: str, end: str) -> tuple[str, list[str]]:
    """(the text outside, what stands between each `begin` and the next `end`), in linear time: the
    first mark that is not closed ends the search. Raises ValueError for a mark without the other.
    """
    rest, bodies, place = [], [], 0
    while (start := text.find(begin, place)) >= 0:
        stop = text.find(end, start + len(begin))
        if stop < 0:
            raise ValueError("a call that is not closed")
        rest.append(text[place:start])
        bodies.append(text[start + len(begin) : stop])
        place = stop + len(end)
    outside = "".join(rest) + text[place:]
    if begin in outside or end in outside:
        raise ValueError("a call that is not opened")
    return outside, bodies


def _mistral(text: str) -> _Found:
    rest, mark, body = text.partition("[TOOL_CALLS]")
    if not mark:
        return text, []
    calls = from_json(body)
    if not isinstance(calls, list):
        raise ValueError("no list of calls")
    return rest, [_call(call) for call in calls]


def _llama(text: str) -> _Found:
    body = text.removeprefix("<|python_tag|>").strip()
    if not body.startswith("{"):
        return text, []
    return "", [_call(from_json(body), key="parameters")]


def _call(value: Any, key: str = "arguments") -> tuple[str, str]:
    if not isinstance(value, Mapping) or not isinstance(value.get(key), Mapping):
        raise ValueError(f"a call without {key}")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a call without name")
    return sound(name), to_json(sound(value[key]))


FORMS = (
    Form("kimi", "<|tool_call_begin|>", _kimi),
    Form("mistral", "[TOOL_CALLS]", _mistral),
    Form("llama", "<|python_tag|>", _llama),
    Form("hermes", "<tool_call>", _hermes),
)


def form_of(template: str) -> Form:
    """The form that a chat template asks the model to write; hermes if none can be told."""
    return next((form for form in FORMS if form.mark in template), FORMS[-1])


def read_calls(form: Form, text: str, before: Sequence[Message]) -> tuple[str, list[ToolCall]]:
    """(text outside the calls, calls) of an answer to `before`. If one call is malformed there are
    none, and the text is all of it.

    Ids are `functions.NAME:COUNTER`; the counter runs over the whole dialogue.
    """
    try:
        rest, found = form.read(text)
    except ValueError:
        return text, []
    counter = sum(len(message.get("tool_calls", ())) for message in before)
    calls = [
        ToolCall(
            id=f"functions.{name}:{counter + i}",
            type="function",
            function={"name": name, "arguments": arguments},
        )
        for i, (name, arguments) in enumerate(found)
    ]
    return rest, calls
