"""The `code` reward: the response's program must do what every hidden case says.

Owns the extraction of the program and the verdict. The program runs in a sandbox; expected values
and comparisons stay here, where no program runs, or in another jail where tests are code, so that
the most a program can forge is an answer. Exit codes, printed marks and files prove nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from conjoint.envs.types import ConjointError, Group, Outcome, Score, Task
from conjoint.rewards.base import RewardContext
from conjoint.rewards.code.examples import examples
from conjoint.rewards.code.extract import extract_programs
from conjoint.rewards.code.output import OutputCheck, output_check, same_output
from conjoint.rewards.code.reference import LANGUAGES, fits_sandbox, validate_reference
from conjoint.rewards.code.rows import as_reference
from conjoint.rewards.combine import each
from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.base import Call, Ended, Program, Result, Sandbox
from conjoint.rewards.text.quoting import printable

__all__ = [
    "LANGUAGES",
    "CodeReward",
    "CodeRewardConfig",
    "examples",
    "extract_programs",
    "fits_sandbox",
    "same_output",
    "validate_reference",
]

_MAX_PROGRAM = 200_000
"""Characters of a program that is run at all."""
_MAX_SHOWN = 80
_NAME = "code"


@dataclass(frozen=True, slots=True)
class CodeRewardConfig:
    """`partial_credit`: pay the share of cases that pass, not only a program that passes all.
    `total_s`: seconds that all cases of a script may take together, each within `sandbox.wall_s`.
    """

    partial_credit: bool = False
    total_s: float = 120.0

    def validate(self) -> None:
        if not 0 < self.total_s < float("inf"):
            raise ConjointError(
                f"reward.code.total_s is {self.total_s}; expected a number of seconds above 0."
            )


class CodeReward:
    """A `RewardFn`: one score a trajectory, each from a program run in `sandbox`."""

    def __init__(self, sandbox: Sandbox, config: CodeRewardConfig | None = None) -> None:
        self._sandbox = sandbox
        self._config = config or CodeRewardConfig()
        self._partial = self._config.partial_credit
        self._score_all = each(_NAME, self.check)

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]:
        return await self._score_all(group, context)

    async def check(self, task: Task, response: str) -> Score:
        """Score one response. A reference that is not valid, or a broken jail, is infra_error."""
        try:
            validate_reference(task.reference)
        except ValueError as error:
            score = Score.infra_error(_NAME, str(error))
        else:
            score = await self._judge(as_reference(task.reference), response)
        # What a program said may stand in a reason: any character may stand in that.
        return replace(score, reasons=tuple(map(printable, score.reasons)))

    async def _judge(self, reference: Mapping[str, Any], response: str) -> Score:
        tests, language = reference["tests"], LANGUAGES[reference["language"]]
        sources = extract_programs(response, language, tests)
        if len(sources[0]) > _MAX_PROGRAM:
            reason = f"the program is longer than {_MAX_PROGRAM} characters"
            return Score(_NAME, 0.0, Outcome.ERROR, (reason,))
        others = [s for s in sources[1:] if len(s) <= _MAX_PROGRAM and language == "python"]
        program = Program(sources[0], language=language, alternatives=tuple(others))
        if tests["type"] == "stdio":
            return await self._judge_stdio(program, tests)
        judge = self._judge_calls if tests["type"] == "function" else self._judge_asserts
        return await judge(replace(program, entry=tests["entry"]), tests)

    async def _judge_calls(self, program: Program, tests: Mapping[str, Any]) -> Score:
        cases = tests["cases"]
        calls = [Call(case.get("args", ()), case.get("kwargs", {})) for case in cases]
        result = await self._sandbox.run(replace(program, calls=calls))
        if result.ended is Ended.INFRA_ERROR:
            return Score.infra_error(_NAME, result.reason)
        verdicts = [
            _call_verdict(i, tests, call, case, result)
            for i, (call, case) in enumerate(zip(calls, cases, strict=True))
        ]
        return self._score(verdicts, len(cases))

    async def _judge_stdio(self, program: Program, tests: Mapping[str, Any]) -> Score:
        """One fresh process a case; without partial credit the first failing case ends it."""
        check = output_check(tests)
        verdicts: list[_Verdict] = []
        taken_s = 0.0
        for case in tests["cases"]:
            if taken_s > self._config.total_s:
                why = f"its cases took longer than {self._config.total_s:g} s together"
                verdicts.append(_Verdict(Outcome.TIMEOUT, why))
                break
            result = await self._sandbox.run(replace(program, stdin=case["input"].encode()))
            if result.ended is Ended.INFRA_ERROR:
                return Score.infra_error(_NAME, result.reason)
            taken_s += result.wall_s
            if check.type == "program" and result.ended is Ended.FINISHED:
                judged = await self._ask_checker(check, case, result)
                if isinstance(judged, Score):
                    return judged
                verdicts.append(judged)
            else:
                verdicts.append(_stdio_verdict(case, check, result))
            stop = not self._partial or verdicts[-1].outcome is Outcome.TIMEOUT
            if stop and verdicts[-1].outcome is not Outcome.PASS:
                break
        return self._score(verdicts, len(tests["cases"]))

    async def _ask_checker(
        self, check: OutputCheck, case: Mapping[str, Any], result: Result
    ) -> "_Verdict | Score":
        """What the checker program says of one output; it runs after the program, and alone.

        One that raises or hangs is as good as a no: the output may have been written to do that.
        """
        got = result.stdout.decode(errors="replace")
        call = Call((case["input"], got, case["output"]))
        asked = await self._sandbox.run(Program(check.source, entry="check", calls=[call]))
        if asked.ended is Ended.INFRA_ERROR:
            return Score.infra_error(_NAME, asked.reason)
        answer = asked.answers[0] if asked.answers else None
        if answer is not None and answer.wire is True and not answer.problem:
            return _Verdict(Outcome.PASS)
        said = "refused it"
        if answer is None or answer.problem:
            said = f"failed: {answer.problem if answer else asked.reason}"
        elif answer.wire is not False:
            said = f"gave {_shown_wire(answer.wire)} instead of True or False"
        return _Verdict(Outcome.FAIL, f"printed {_shown(got[:200])}; the checker {said}")

    async def _judge_asserts(self, program: Program, tests: Mapping[str, Any]) -> Score:
        """The tests are code: they run in a second jail, and call the program in the first."""
        result = await self._sandbox.run(
            replace(program, checker=tests["code"], every_case=self._partial)
        )
        if result.ended is Ended.INFRA_ERROR:
            return Score.infra_error(_NAME, result.reason)
        if result.passed is None:
            return Score.infra_error(_NAME, "this sandbox runs no tests of type 'asserts'")
        passed, every = result.cases
        if result.passed and result.ended is Ended.FINISHED:
            return Score(_NAME, 1.0, Outcome.PASS, (f"all {every} cases pass",))
        share = min(passed, every - 1) / every if self._partial and every else 0.0
        return Score(_NAME, share, _BY_ENDING.get(result.ended, Outcome.FAIL), (result.reason,))

    def _score(self, verdicts: list["_Verdict"], cases: int) -> Score:
        failing = [(i, v) for i, v in enumerate(verdicts) if v.outcome is not Outcome.PASS]
        if not failing:
            return Score(_NAME, 1.0, Outcome.PASS, (f"all {cases} cases pass",))
        index, first = failing[0]
        value = (len(verdicts) - len(failing)) / cases if self._partial else 0.0
        return Score(_NAME, value, first.outcome, (f"case {index + 1} of {cases}: {first.why}",))


@dataclass(frozen=True, slots=True)
class _Verdict:
    outcome: Outcome
    why: str = ""


_BY_ENDING = {Ended.TIMEOUT: Outcome.TIMEOUT, Ended.ERROR: Outcome.ERROR}


def _shown_call(tests: Mapping[str, Any], call: Call) -> str:
    named = [f"{name}={_shown(value)}" for name, value in call.kwargs.items()]
    return f"{tests['entry']}({', '.join([*map(_shown, call.args), *named])})"


def _call_verdict(
    index: int, tests: Mapping[str, Any], given: Call, case: Mapping[str, Any], result: Result
) -> _Verdict:
    if index >= len(result.answers):
        # Ending by itself (exit 0) without an answer is the program's error like any other.
        outcome = _BY_ENDING.get(result.ended, Outcome.ERROR)
        why = result.reason or "the program ended"
        return _Verdict(outcome, f"{_shown_call(tests, given)} gave no answer: {why}")
    answer, expected = result.answers[index], case["expected"]
    if not answer.problem and _is_right(case, answer.wire):
        if index + 1 < len(tests["cases"]) or result.ended is Ended.FINISHED:
            return _Verdict(Outcome.PASS)
        # Our runner ends after its last answer: this process was made to go on.
        why = f"{_shown_call(tests, given)} answered, and then {result.reason}"
        return _Verdict(_BY_ENDING[result.ended], why)
    call = _shown_call(tests, given)
    if answer.problem:
        outcome = Outcome.ERROR if answer.raised else Outcome.FAIL
        verb = "failed with" if answer.raised else "gave"
        return _Verdict(outcome, f"{call} {verb} {answer.problem}")
    got = _shown_wire(answer.wire)
    return _Verdict(Outcome.FAIL, f"{call} gave {got}, expected {_shown(expected)}")


def _is_right(case: Mapping[str, Any], wire: Any) -> bool:
    if codec.matches(case["expected"], wire):
        return True
    return "or_expected" in case and codec.matches(case["or_expected"], wire)


def _stdio_verdict(case: Mapping[str, Any], check: OutputCheck, result: Result) -> _Verdict:
    if result.ended is not Ended.FINISHED:
        return _Verdict(_BY_ENDING[result.ended], f"the program {result.reason}")
    expected = case["output"].encode()
    if check.same(expected, result.stdout):
        return _Verdict(Outcome.PASS)
    got = _shown(result.stdout[:200].decode(errors="replace"))
    return _Verdict(Outcome.FAIL, f"printed {got}, expected {_shown(case['output'])}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # such as an int of too many digits
        return "a value that cannot be shown"
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _shown_wire(wire: Any) -> str:
    """A sent value for a reader, who may be shown anything but a failure to show it."""
    if type(wire) is list and len(wire) == 2 and wire[0] in ("list", "tuple", "set"):
        left, right = {"list": "[]", "tuple": "()", "set": "{}"}[wire[0]]
        items = wire[1][:20] if type(wire[1]) is list else []
        inner = ", ".join(_shown(i) if type(i) is not list else "..." for i in items)
        return _shown_text(f"{left}{inner}{right}")
    return _shown(wire)


def _shown_text(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
