"""IFEval's checks of what an answer says: keywords, language, case, placeholders, postscript.

Each verdict is the public checker's; docs/instructions.md lists where it is not, and why.
"""

import re
from collections.abc import Mapping
from typing import Any

from conjoint.rewards.instructions.rule import (
    COUNT,
    RELATION,
    TEXT,
    TEXTS,
    Parameter,
    Rule,
    compared,
    quoted,
    showing,
)
from conjoint.rewards.instructions.text import LANGUAGES, language, tokens, whole_word


def _existence(text: str, asked: Mapping[str, Any]) -> str:
    missing = [k for k in asked["keywords"] if not re.search(re.escape(k), text, re.IGNORECASE)]
    return f"{', '.join(map(quoted, missing))} missing" if missing else ""


def _frequency(text: str, asked: Mapping[str, Any]) -> str:
    keyword = asked["keyword"].strip()
    found = len(re.findall(re.escape(keyword), text, re.IGNORECASE))
    return compared(found, asked["relation"], asked["frequency"], f"times {quoted(keyword)}")


def _forbidden_words(text: str, asked: Mapping[str, Any]) -> str:
    """Whole words only: "rocky" does not hold the word "rock"."""
    found = [
        word
        for word in asked["forbidden_words"]
        if re.search(whole_word(word.strip()), text, re.IGNORECASE)
    ]
    return f"{', '.join(map(quoted, found))} used" if found else ""


def _letter_frequency(text: str, asked: Mapping[str, Any]) -> str:
    found = text.lower().count(asked["letter"].lower())
    what = f"times {quoted(asked['letter'])}"
    return compared(found, asked["let_relation"], asked["let_frequency"], what)


def _response_language(text: str, asked: Mapping[str, Any]) -> str:
    return _other_language(text, asked["language"])


def _other_language(text: str, wanted: str) -> str:
    """A text that shows no language is not in the wanted one: digits must not pay."""
    found = language(text)
    if found == wanted:
        return ""
    return f"the language is {found or 'not to be detected'}, wanted {wanted}"


def _english_capital(text: str, asked: Mapping[str, Any]) -> str:
    return _other_language(text, "en") if text.isupper() else "not all letters are capital"


def _english_lowercase(text: str, asked: Mapping[str, Any]) -> str:
    return _other_language(text, "en") if text.islower() else "not all letters are lower case"


def _capital_words(text: str, asked: Mapping[str, Any]) -> str:
    found = sum(token.isupper() for token in tokens(text))
    return compared(
        found, asked["capital_relation"], asked["capital_frequency"], "words in capital letters"
    )


def _placeholders(text: str, asked: Mapping[str, Any]) -> str:
    found = 0
    for line in text.split("\n"):
        end = -1
        while (start := line.find("[", end + 1)) >= 0:
            end = line.find("]", start)
            if end < 0:
                break
            found += 1
    return compared(found, "at least", asked["num_placeholders"], "placeholders")


def _markers(text: str, marker: str) -> list[re.Match[str]]:
    """Where the marker stands, case aside; "P.S." and "P.P.S" with a space between letters too."""
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(
        marker.strip(), re.escape(marker.strip().lower())
    )
    return list(re.finditer(pattern, text.lower()))


def _postscript(text: str, asked: Mapping[str, Any]) -> str:
    marker = asked["postscript_marker"]
    return "" if _markers(text, marker) else f"no postscript {quoted(marker)}"


def _postscript_that_says_something(text: str, asked: Mapping[str, Any]) -> str:
    marker = asked["postscript_marker"]
    found = _markers(text, marker)
    if not found:
        return f"no postscript {quoted(marker)}"
    after = text.lower()[found[0].end() :]
    return "" if any(c.isalnum() for c in after) else f"nothing follows {quoted(marker)}"


def _is_letter(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1 and not value.isspace()


_LANGUAGE: Parameter = (lambda v: v in list(LANGUAGES), f"one of {', '.join(LANGUAGES)}")
_LETTER: Parameter = (_is_letter, "one character")

CONTENT: dict[str, Rule] = {
    "keywords:existence": showing({"keywords": TEXTS}, _existence),
    "keywords:frequency": showing(
        {"keyword": TEXT, "frequency": COUNT, "relation": RELATION}, _frequency
    ),
    "keywords:forbidden_words": Rule({"forbidden_words": TEXTS}, _forbidden_words),
    "keywords:letter_frequency": showing(
        {"letter": _LETTER, "let_frequency": COUNT, "let_relation": RELATION}, _letter_frequency
    ),
    "language:response_language": Rule({"language": _LANGUAGE}, _response_language),
    "change_case:english_capital": Rule({}, _english_capital),
    "change_case:english_lowercase": Rule({}, _english_lowercase),
    "change_case:capital_word_frequency": showing(
        {"capital_frequency": COUNT, "capital_relation": RELATION}, _capital_words
    ),
    "detectable_content:number_placeholders": Rule({"num_placeholders": COUNT}, _placeholders),
    "detectable_content:postscript": Rule(
        {"postscript_marker": TEXT}, _postscript, shown=_postscript_that_says_something
    ),
}
