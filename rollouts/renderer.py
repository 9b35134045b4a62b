"""Messages <-> tokens, in one place. A turn is appended, model output is never rendered again.

Any text can be encoded: a lone surrogate becomes U+FFFD, and special tokens are those of the chat
template alone (`special_tokens.py`).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from conjoint.envs.text import from_json, sound
from conjoint.envs.types import ConjointError, Message
from conjoint.rollouts.special_tokens import SpecialTokens

Tool = Mapping[str, Any]
"""As OpenAI's API has it: `{"type": "function", "function": {"name": ..., "parameters": ...}}`."""

_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


_NO_LIMIT = 10**30
"""transformers' word for it: who renders knows the context, and a warning would help nobody."""


class Renderer:
    """A tokenizer with a chat template, narrowed to the few things conjoint asks of it."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int] = ()) -> None:
        """`end_ids` are tokens that end an answer beside the tokenizer's own end token, such as an
        end of turn. Raises ConjointError without a chat template or any such token."""
        if tokenizer.chat_template is None:
            raise ConjointError(
                f"the tokenizer in {tokenizer.name_or_path} has no chat template; "
                "use an instruct model or add chat_template.jinja to the folder"
            )
        self._tokenizer = tokenizer
        self._special = SpecialTokens(tokenizer)
        self.vocab_size = len(tokenizer)
        own = tokenizer.eos_token_id
        known = [token for token in end_ids if token < self.vocab_size]
        ends = [*([] if own is None else [int(own)]), *known]
        if not ends:
            raise ConjointError(
                f"the tokenizer in {tokenizer.name_or_path} has no end token, so no answer could "
                "end; set eos_token in its tokenizer_config.json, or eos_token_id in "
                "generation_config.json"
            )
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        """Tokens that end an answer. The first one closes a turn in the chat template, if any of
        them does."""
        self.stop_ids = self._closing_first()

    @staticmethod
    def load(folder: Path) -> "Renderer":
        """The renderer of a model's folder, with the end tokens of its generation_config.json.

        Raises ConjointError for a tokenizer that cannot be used.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=_NO_LIMIT)
        except Exception as error:  # the libraries raise a dozen unrelated types
            reason = " ".join(str(error).split())[:300]
            raise ConjointError(
                f"the tokenizer in {folder} cannot be loaded ({type(error).__name__}: {reason}); "
                "save it again with save_pretrained"
            ) from error
        return Renderer(tokenizer, end_tokens(folder))

    def _closing_first(self) -> tuple[int, ...]:
        """The end tokens, the one that closes an assistant's turn before the others. A template
        that cannot render a plain dialogue is left to whoever renders with it."""
        try:
            shown = self.dialogue(_dummy([]))
        except ConjointError:
            return self.stop_ids
        closing = next((token for token in reversed(shown) if token in self.stop_ids), None)
        return tuple(sorted(self.stop_ids, key=lambda token: token != closing))

    @property
    def template(self) -> str:
        """The source of the chat template (of all of them where there are several)."""
        return str(self._tokenizer.chat_template)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template shows the policy the tools that it is given."""
        messages: list[Message] = [{"role": "user", "content": "x"}]
        plain = self._template(messages, add_generation_prompt=True)
        return self._template(messages, add_generation_prompt=True, tools=[_TOOL]) != plain

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Tokens that ask for the next assistant message."""
        return self._template(messages, add_generation_prompt=True, tools=tools)

    def next_turn(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Tokens to append after a finished assistant turn: the new messages and the next opening.

        Found as the difference of two renderings of a dummy dialogue, so the sampled tokens
        before it are never rendered again.
        """
        dummy = _dummy(messages)
        before = self._template(dummy, add_generation_prompt=False, tools=tools)
        after = self._template([*dummy, *messages], add_generation_prompt=True, tools=tools)
        ends = [i for i, token in enumerate(before) if token in self.stop_ids]
        cuts = [i for i, token in enumerate(after) if token in self.stop_ids]
        # Some templates render the last assistant turn otherwise than earlier ones (Qwen3 drops its
        # thinking). The real one is not rendered, so only what stands before it must be the same.
        opening = ends[-2] + 1 if len(ends) > 1 else len(before) if ends else 0
        if not opening or len(cuts) < len(ends) or after[:opening] != before[:opening]:
            raise ConjointError(
                "the chat template rewrites earlier turns when later ones are added, so turns "
                "cannot be appended; use a template that renders each message on its own"
            )
        # The policy's own end token already closes its turn.
        return after[cuts[len(ends) - 1] + 1 :]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens, without end-of-turn or other special tokens."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def raw_text(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens as it is: white space and special tokens stay, but the end
        token goes."""
        kept = list(tokens[:-1] if tokens and tokens[-1] in self.stop_ids else tokens)
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def token_text(self, token: int) -> str:
        """One token by itself, for people to read: half a character shows as a replacement."""
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def encode(self, text: str) -> list[int]:
        """Plain text: no special token, whatever it holds (PTX rows in `text` form)."""
        return self._special.encode(sound(text))

    def encode_as_written(self, text: str) -> list[int]:
        """Text whose author writes special tokens himself (prompts of /v1/completions)."""
        return self._special.encode_as_written(sound(text))

    def dialogue(self, messages: Sequence[Message]) -> list[int]:
        """A complete dialogue, closed after its last message (PTX rows in `messages` form)."""
        return self._template(messages, add_generation_prompt=False)

    def _template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        roles = [{"role": message["role"]} for message in messages]  # templates write with them

        def render(given: Any) -> str:
            return self._tokenizer.apply_chat_template(
                [role | said for role, said in zip(roles, given["messages"], strict=True)],
                tools=given["tools"] or None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )

        given = {"messages": [_plain(message) for message in messages], "tools": list(tools)}
        try:
            return self._special.encode_rendered(render, sound(given))
        except Exception as error:  # a template may do anything with what it is given
            raise ConjointError(
                f"the chat template cannot render these messages: {error}; use roles and an order "
                "that it knows"
            ) from error


def end_tokens(folder: Path) -> list[int]:
    """The tokens that end an answer by generation_config.json of a model; [] where it names none.

    Raises ConjointError for a file that is malformed.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    try:
        config = from_json(path.read_text(encoding="utf-8"))
        given = config.get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise ConjointError(f"{path} cannot be read as a JSON object: {error}.") from error
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(token) is int and token >= 0 for token in listed):
        raise ConjointError(f"{path}: eos_token_id is {given!r}; expected a token id or a list.")
    return listed


def _dummy(messages: Sequence[Message]) -> list[Message]:
    """A dialogue that `messages` may follow: results of tools follow a turn that called them."""
    answer: Message = {"role": "assistant", "content": "y"}
    calls = []
    for message in messages:
        if message["role"] != "tool":
            break
        call = message.get("tool_call_id", "")
        name = message.get("name") or call.removeprefix("functions.").partition(":")[0] or "f"
        calls.append(
            {"id": call, "type": "function", "function": {"name": name, "arguments": "{}"}}
        )
    if calls:
        answer["tool_calls"] = calls
    return [{"role": "user", "content": "x"}, answer]


def _plain(message: Message) -> dict[str, Any]:
    """What a message says, as chat templates expect it: arguments of tool calls are no text but
    values."""
    plain: dict[str, Any] = {key: value for key, value in message.items() if key != "role"}
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [
            call
            | {"function": call["function"] | {"arguments": _value(call["function"]["arguments"])}}
            for call in calls
        ]
    return plain


def _value(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return text
