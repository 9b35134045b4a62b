"""Patterns of rubrics: what `re` finds, found in linear time; what cannot be is refused."""

import re
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoint.rewards.rubrics import pattern as pattern_module
from conjoint.rewards.rubrics.pattern import PatternError, compile_pattern

_ATOMS = ("a", "é", "ñ", "我", ".", r"\w", r"\W", r"\d", r"\s", r"\S", r"\b", "[a-cñ]", "[^aé]")
_ATOMS += (r"[^\W_]", r"[\W\d]", "_", " ", "1", "$", "^")


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeats = st.sampled_from(("*", "+", "?", "*?", "{1,2}"))
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, repeats).map(lambda two: f"({two[0]}){two[1]}"),
    )


_PATTERNS = st.recursive(st.sampled_from(_ATOMS), _larger, max_leaves=6)


@settings(max_examples=120, deadline=None)
@given(_PATTERNS, st.text("aéÉñÑ我b_1 ,.!", max_size=8))
def test_a_pattern_matches_where_re_would(pattern: str, text: str) -> None:
    compiled = compile_pattern(pattern)
    for slow in (set(), {pattern}):  # both ways
        with mock.patch.object(pattern_module, "_SLOW", slow):
            found, begins = compiled.search(text), compiled.match(text)
        assert (found is None) == (re.search(pattern, text, re.IGNORECASE) is None)
        assert (begins is None) == (re.match(pattern, text, re.IGNORECASE) is None)


@pytest.mark.parametrize(
    ("pattern", "text", "words"),
    [
        (r"\bqué\b", "No sé qué, amigo.", "qué"),
        (r"\bo\b", "Feliz año", None),
        (r"\b(?:\bno\b|\bsí\b)", "pues SÍ", "SÍ"),
        (r"привет\b", "Привет!", "Привет"),
        ("抱歉", "我很抱歉。", "抱歉"),
        (r"(?x) great \s question  # praise", "What a great question", "great question"),
        (r"x{2,3}?", "xxxx", "xx"),
        ("caf.", "a \ue000café", "café"),
        ("a", "\ud800a", "a"),
    ],
)
def test_words_of_any_script_are_found(pattern: str, text: str, words: str | None) -> None:
    assert compile_pattern(pattern).search(text) == words


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a", "cannot be read"),
        ("(" * 5000 + ")" * 5000, "cannot be read"),
        ("no(?=thing)", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(\w+) \1", "reference to a group"),
        ("(?>a+)b", "atomic"),
        ("a++b", "possessive"),
        (r"\Ba", r"\B"),
        ("a{2000}", "more than 1000"),
        ("a{1,4294967294}", "more than 1000"),
        ("(?:(?:a{900}){900}){900}", "linear time"),
        ("(?a:é)", "flags"),
    ],
)
def test_what_is_not_linear_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternError, match=re.escape(why)):
        compile_pattern(pattern)


@pytest.mark.timeout(60)
def test_nested_repeats_are_searched_without_backtracking() -> None:
    """Each of these takes `re` longer than the age of the universe, or an hour, on these texts."""
    for pattern in ("(a+)+$", "(a|aa)+$", r"(\w+\s?)*$", "(x+x+)+y", "(a|a)*b", r"(.*a){12}!"):
        compiled = compile_pattern(pattern)
        for text in ("a" * 20_000 + "!?", "x" * 20_000, "a " * 10_000 + "?"):
            compiled.search(text)
    assert "(a+)+$" in pattern_module._SLOW, "by RE2 since the first text that was slow"
