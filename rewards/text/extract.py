"""Where the final answer of a response stands: one place, found by rule, never by a guess.

Owns the visible text (after the thinking, before any end-of-sequence marker) and the extraction of
one final answer: the last balanced box, else the last `####` line, else what the last sentence
states (`stated.py`). Text in, text out; whether it is right is `rewards/math/reward.py`'s business.
"""

import re
from dataclasses import dataclass

from conjoint.rewards.text.stated import stated_answer

_MARKER = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end|eos|start_header_id|user)\|>"
    r"|</s>|<eos>|<end_of_turn>|<start_of_turn>|\[/?INST\]",
    re.IGNORECASE,
)
_NEXT_TURN = re.compile(r"\n[ \t]*+(?:user|human|question)[ \t]*+:", re.IGNORECASE)
_FENCE = re.compile(r"(?:```|~~~).*?(?:```|~~~|\Z)", re.DOTALL)
_BOX = re.compile(r"\\(?:f?boxed|fbox)\s*+(?=\{)")
_BOX_WORD = re.compile(r"boxed|\\fbox", re.IGNORECASE)
_HASHES = re.compile(
    r"^[^\S\n]*+####[^\S\n]*+(?=[-+\u2212$€£\\(\[{.]*+[^\S\n]*+(?:[0-9]|(?<=\\)[a-z]))(.*)$",
    re.MULTILINE,
)
_MAX_RESPONSE = 100_000
"""Characters. Beyond them there is no answer: searching longer texts costs time and pays nothing.

Every pattern above is linear in its input (possessive where two repeats could share characters)."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The final answer's text, or None with the reason why there is none."""

    answer: str | None
    reason: str = ""


def visible_text(response: str, dialogue: bool = False) -> str:
    """What the response says to the user: cut at an end marker, then after the last `</think>`.

    A think block that is opened and never closed leaves nothing of what follows it. A line that
    opens with `Question:` or `User:` ends it as well, unless the answer may hold a `dialogue`.
    """
    text = response[:_MAX_RESPONSE]
    for end in (_MARKER,) if dialogue else (_MARKER, _NEXT_TURN):
        if found := end.search(text):
            text = text[: found.start()]
    text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def final_answer(response: str, prompt: str = "") -> Extracted:
    """The one final answer of `response`.

    Lines that repeat a line of the prompt, and code fences, do not count. Several different boxes
    on the last box's line are refused; a box on an earlier line was a step, or an honest mistake.
    """
    if len(response) > _MAX_RESPONSE:
        return Extracted(None, f"the response is longer than {_MAX_RESPONSE} characters")
    text = _FENCE.sub(" ", visible_text(response))
    text = "\n".join(line for line in text.splitlines() if not _quoted(line, prompt))
    if _BOX.search(text):
        return _boxed(text)
    if _BOX_WORD.search(text):
        return Extracted(None, "the word 'boxed' without a box that holds an answer")
    if hashes := _HASHES.findall(text):
        answer = hashes[-1].strip()
        if "####" in answer:
            return Extracted(None, "several '####' answers on one line")
        return Extracted(answer)
    return Extracted(*stated_answer(text))


def _quoted(line: str, prompt: str) -> bool:
    """A line with a box that stands in the prompt word for word, beyond the bare box itself."""
    stripped = line.strip()
    return bool(_BOX.search(line)) and len(stripped) > 20 and stripped in prompt


def _boxed(text: str) -> Extracted:
    boxes = _boxes(text)
    start, end, last = boxes[-1]
    if last is None:
        return Extracted(None, "the last box is not closed")
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    contents = {_squeeze(c) for s, _, c in boxes if c is not None and line_start <= s < line_end}
    if len(contents) > 1:
        return Extracted(None, f"{len(contents)} different boxes on the last line")
    if not last.strip():
        return Extracted(None, "the box is empty")
    return Extracted(last.strip())


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    """Top-level boxes as (start, end, content); None where the braces do not balance.

    A box around one box is unwrapped; a box that holds a box and more keeps its text.
    """
    found: list[tuple[int, int, str | None]] = []
    position = 0
    while match := _BOX.search(text, position):
        close = _closing_brace(text, match.end())
        if close is None:
            found.append((match.start(), len(text), None))
            break
        content = text[match.end() + 1 : close]
        for _ in range(4):
            inner = _BOX.match(content.strip())
            stripped = content.strip()
            if inner is None or _closing_brace(stripped, inner.end()) != len(stripped) - 1:
                break
            content = stripped[inner.end() + 1 : -1]
        found.append((match.start(), close + 1, content))
        position = close + 1
    return found


def _closing_brace(text: str, opening: int) -> int | None:
    """Index of the brace that closes the one at `opening`; escaped braces do not count."""
    depth, index = 0, opening
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None


def _squeeze(content: str) -> str:
    return "".join(content.split())
