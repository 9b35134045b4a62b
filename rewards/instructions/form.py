"""IFEval's checks of how an answer is laid out: lengths, formats, beginnings and ends.

Each verdict is the public checker's; docs/instructions.md lists where it is not, and why. Regular
expressions are bounded to one line or possessive, so that none is slow on any text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from conjoint.rewards.instructions.rule import (
    COUNT,
    RELATION,
    TEXT,
    Rule,
    compared,
    quoted,
    showing,
)
from conjoint.rewards.instructions.text import count_sentences, count_words, joined, unspaced

_STAR_BULLET = re.compile(r"^[^\S\n]*+\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*+-", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_COMMA = re.compile("[,\u060c\u3001\uff0c\uff64]")
_QUOTATIONS = ('""', "\u00ab\u00bb", "\u300c\u300d", "\uff02\uff02")
_OPENING_MARKS = "\u00a1\u00bf\u201c\u2018\u00ab\u300c\u300e\u300a\uff08"
_FENCES = ("```json", "```Json", "```JSON", "```")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _exactly(found: int, wanted: float, what: str) -> str:
    return "" if found == wanted else f"{found} {what}, wanted {int(wanted)}"


def _number_words(text: str, asked: Mapping[str, Any]) -> str:
    return compared(count_words(text), asked["relation"], asked["num_words"], "words")


def _number_sentences(text: str, asked: Mapping[str, Any]) -> str:
    found = count_sentences(text)
    return compared(found, asked["relation"], asked["num_sentences"], "sentences")


def _number_paragraphs(text: str, asked: Mapping[str, Any]) -> str:
    """Divided by ***; an empty paragraph counts for nothing at either end, and fails within."""
    paragraphs = [part.strip() for part in _DIVIDER.split(text)]
    if not all(paragraphs[1:-1]):
        return "an empty paragraph between two dividers"
    return _exactly(sum(map(bool, paragraphs)), asked["num_paragraphs"], "paragraphs")


def _nth_paragraph_first_word(text: str, asked: Mapping[str, Any]) -> str:
    """Divided by two new lines; the n-th is counted with the blank ones before it."""
    paragraphs = text.split("\n\n")
    found = sum(1 for paragraph in paragraphs if paragraph.strip())
    if failure := _exactly(found, asked["num_paragraphs"], "paragraphs"):
        return failure
    nth = int(asked["nth_paragraph"])
    words = paragraphs[nth - 1].split()
    first = words[0].lstrip("'").lstrip('"') if words else ""
    first = re.split(r"[.,?!'\"]", first.lstrip(_OPENING_MARKS), maxsplit=1)[0].lower()
    wanted = asked["first_word"].lower()
    if first.startswith(wanted) and not joined(wanted[-1:], first[len(wanted) :][:1]):
        return ""
    return f"paragraph {nth} starts with {quoted(first[:40])}, wanted {quoted(asked['first_word'])}"


def _paragraph_beyond(asked: Mapping[str, Any]) -> str:
    nth, count = asked["nth_paragraph"], asked["num_paragraphs"]
    return f"nth_paragraph {nth} is beyond num_paragraphs {count}" if nth > count else ""


def _bullet_lists(text: str, asked: Mapping[str, Any]) -> str:
    found = len(_STAR_BULLET.findall(text)) + len(_DASH_BULLET.findall(text))
    return _exactly(found, asked["num_bullets"], "bullet points")


def _highlighted_sections(text: str, asked: Mapping[str, Any]) -> str:
    """*Once* counts once, and **twice** counts too, by the second pattern."""
    marked = [*_HIGHLIGHT.findall(text), *_DOUBLE_HIGHLIGHT.findall(text)]
    found = sum(1 for content in marked if content.strip())
    return compared(found, "at least", asked["num_highlights"], "highlighted sections")


def _multiple_sections(text: str, asked: Mapping[str, Any]) -> str:
    splitter = asked["section_spliter"].strip()
    found = len(re.findall(rf"{re.escape(splitter)}\s?\d+", text))
    return compared(found, "at least", asked["num_sections"], f"sections {quoted(splitter)}")


def _title(text: str, asked: Mapping[str, Any]) -> str:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return ""
    return "no title in <<double angular brackets>>"


def _json_format(text: str, asked: Mapping[str, Any]) -> str:
    """The whole answer, but for one code fence around it."""
    body = text.strip()
    for fence in _FENCES:
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except ValueError as error:
        return f"not JSON: {quoted(str(error)[:80])}"
    except RecursionError:
        return "JSON nested too deeply"
    return ""


def _constrained_response(text: str, asked: Mapping[str, Any]) -> str:
    return "" if any(answer in text for answer in _ANSWERS) else f"none of {', '.join(_ANSWERS)}"


def _two_responses(text: str, asked: Mapping[str, Any]) -> str:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return "an empty response between two dividers"
    filled = [part for part in parts if part]
    if failure := _exactly(len(filled), 2, "responses"):
        return failure
    return "the two responses are the same" if filled[0] == filled[1] else ""


def _repeat_prompt(text: str, asked: Mapping[str, Any]) -> str:
    repeated = text.strip().lower().startswith(asked["prompt_to_repeat"].strip().lower())
    return "" if repeated else "the answer does not begin with the request, word for word"


def _end_checker(text: str, asked: Mapping[str, Any]) -> str:
    wanted = asked["end_phrase"].strip()
    body = text.strip().strip('"').lower()
    if body.endswith(wanted.lower()):
        return ""
    return f"ends with {quoted(body[-len(wanted) :])}, wanted {quoted(wanted)}"


def _quotation(text: str, asked: Mapping[str, Any]) -> str:
    body = text.strip()
    around = body[0] + body[-1] if len(body) > 1 else ""
    wrapped = around in _QUOTATIONS or (around == "\u201c\u201d" and unspaced(body))
    return "" if wrapped else "not wrapped in double quotation marks"


def _no_comma(text: str, asked: Mapping[str, Any]) -> str:
    found = len(_COMMA.findall(text))
    return f"{found} commas" if found else ""


FORM: dict[str, Rule] = {
    "length_constraints:number_words": showing(
        {"num_words": COUNT, "relation": RELATION}, _number_words
    ),
    "length_constraints:number_sentences": showing(
        {"num_sentences": COUNT, "relation": RELATION}, _number_sentences
    ),
    "length_constraints:number_paragraphs": showing({"num_paragraphs": COUNT}, _number_paragraphs),
    "length_constraints:nth_paragraph_first_word": Rule(
        {"num_paragraphs": COUNT, "nth_paragraph": COUNT, "first_word": TEXT},
        _nth_paragraph_first_word,
        conflict=_paragraph_beyond,
    ),
    "detectable_format:number_bullet_lists": Rule({"num_bullets": COUNT}, _bullet_lists),
    "detectable_format:number_highlighted_sections": Rule(
        {"num_highlights": COUNT}, _highlighted_sections
    ),
    "detectable_format:multiple_sections": Rule(
        {"num_sections": COUNT, "section_spliter": TEXT}, _multiple_sections
    ),
    "detectable_format:title": Rule({}, _title),
    "detectable_format:json_format": Rule({}, _json_format, verbatim=True),
    "detectable_format:constrained_response": Rule({}, _constrained_response),
    "combination:two_responses": Rule({}, _two_responses),
    "combination:repeat_prompt": Rule({"prompt_to_repeat": TEXT}, _repeat_prompt, verbatim=True),
    "startend:end_checker": showing({"end_phrase": TEXT}, _end_checker),
    "startend:quotation": Rule({}, _quotation, verbatim=True),
    "punctuation:no_comma": Rule({}, _no_comma),
}
