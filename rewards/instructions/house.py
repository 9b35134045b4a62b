"""The house's own checks, by short names: words, beginnings, ends, a keyword, case.

White space around the answer is passed over, and case except by `case`, as a reader would. To add a
check, write its function and add one `Rule` to `HOUSE`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from conjoint.rewards.instructions.rule import Rule, quoted, showing
from conjoint.rewards.instructions.text import joined, spaced_words, whole_word

_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "exactly": lambda found, wanted: found == wanted,
    "at_least": lambda found, wanted: found >= wanted,
    "at_most": lambda found, wanted: found <= wanted,
}


def _word_count(text: str, asked: Mapping[str, Any]) -> str:
    found = len(spaced_words(text))
    if _RELATIONS[asked["relation"]](found, asked["count"]):
        return ""
    wanted = f"{asked['relation'].replace('_', ' ')} {asked['count']}"
    return f"{found} word{'' if found == 1 else 's'}, wanted {wanted}"


def _starts_with(text: str, asked: Mapping[str, Any]) -> str:
    """Whole words: "Sunday" does not start with "Sun". An opening quotation mark is passed over."""
    text, wanted = text.strip(), asked["text"].strip()
    body = text.lstrip("\"'\u201c\u2018*\u00a1\u00bf\u00ab\u300c\u300e")
    for candidate in (text, body):
        follows = candidate[len(wanted) : len(wanted) + 1]
        if candidate.casefold().startswith(wanted.casefold()) and not joined(wanted[-1], follows):
            return ""
    return f"starts with {quoted(text[: len(wanted) + 10])}, wanted {quoted(wanted)}"


def _ends_with(text: str, asked: Mapping[str, Any]) -> str:
    """Whole words; closing punctuation of the answer is passed over: "Done." ends with "done"."""
    text, wanted = text.strip(), asked["text"].strip()
    for candidate in (
        text,
        text.rstrip(".!?\"'\u201d\u2019* \u3002\uff01\uff1f\u00bb\u300d\u300f\u2026"),
    ):
        before = candidate[: -len(wanted)][-1:] if len(candidate) > len(wanted) else ""
        if candidate.casefold().endswith(wanted.casefold()) and not joined(before, wanted[0]):
            return ""
    return f"ends with {quoted(text[-len(wanted) - 10 :])}, wanted {quoted(wanted)}"


def _includes(text: str, asked: Mapping[str, Any]) -> str:
    """The keyword as a whole word or phrase, white space and case aside."""
    keyword = " ".join(asked["keyword"].split())
    if re.search(whole_word(keyword.casefold()), " ".join(text.split()).casefold()):
        return ""
    return f"{quoted(keyword)} does not occur"


def _case(text: str, asked: Mapping[str, Any]) -> str:
    """At least one letter has case, and every one that has is of the style."""
    style = asked["style"]
    if text.islower() if style == "lower" else text.isupper():
        return ""
    wrong = next((w for w in spaced_words(text) if w != getattr(w, style)()), None)
    return f"{quoted(wrong)} is not {style} case" if wrong else "no letter has case"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and any(c.isalnum() for c in value) and value.isprintable()


_TEXT = (_is_text, "a text of one line with a letter or digit")

HOUSE: dict[str, Rule] = {
    "word_count": showing(
        {
            "relation": (lambda v: v in list(_RELATIONS), f"one of {', '.join(_RELATIONS)}"),
            "count": (_is_count, "a whole number of at least 1"),
        },
        _word_count,
    ),
    "starts_with": Rule({"text": _TEXT}, _starts_with),
    "ends_with": showing({"text": _TEXT}, _ends_with),
    "includes": showing({"keyword": _TEXT}, _includes),
    "case": Rule({"style": (lambda v: v in ["lower", "upper"], "lower or upper")}, _case),
}
