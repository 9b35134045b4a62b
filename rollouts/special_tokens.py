"""Special tokens that stand in the text of users, tools and answers stay text.

A tokenizer takes `<|im_end|>` for the end of a turn wherever it stands, so that a message could
forge turns. The special tokens that a chat template writes itself are found by rendering it again
with a stand-in for the first character of each one in what it was given. The text then goes to a
copy of the tokenizer that knows special tokens by names which no text holds; only the template's
own are renamed. Text without special tokens is encoded by the tokenizer itself, as ever.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

Span = tuple[int, int]
_BROKEN = "\ufffd"
"""Replaces the first character of a special token where nothing better can be done."""


class SpecialTokens:
    """Encodes texts with one Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        # Longest first, as the tokenizer matches them. A single character is its own text.
        names = sorted(
            {t.content for t in added if t.special and len(t.content) > 1}, key=len, reverse=True
        )
        self._names = frozenset(names)
        firsts = "".join(sorted({re.escape(name[0]) for name in names}))
        # The set of first characters is what makes the search quick among hundreds of names.
        one = f"(?=[{firsts}])(?:{'|'.join(map(re.escape, names))})" if names else "(?!)"
        self._one = re.compile(one)
        self._start = re.compile(f"(?={one}).", re.DOTALL)
        self._longest = len(names[0]) if names else 0
        self._heads = {name[:i] for name in names for i in range(1, len(name))}
        self._tails = {name[i:] for name in names for i in range(1, len(name))}
        self._joined = "\n".join(names)

    def encode(self, text: str, real: Iterable[Span] = ()) -> list[int]:
        """Token ids of `text`, with special tokens at the spans `real` and nowhere else."""
        real = list(real)
        if self._spans(text) == real:
            return self.encode_as_written(text)
        if self._renamed is None:
            return self.encode_as_written(self._start.sub(_BROKEN, text))
        copy, names = self._renamed
        pieces, done = [], 0
        for start, end in real:
            pieces += [text[done:start], names[text[start:end]]]
            done = end
        return copy.encode("".join([*pieces, text[done:]]), add_special_tokens=False).ids

    def encode_as_written(self, text: str) -> list[int]:
        """Token ids of `text`, in which each special token counts as one."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_rendered(self, render: Callable[[Any], str], given: Any) -> list[int]:
        """Token ids of `render(given)`, with the special tokens that `render` writes itself.

        `given` is plain JSON: whatever others have a say in.
        """
        text = render(given)
        mark = next((c for c in map(chr, range(0xE000, 0xF900)) if c not in text), _BROKEN)
        marked = self._marked(given, mark, edges=True)
        if marked == given:
            return self.encode_as_written(text)
        try:
            other = render(marked)
        except Exception:  # the template reads what it is given
            other = ""
        if _differ_by(mark, text, other):
            return self.encode(text, self._spans(other))
        # Not the same but for the marks, so nothing says which tokens are the template's.
        return self.encode_as_written(render(self._marked(given, _BROKEN, edges=False)))

    def _spans(self, text: str) -> list[Span]:
        return [found.span() for found in self._one.finditer(text)]

    def _marked(self, given: Any, mark: str, *, edges: bool) -> Any:
        """`given` with `mark` in place of each character at which a special token begins; with
        `edges` also where one could begin or go on together with the text around it."""
        if isinstance(given, str):
            text = self._start.sub(mark, given)
            return self._marked_edges(text, mark) if edges else text
        if isinstance(given, Mapping):
            return {
                self._start.sub(mark, str(key)): self._marked(value, mark, edges=edges)
                for key, value in given.items()
            }
        if isinstance(given, list | tuple):
            return [self._marked(item, mark, edges=edges) for item in given]
        return given

    def _marked_edges(self, text: str, mark: str) -> str:
        """Templates may trim, so outer white space is no edge."""
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        near = range(1, min(self._longest, end - start + 1))
        begins = [end - i for i in near if text[end - i : end] in self._heads]
        inner = text[start:end]
        goes_on = any(inner[:i] in self._tails for i in near)
        if goes_on or (0 < len(inner) < self._longest and inner in self._joined):
            begins.append(start)
        for place in begins:
            text = text[:place] + mark + text[place + 1 :]
        return text

    @cached_property
    def _renamed(self) -> tuple[Any, dict[str, str]] | None:
        """The copy and its name of each special token; None for a tokenizer written in Python."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        secret, spec = secrets.token_hex(8), json.loads(backend.to_str())
        names = {name: f"[{secret} {i}]" for i, name in enumerate(sorted(self._names))}
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = spec["model"]
        if isinstance(vocab := model["vocab"], dict):
            model["vocab"] = {names.get(word, word): i for word, i in vocab.items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in vocab]
        if isinstance(unknown := model.get("unk_token"), str):
            model["unk_token"] = names.get(unknown, unknown)
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        return type(backend).from_str(json.dumps(spec)), names


def _differ_by(mark: str, text: str, other: str) -> bool:
    """Whether `other` is `text` with some characters replaced by `mark`."""
    return len(text) == len(other) and all(b in (a, mark) for a, b in zip(text, other, strict=True))
