"""The math verifier: one final answer against a reference, with nothing paid for stuffing.

Extraction is `rewards/text/extract.py`; most verdicts are exact numbers or equal text and take
microseconds; the rest goes to math-verify in the verifier profile of the jail. A formula that hangs
or crashes it is the response's doing and scores 0; a jail that cannot start is ours and masks the
trajectory.
"""

import asyncio
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.killable import DeadlinePassed, FunctionRaised, PoolUnavailable, WorkerDied
from conjoint.rewards.math import symbolic
from conjoint.rewards.math.exact import clean, quantity
from conjoint.rewards.math.numeric import same_value
from conjoint.rewards.sandbox.local.verifier import VerifierPool
from conjoint.rewards.text.extract import final_answer

NAME = "math"
_BAD_REFERENCES = frozenset(
    ("", "nan", "none", "null", "inf", "infinity", "-inf", "+inf", "undefined")
)
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w{1,3}\}?)?(?:\([A-Za-z]\))?")
_LETTER = re.compile(r"(?<![\\A-Za-z])[^\W\d_]")
_RELATION = re.compile(r"[=<>]|\\(?:leq?|geq?|lt|gt|neq?|in|approx|sim|equiv|cong)(?![A-Za-z])")
_CHOICE = re.compile(r"(?:\\text\s*\{)?\s*\(?([A-J])\)?\s*\}?\s*(?:[.):\s].*)?")
_OTHER_CHOICE = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\{([pb]matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"
_MAX_ITEMS = 12
_DEADLINE_S = 1.5
"""Wall seconds for one comparison by sympy; longer is status `timeout`, score 0."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    equal: bool
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class _Shape:
    """A collection: its brackets ("" for a bare list) and its items."""

    opening: str
    closing: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.opening in ("(", "[")


def reference_answer(reference: Any) -> str:
    r"""The reference as one answer: a number, or text whose last box or `####` line holds it.

    Raises ConjointError on what no answer may ever match (None, NaN, blank, an infinite float).
    """
    if isinstance(reference, bool) or not isinstance(reference, (int, float, str)):
        raise ConjointError(f"expected text or a number as answer, found {reference!r}")
    if isinstance(reference, float) and not math.isfinite(reference):
        raise ConjointError(f"{reference} is not an answer")
    text = str(reference)
    if "boxed" in text or "####" in text:
        found = final_answer(text)
        if found.answer is None:
            raise ConjointError(f"the reference has no final answer: {found.reason}")
        text = found.answer
    cleaned = clean(text)
    if cleaned is None or cleaned.lower() in _BAD_REFERENCES:
        raise ConjointError(f"{reference!r} is not an answer")
    return cleaned


def validate_reference(reference: Any) -> None:
    """Raises ConjointError where a dataset row cannot be graded."""
    reference_answer(reference)


class MathVerifier:
    """The check `(task, response) -> Score`, with its memo and its lazily started jail.

    `isolation` is the jail's tier, as in `SandboxConfig`.
    """

    def __init__(
        self,
        memo_size: int = 4096,
        isolation: str = "auto",
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._pool = VerifierPool(
            NAME,
            deadline_s=deadline_s,
            warm=symbolic.warm,
            distributions=("math-verify",),
            isolation=isolation,
        )
        self._memo: OrderedDict[tuple[str, str], _Verdict] = OrderedDict()
        self._memo_size = memo_size
        self._running: dict[tuple[str, str], asyncio.Task[_Verdict]] = {}

    @property
    def started(self) -> bool:
        """Whether the jail was needed so far."""
        return self._pool.started

    async def start(self) -> None:
        """Start the jail ahead of the first answer that needs it (imports take seconds).

        Raises SandboxUnavailable where this machine has no tier of it.
        """
        await self._pool.start()

    async def __call__(self, task: Task, response: str) -> Score:
        try:
            gold = reference_answer(task.reference)
        except ConjointError as error:
            return Score.infra_error(NAME, f"unusable reference: {error}")
        found = final_answer(response, task.prompt)
        if found.answer is None:
            return Score.of(NAME, 0.0, found.reason)
        answer = clean(found.answer)
        shown = found.answer[:80].encode("utf-8", "replace").decode()
        if answer is None:
            return Score.of(NAME, 0.0, f"the answer {shown!r} has invisible characters")
        try:
            verdict = await self._equal(gold, answer)
        except PoolUnavailable as error:
            return Score.infra_error(NAME, str(error))
        reason = f"answered {shown}, wanted {gold[:80]}"
        reason += f" ({verdict.reason})" if verdict.reason else ""
        return Score(NAME, float(verdict.equal), verdict.outcome, (reason,))

    def close(self) -> None:
        """End the jail; a later answer that needs it starts it again."""
        self._pool.close()

    async def _equal(self, gold: str, answer: str) -> _Verdict:
        decided = _plainly_equal(gold, answer)
        if decided is not None:
            return _verdict(decided)
        if _choice(gold):
            return _verdict(_choice(gold) == _choice(answer))
        gold_name, gold = _assignment(gold)
        name, answer = _assignment(answer)
        if gold_name and name and gold_name != name:
            return _verdict(False, "another variable")
        decided = _plainly_equal(gold, answer)
        if decided is not None:
            return _verdict(decided)
        gold_union, union = _split(gold, "\\cup"), _split(answer, "\\cup")
        if len(gold_union) > 1 and len(gold_union) == len(union):
            return await self._equal_items(gold_union, union, ordered=False)
        gold_rows, rows = _matrix(gold), _matrix(answer)
        if gold_rows and rows:
            if [len(row) for row in gold_rows] != [len(row) for row in rows]:
                return _verdict(False, "a matrix of another size")
            entries = (tuple(entry for row in both for entry in row) for both in (gold_rows, rows))
            return await self._equal_items(*entries, ordered=True)
        gold_shape, shape = _shape(gold), _shape(answer)
        if gold_shape is None and shape is None:
            return await self._equal_formulas(gold, answer)
        if gold_shape is None or shape is None:
            return _verdict(False, "one is a collection, the other is not")
        if gold_shape.ordered or shape.ordered:
            brackets = (shape.opening, shape.closing)
            if brackets != (gold_shape.opening, gold_shape.closing):
                return _verdict(False, "other brackets")
        return await self._equal_items(gold_shape.items, shape.items, gold_shape.ordered)

    async def _equal_items(
        self, gold: tuple[str, ...], answer: tuple[str, ...], ordered: bool
    ) -> _Verdict:
        if len(gold) != len(answer) or len(gold) > _MAX_ITEMS:
            return _verdict(False, f"{len(answer)} items, wanted {len(gold)}")
        left = list(answer)
        for item in gold:
            for candidate in left[:1] if ordered else list(left):
                verdict = await self._equal(item, candidate)
                if verdict.equal:
                    left.remove(candidate)
                    break
                if verdict.outcome is not Outcome.FAIL:
                    return verdict
            else:
                return _verdict(False, f"no item equals {item[:40]}")
        return _verdict(True)

    async def _equal_formulas(self, gold: str, answer: str) -> _Verdict:
        """By sympy, once for each pair: K equal answers of a group cost one comparison."""
        if quantity(gold) or bool(_RELATION.search(answer)) != bool(_RELATION.search(gold)):
            return _verdict(False, "a relation where a value is wanted, or a value for a relation")
        if "%" in gold + answer:
            return _verdict(False)
        if refused := symbolic.refusal(answer, gold):
            return _verdict(False, refused)
        if not _RELATION.search(gold) and (decided := same_value(gold, answer)) is not None:
            return _verdict(decided)
        key = (gold, answer)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        if key not in self._running:
            self._running[key] = asyncio.ensure_future(self._compare(gold, answer))
            self._running[key].add_done_callback(lambda _: self._running.pop(key, None))
        verdict = await asyncio.shield(self._running[key])
        self._memo[key] = verdict
        if len(self._memo) > self._memo_size:
            self._memo.popitem(last=False)
        return verdict

    async def _compare(self, gold: str, answer: str) -> _Verdict:
        """A process that dies may have been killed from outside: its job gets one more try."""
        for attempt in (0, 1):
            try:
                return _verdict(await self._pool.call(symbolic.equal, gold, answer))
            except DeadlinePassed as error:
                return _Verdict(False, Outcome.TIMEOUT, f"comparing them {error}")
            except FunctionRaised as error:
                return _Verdict(False, Outcome.ERROR, f"comparing them raised {error}")
            except WorkerDied as error:
                if attempt:
                    return _Verdict(False, Outcome.ERROR, f"comparing them twice: {error}")
        raise AssertionError("unreachable")


_shared: dict[str, MathVerifier] = {}


def math_verifier(isolation: str = "auto") -> MathVerifier:
    """`MathVerifier` with its defaults, one for each tier in this process. See `close_math`."""
    return _shared.setdefault(isolation, MathVerifier(isolation=isolation))


def close_math() -> None:
    """End the jails behind `math_verifier`; a later call starts them again."""
    for verifier in _shared.values():
        verifier.close()


def _verdict(equal: bool, reason: str = "") -> _Verdict:
    return _Verdict(equal, Outcome.PASS if equal else Outcome.FAIL, reason)


def _plainly_equal(gold: str, answer: str) -> bool | None:
    """Equal as text or decided by exact numbers; None where it takes more to know."""
    tight_gold, tight = "".join(gold.split()), "".join(answer.split())
    if tight_gold == tight:
        return True
    if gold.replace(" ", "").isalpha() and len(tight_gold) > 1 and not _choice(gold):
        # A name or a word ("Monday", "odd"): case aside, only itself.
        return tight_gold.isascii() and tight.isascii() and tight_gold.lower() == tight.lower()
    gold_number, number = quantity(gold), quantity(answer)
    if gold_number is None:
        return None
    if number is None:
        # "6*7" restates a problem whose answer is a number; only "6*7 = 42" may still be one.
        return None if "=" in answer else False
    return number.same(gold_number)


def _choice(text: str) -> str:
    """The letter of a multiple-choice answer, with or without the choice's text; "" if none."""
    match = _CHOICE.fullmatch(text)
    if match is None:
        return ""
    return "" if _OTHER_CHOICE.search(text, match.end(1)) else match.group(1)


def _assignment(text: str) -> tuple[str, str]:
    """("x", "42") of "x = 42" and of "x = 6*7 = 42"; ("", text) where no value is assigned.

    Between the name and the value only arithmetic may stand: "x - 42 = 0" assigns nothing.
    """
    if "=" not in text:
        return "", text
    head, *steps, value = (part.strip() for part in text.split("="))
    name = head if _VARIABLE.fullmatch(head) else ""
    steps = steps if name else [head, *steps]
    lettered = any(_LETTER.search(step) for step in steps)
    if _RELATION.search(value) or value in ("", name) or lettered:
        return "", text
    return name, value


def _matrix(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows of entries of a matrix in round or square brackets; () for what is none."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None or "\\begin" in match.group(2):
        return ()
    return tuple(_split(row, "&") for row in _split(match.group(2), "\\\\") if row)


def _shape(text: str) -> _Shape | None:
    """The collection that `text` is, or None for a single value."""
    inner, opening, closing = text.strip(), "", ""
    starts_set = inner.startswith("\\{") and inner.endswith("\\}")
    if starts_set and _outermost(inner.replace("\\", " ")):
        inner, opening, closing = inner[2:-2], "{", "}"
    elif inner[:1] in ("(", "[") and inner[-1:] in (")", "]") and _outermost(inner):
        inner, opening, closing = inner[1:-1], inner[0], inner[-1]
    items = _split(inner, ",")
    if len(items) < 2 and opening != "{":
        return None
    return _Shape(opening, closing, items)


def _outermost(text: str) -> bool:
    """Whether the first bracket closes at the very end (`[` may close with `)`: intervals)."""
    depth = 0
    for index, char in enumerate(text.strip()):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0:
            return index == len(text.strip()) - 1
    return False


def _split(text: str, separator: str) -> tuple[str, ...]:
    """Split at `separator` outside every bracket."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        char = text[index]
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index].strip())
            index += len(separator)
            start = index
            continue
        index += 1
    parts.append(text[start:].strip())
    return tuple(parts)
