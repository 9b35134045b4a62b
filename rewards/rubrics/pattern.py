"""Patterns of a user's rubric, searched in linear time whatever the pattern and the text are.

They are written as for Python's `re`. A search backtracks for a few milliseconds at most; then RE2
(in pyarrow) makes it, which never backtracks, and has to compile the pattern each time. RE2 knows
ASCII alone in \\w, \\d and \\b; so classes are written out by Unicode category, and a search with
\\b runs on a text in which every word boundary is marked.
"""

import functools
import importlib
import re
from dataclasses import dataclass
from typing import Any

import regex

_MARK = "\ue000"
_MARKS = 4
"""Marks at a boundary: as many \\b may stand at one place of a pattern."""
_QUICK_S = 0.02
"""Wall seconds that a search may take by backtracking; what is found is the same either way."""
_MAX_REPEAT = 1_000
_BREAK = re.compile(r"\b")
_PUNCTUATION = r"\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Po}"
_OTHER_WORD = "\u203f\u2040\u2054\ufe33\ufe34\ufe4d\ufe4e\ufe4f"
"""Connecting punctuation but for the underscore, which belongs to words."""
_CLASSES = {
    "CATEGORY_WORD": r"\p{L}\p{N}_",
    "CATEGORY_NOT_WORD": rf"\p{{M}}\p{{S}}\p{{Z}}\p{{Cc}}\p{{Cf}}{_PUNCTUATION}{_OTHER_WORD}",
    "CATEGORY_DIGIT": r"\p{Nd}",
    "CATEGORY_NOT_DIGIT": r"\p{L}\p{Nl}\p{No}\p{M}\p{S}\p{Z}\p{Cc}\p{Cf}\p{P}",
    "CATEGORY_SPACE": r"\p{Z}\s",
    "CATEGORY_NOT_SPACE": r"\p{L}\p{N}\p{M}\p{S}\p{P}\p{Cf}",
}
_PLACES = {
    "AT_BEGINNING": "^",
    "AT_BEGINNING_STRING": "^",
    "AT_END": "$",
    "AT_END_STRING": "$",
}
_NOT_LINEAR = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a reference to a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
    "AT_NON_BOUNDARY": r"\B",
}


class PatternError(ValueError):
    """A pattern that cannot be searched for in linear time, in words."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: `text` as its author wrote it, case aside. See `compile_pattern`."""

    text: str
    source: str
    """The same for RE2."""
    marked: bool
    """Whether it holds \\b, so that the boundaries of a text have to be marked."""

    def search(self, text: str) -> str | None:
        """What it matches first in `text`, a text of one line; None if nothing."""
        return self._find("search", f"(?i)(?P<found>{self.source})", text)

    def match(self, text: str) -> str | None:
        """What it matches at the beginning of `text`, a text of one line; None if nothing."""
        return self._find("match", f"(?i)^{_MARK}*(?P<found>{self.source})", text)

    def _find(self, method: str, source: str, text: str) -> str | None:
        """By backtracking, which is quick as a rule; where it is not, by RE2 from then on."""
        if self.text not in _SLOW:
            try:
                found = getattr(_quick(self.text), method)(text, timeout=_QUICK_S)
            except TimeoutError:
                _SLOW.add(self.text)
            else:
                return found and found.group()
        return self.linear(source, text)

    def linear(self, source: str, text: str) -> str | None:
        """What RE2 finds of `source`, whose group `found` is wanted."""
        import pyarrow
        import pyarrow.compute as compute

        text = text.replace(_MARK, "").encode("utf-8", "replace").decode()
        if self.marked:
            text = _BREAK.sub(_MARK * _MARKS, text)
        extract: Any = compute.extract_regex  # type: ignore[attr-defined]
        found = extract(pyarrow.array([text]), pattern=source)[0].as_py()
        return None if found is None else found["found"].replace(_MARK, "")


_SLOW: set[str] = set()
"""Patterns that took longer than `_QUICK_S` on a text of this process."""


@functools.lru_cache(maxsize=1024)
def _quick(text: str) -> Any:
    return regex.compile(text, regex.IGNORECASE | regex.VERSION0)


def compile_pattern(text: str) -> Pattern:
    """The pattern of a text in the syntax of Python's `re`.

    Raises PatternError for a text that is no pattern, and for what cannot be searched for in
    linear time: look-around, references to groups, atomic groups, possessive repeats, repeats of
    more than 1,000; also for \\B and for flags other than i, m, s and x.
    """
    parser = importlib.import_module("re._parser")
    try:
        re.compile(text)
        parsed = parser.parse(text, re.IGNORECASE)
        if parsed.state.flags & (re.ASCII | re.LOCALE):
            raise PatternError("flags other than i, m, s and x cannot be used here")
        marked = "AT_BOUNDARY" in repr(parsed)
        pattern = Pattern(text, _translated(parsed, f"{_MARK}*" if marked else ""), marked)
        pattern.linear(f"(?i)(?P<found>{pattern.source})", "")
        _quick(text)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it cannot be read: {error}") from None
    except PatternError:
        raise
    except ValueError as error:  # pyarrow's own, with RE2's words
        raise PatternError(f"it cannot be searched for in linear time: {error}") from None
    return pattern


def _translated(parsed: Any, mark: str) -> str:
    """RE2's form of what the parser of `re` found; `mark` may follow every character."""
    return "".join(_part(str(op), value, mark) for op, value in parsed)


def _part(op: str, value: Any, mark: str) -> str:
    if op == "AT":
        op = str(value)
    if op == "LITERAL":
        return _literal(value) + mark
    if op == "NOT_LITERAL":
        return f"[^{_literal(value)}{_MARK}]{mark}"
    if op == "ANY":
        return f"[^{_MARK}]{mark}"
    if op == "IN":
        return _class(value) + mark
    if op == "BRANCH":
        return "(?:" + "|".join(_translated(side, mark) for side in value[1]) + ")"
    if op == "SUBPATTERN":
        _, on, off, inner = value
        if on & (re.ASCII | re.LOCALE):
            raise PatternError("flags other than i, m, s and x cannot be used here")
        opening = "(?-i:" if off & re.IGNORECASE else "(?:"
        return f"{opening}{_translated(inner, mark)})"
    if op in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        upper = "" if str(most) == "MAXREPEAT" else most
        if max(least, upper or 0) > _MAX_REPEAT:
            raise PatternError(f"a repeat of more than {_MAX_REPEAT} is too large")
        lazy = "?" if op == "MIN_REPEAT" else ""
        return f"(?:{_translated(inner, mark)}){{{least},{upper}}}{lazy}"
    if op == "AT_BOUNDARY":
        return _MARK
    if op in _PLACES:
        return _PLACES[op] + (mark if _PLACES[op] == "^" else "")
    raise PatternError(f"{_NOT_LINEAR.get(op, op)} cannot be searched for in linear time")


def _class(items: Any) -> str:
    negated, inside = False, ""
    for op, value in items:
        if str(op) == "NEGATE":
            negated = True
        elif str(op) == "LITERAL":
            inside += _literal(value)
        elif str(op) == "RANGE":
            inside += f"{_literal(value[0])}-{_literal(value[1])}"
        else:
            inside += _CLASSES[str(value)]
    return f"[^{inside}{_MARK}]" if negated else f"[{inside}]"


def _literal(code: int) -> str:
    return chr(code) if chr(code).isalnum() else f"\\x{{{code:x}}}"
