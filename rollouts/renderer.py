"""Messages <-> tokens, in one place. A turn is appended, model output is never rendered again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.types import ConjointError, Message


class Renderer:
    """A tokenizer with a chat template, narrowed to the four things conjoint asks of it."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            raise ConjointError(
                f"the tokenizer in {tokenizer.name_or_path} has no chat template; "
                "use an instruct model or add chat_template.jinja to the folder"
            )
        self._tokenizer = tokenizer
        self.stop_ids: tuple[int, ...] = (int(tokenizer.eos_token_id),)
        self.vocab_size = len(tokenizer)

    @staticmethod
    def load(folder: Path) -> "Renderer":
        from transformers import AutoTokenizer

        return Renderer(AutoTokenizer.from_pretrained(folder))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens that ask for the next assistant message."""
        return self._template(messages, add_generation_prompt=True)

    def next_turn(self, messages: Sequence[Message]) -> list[int]:
        """Tokens to append after a finished assistant turn: the new messages and the next opening.

        Found as the difference of two renderings of a dummy dialogue, so the sampled tokens
        before it are never rendered again.
        """
        dummy: list[Message] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"},
        ]
        before = self._template(dummy, add_generation_prompt=False)
        after = self._template([*dummy, *messages], add_generation_prompt=True)
        if after[: len(before)] != before:
            raise ConjointError(
                "the chat template rewrites earlier turns when later ones are added, so turns "
                "cannot be appended; use a template that renders each message on its own"
            )
        # The policy's own end token already closes its turn.
        cut = max(i for i, t in enumerate(before) if t in self.stop_ids) + 1
        return after[cut:]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens, without end-of-turn or other special tokens."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def encode(self, text: str) -> list[int]:
        """Plain text without special tokens (PTX rows in `text` form)."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def dialogue(self, messages: Sequence[Message]) -> list[int]:
        """A complete dialogue, closed after its last message (PTX rows in `messages` form)."""
        return self._template(messages, add_generation_prompt=False)

    def _template(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        out = self._tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=False,
        )
        return list(out)
