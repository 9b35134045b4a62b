"""Turns appended to tokens, on real templates' habits."""

import pytest

from conjoint.envs.types import ConjointError, Message
from conjoint.rl.nano.model import CHAT_TEMPLATE
from tests.agents import TOOL_TEMPLATE, TOOLS, tool_renderer

USER: Message = {"role": "user", "content": "hello"}
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "functions.add:0", "type": "function",
         "function": {"name": "add", "arguments": '{"a": 1}'}}
    ],
}  # fmt: skip
RESULT: Message = {"role": "tool", "content": "3", "tool_call_id": "functions.add:0"}

THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""As Qwen3: the last assistant turn is rendered otherwise than earlier ones."""
ONE_END = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}<|end|>"
    "{% else %}[{{ m.role }}]{{ m.content }}[/]{% endif %}{% endfor %}"
)
"""As Llama 2: only an assistant's turn has an end token."""
REWRITES = "{{ messages | length }}" + CHAT_TEMPLATE
REVERSED = CHAT_TEMPLATE.replace("in messages", "in messages | reverse")
PICKY = (
    "{% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
    "{{ raise_exception('a result without a call') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
)
"""As Mistral: a result must follow a call."""


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, TOOL_TEMPLATE, THINKING, PICKY])
@pytest.mark.parametrize("turn", [[USER], [USER, USER], [RESULT], []])
def test_appended_turns_are_the_dialogue_rendered_at_once(template: str, turn: list[Message]):
    renderer = tool_renderer(template)
    answer: Message = {"role": "assistant", "content": "yes"}
    if turn == [RESULT]:
        answer["tool_calls"] = CALL["tool_calls"]  # type: ignore[typeddict-item]
    sampled = [*renderer.encode("yes"), renderer.stop_ids[0]]
    appended = [*renderer.prompt([USER]), *sampled, *renderer.next_turn(turn)]
    shown = renderer.prompt([USER, answer, *turn])
    if template == THINKING and not turn:
        return  # its last turn is the one that it renders otherwise
    if template == TOOL_TEMPLATE and turn == [RESULT]:
        # The policy wrote no call here; what follows it is the same.
        tail = renderer.next_turn(turn)
        assert shown[-len(tail) :] == tail
        return
    assert appended == shown


def test_a_template_whose_context_turns_have_no_end_token():
    renderer = tool_renderer(ONE_END)
    assert renderer.raw_text(renderer.next_turn([USER])) == "[user]hello[/]"


@pytest.mark.parametrize("template", [REWRITES, REVERSED, "{{ messages[0].content }}"])
def test_a_template_that_rewrites_earlier_turns_is_refused(template: str):
    with pytest.raises(ConjointError, match="rewrites earlier turns"):
        tool_renderer(template).next_turn([USER])


def test_what_a_template_refuses_is_a_sentence():
    with pytest.raises(ConjointError, match=r"cannot render .* a result without a call"):
        tool_renderer(PICKY).prompt([USER, RESULT])


def test_tools_are_shown_in_the_prompt_and_not_again_in_a_later_turn():
    renderer = tool_renderer()
    assert renderer.knows_tools and not tool_renderer(CHAT_TEMPLATE).knows_tools
    plain, with_tools = renderer.prompt([USER]), renderer.prompt([USER], TOOLS)
    assert with_tools[-len(plain) :] == plain and "weather" in renderer.raw_text(with_tools)
    assert renderer.next_turn([RESULT], TOOLS) == renderer.next_turn([RESULT])


def test_arguments_reach_the_template_as_values_and_nonsense_as_text():
    renderer = tool_renderer()
    text = renderer.raw_text(renderer.dialogue([USER, CALL]))
    assert '{"name": "add", "arguments": {"a": 1}}' in text
    broken: Message = {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{"}}
    ]}  # fmt: skip
    assert '"arguments": "{"}' in renderer.raw_text(renderer.dialogue([USER, broken]))


def test_raw_text_keeps_all_but_the_end():
    renderer = tool_renderer()
    tokens = renderer.encode(" a\n")
    assert renderer.raw_text([*tokens, renderer.stop_ids[0]]) == " a\n"
    assert renderer.text([*tokens, renderer.stop_ids[0]]) == "a"
