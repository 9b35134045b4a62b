"""The math verifier: one final answer against a reference, with nothing paid for stuffing.

Extraction is `rewards/text/extract.py`; most verdicts are exact numbers or equal text and take
microseconds; the rest goes to math-verify in the verifier profile of the jail. A formula that hangs
or crashes it is the response's doing and scores 0; a jail that cannot start is ours and masks the
trajectory.
"""

import asyncio
import functools
import math
from collections import OrderedDict
from typing import Any

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.killable import DeadlinePassed, FunctionRaised, PoolUnavailable, WorkerDied
from conjoint.rewards.math import symbolic
from conjoint.rewards.math.compare import Verdict, equal, verdict
from conjoint.rewards.math.spelling import clean
from conjoint.rewards.sandbox.local.verifier import VerifierPool
from conjoint.rewards.text.extract import final_answer

NAME = "math"
_BAD_REFERENCES = frozenset(("", "nan", "null", "inf", "-inf", "+inf"))
_MAX_ANSWER = 2_000
"""Characters. A longer answer is not compared: no final answer needs them."""
_DEADLINE_S = 1.5
"""Wall seconds for one comparison by sympy; longer is status `timeout`, score 0."""


def reference_answer(reference: Any) -> str:
    r"""The reference as one answer: a number, or text whose last box or `####` line holds it.

    Raises ConjointError on what no answer may ever match (None, also as Python writes it, NaN,
    blank, an infinite float). The words "none" and "undefined" are answers.
    """
    if isinstance(reference, bool) or not isinstance(reference, (int, float, str)):
        raise ConjointError(f"expected text or a number as answer, found {reference!r}")
    if isinstance(reference, float) and not math.isfinite(reference):
        raise ConjointError(f"{reference} is not an answer")
    return _read_reference(str(reference))


@functools.lru_cache(maxsize=4096)
def _read_reference(text: str) -> str:
    if "boxed" in text or "####" in text:
        found = final_answer(text)
        if found.answer is None:
            raise ConjointError(f"the reference has no final answer: {found.reason}")
        text = found.answer
    cleaned = clean(text)
    if text == "None" or cleaned is None or cleaned.lower() in _BAD_REFERENCES:
        raise ConjointError(f"{text!r} is not an answer")
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
        self._memo: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._memo_size = memo_size
        self._running: dict[tuple[str, str], asyncio.Task[Verdict]] = {}

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
        if len(found.answer) > _MAX_ANSWER:
            return Score.of(NAME, 0.0, f"the answer is longer than {_MAX_ANSWER} characters")
        answer = clean(found.answer)
        shown = found.answer[:80].encode("utf-8", "replace").decode()
        if answer is None:
            return Score.of(NAME, 0.0, f"the answer {shown!r} has invisible characters")
        try:
            found = await equal(gold, answer, self._formulas)
        except PoolUnavailable as error:
            return Score.infra_error(NAME, str(error))
        reason = f"answered {shown}, wanted {gold[:80]}"
        reason += f" ({found.reason})" if found.reason else ""
        return Score(NAME, float(found.equal), found.outcome, (reason,))

    def close(self) -> None:
        """End the jail; a later answer that needs it starts it again."""
        self._pool.close()

    async def _formulas(self, gold: str, answer: str) -> Verdict:
        """By sympy, once for each pair: K equal answers of a group cost one comparison."""
        if refused := symbolic.refusal(answer, gold):
            return verdict(False, refused)
        key = (gold, answer)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        if key not in self._running:
            self._running[key] = asyncio.ensure_future(self._compare(gold, answer))
            self._running[key].add_done_callback(lambda _: self._running.pop(key, None))
        found = await asyncio.shield(self._running[key])
        self._memo[key] = found
        if len(self._memo) > self._memo_size:
            self._memo.popitem(last=False)
        return found

    async def _compare(self, gold: str, answer: str) -> Verdict:
        """A process that dies may have been killed from outside: its job gets one more try."""
        for attempt in (0, 1):
            try:
                return verdict(await self._pool.call(symbolic.equal, gold, answer))
            except DeadlinePassed as error:
                return Verdict(False, Outcome.TIMEOUT, f"comparing them {error}")
            except FunctionRaised as error:
                return Verdict(False, Outcome.ERROR, f"comparing them raised {error}")
            except WorkerDied as error:
                if attempt:
                    return Verdict(False, Outcome.ERROR, f"comparing them twice: {error}")
        raise AssertionError("unreachable")


_shared: dict[str, MathVerifier] = {}


def math_verifier(isolation: str = "auto") -> MathVerifier:
    """`MathVerifier` with its defaults, one for each tier in this process. See `close_math`."""
    return _shared.setdefault(isolation, MathVerifier(isolation=isolation))


def close_math() -> None:
    """End the jails behind `math_verifier`; a later call starts them again."""
    for verifier in _shared.values():
        verifier.close()
