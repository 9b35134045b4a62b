"""Tool calls in each family's form."""

import json

import pytest

from conjoint.envs.types import Message
from conjoint.rollouts.gateway.tool_calls import FORMS, form_of, read_calls

FORM = {form.name: form for form in FORMS}
ADD = '{"a": 1, "b": [2, "é"]}'
KIMI = "<|tool_call_begin|>functions.add:7<|tool_call_argument_begin|>%s<|tool_call_end|>"


@pytest.mark.parametrize(
    ("form", "text", "rest"),
    [
        ("hermes", f'Now <tool_call>{{"name": "add", "arguments": {ADD}}}</tool_call>', "Now "),
        ("hermes", f'<tool_call>\n{{"arguments":{ADD},"name":"add"}}\n</tool_call>\n', "\n"),
        (
            "kimi",
            f"Now <|tool_calls_section_begin|>{KIMI % ADD}<|tool_calls_section_end|>",
            "Now ",
        ),
        ("mistral", f'[TOOL_CALLS] [{{"name": "add", "arguments": {ADD}}}]', ""),
        ("llama", f'{{"name": "add", "parameters": {ADD}}}', ""),
        ("llama", f'<|python_tag|>{{"name": "add", "parameters": {ADD}}}', ""),
    ],
)
def test_a_call_is_read_in_its_familys_form(form: str, text: str, rest: str):
    left, calls = read_calls(FORM[form], text, [])
    assert left == rest
    assert [(c["id"], c["type"], c["function"]["name"]) for c in calls] == [
        ("functions.add:0", "function", "add")
    ]
    assert json.loads(calls[0]["function"]["arguments"]) == json.loads(ADD)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", f'<tool_call>{{"name": "add", "arguments": {ADD}}}'),
        ("hermes", f'<tool_call>{{"name": "add", "arguments": {ADD}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": "a"}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>[]</tool_call>"),
        ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>"),
        # One good call does not save its neighbour.
        (
            "hermes",
            '<tool_call>{"name": "add", "arguments": {}}</tool_call><tool_call>{</tool_call>',
        ),
        ("kimi", KIMI % "{"),
        ("kimi", (KIMI % ADD).replace(":7", "")),
        ("kimi", (KIMI % ADD).replace("<|tool_call_end|>", "")),
        ("mistral", '[TOOL_CALLS]{"name": "add"}'),
        ("llama", '{"name": "add"}'),
        ("hermes", "no call at all"),
        ("mistral", "no call at all"),
        ("llama", "no call at all"),
        ("kimi", "no call at all"),
    ],
)
def test_what_is_no_call_stays_text(form: str, text: str):
    assert read_calls(FORM[form], text, []) == (text, [])


def test_ids_count_over_the_whole_dialogue():
    one = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    _, first = read_calls(FORM["hermes"], one + one, [])
    before: list[Message] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": first},
        {"role": "tool", "content": "1", "tool_call_id": first[0]["id"]},
    ]
    _, second = read_calls(FORM["hermes"], one, before)
    ids = [call["id"] for call in (*first, *second)]
    assert ids == ["functions.add:0", "functions.add:1", "functions.add:2"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_form_is_told_from_the_chat_template(form):
    assert form_of(f"{{% if tools %}}... {form.mark} ...{{% endif %}}") is form
    assert form_of("{{ messages }}").name == "hermes"
