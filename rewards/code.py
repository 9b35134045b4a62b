"""The `code` reward: the response's program must do what every hidden case says.

Owns the reference form of code tasks, the extraction of the program and the verdict. The program
runs in a sandbox; expected values and every comparison stay here, where no program runs, so that
the most a program can forge is an answer. Exit codes, printed marks and files prove nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.base import RewardContext
from rewards.combine import each
from rewards.sandbox import codec
from rewards.sandbox.base import Ended, Program, Result, Sandbox
from rl.types import Group, Outcome, Score, Task

_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)[^\n`]*$", re.MULTILINE)
_MAX_PROGRAM = 200_000
"""Characters of a program that is run at all."""
_MAX_SHOWN = 80
_NAME = "code"
LANGUAGES = {"python": "python", "cpp": "cpp", "c++": "cpp", "bash": "bash"}
"""Names that a reference may use -> the sandbox's."""


@dataclass(frozen=True, slots=True)
class CodeRewardConfig:
    """`partial_credit`: pay the share of cases that pass, not only a program that passes all."""

    partial_credit: bool = False


class CodeReward:
    """A `RewardFn`: one score a trajectory, each from a program run in `sandbox`."""

    def __init__(self, sandbox: Sandbox, config: CodeRewardConfig | None = None) -> None:
        self._sandbox = sandbox
        self._partial = (config or CodeRewardConfig()).partial_credit
        self._score_all = each(_NAME, self.check)

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]:
        return await self._score_all(group, context)

    async def check(self, task: Task, response: str) -> Score:
        """Score one response. A reference that is not valid, or a broken jail, is infra_error."""
        try:
            validate_reference(task.reference)
        except ValueError as error:
            return Score.infra_error(_NAME, str(error))
        source = extract_program(response)
        if len(source) > _MAX_PROGRAM:
            reason = f"the program is longer than {_MAX_PROGRAM} characters"
            return Score(_NAME, 0.0, Outcome.ERROR, (reason,))
        tests = task.reference["tests"]
        if tests["type"] == "function":
            return await self._judge_calls(source, tests)
        language = LANGUAGES[task.reference["language"]]
        return await self._judge_stdio(source, language, tests)

    async def _judge_calls(self, source: str, tests: Mapping[str, Any]) -> Score:
        cases, entry = tests["cases"], tests["entry"]
        result = await self._sandbox.run(
            Program(source, entry=entry, calls=[case["args"] for case in cases])
        )
        if result.ended is Ended.INFRA_ERROR:
            return Score.infra_error(_NAME, result.reason)
        verdicts = [_call_verdict(i, case, entry, result) for i, case in enumerate(cases)]
        return self._score(verdicts, len(cases))

    async def _judge_stdio(self, source: str, language: str, tests: Mapping[str, Any]) -> Score:
        """One fresh process a case; without partial credit the first failing case ends it."""
        verdicts: list[_Verdict] = []
        for case in tests["cases"]:
            program = Program(source, stdin=case["input"].encode(), language=language)
            result = await self._sandbox.run(program)
            if result.ended is Ended.INFRA_ERROR:
                return Score.infra_error(_NAME, result.reason)
            verdicts.append(_stdio_verdict(case, result))
            stop = not self._partial or verdicts[-1].outcome is Outcome.TIMEOUT
            if stop and verdicts[-1].outcome is not Outcome.PASS:
                break
        return self._score(verdicts, len(tests["cases"]))

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


def _call_verdict(index: int, case: Mapping[str, Any], entry: str, result: Result) -> _Verdict:
    call = f"{entry}({', '.join(_shown(a) for a in case['args'])})"
    if index >= len(result.answers):
        # Ending by itself (exit 0) without an answer is the program's error like any other.
        outcome = _BY_ENDING.get(result.ended, Outcome.ERROR)
        return _Verdict(outcome, f"{call} gave no answer: {result.reason or 'the program ended'}")
    answer = result.answers[index]
    if answer.problem:
        outcome = Outcome.ERROR if answer.raised else Outcome.FAIL
        verb = "failed with" if answer.raised else "gave"
        return _Verdict(outcome, f"{call} {verb} {answer.problem}")
    if codec.matches(case["expected"], answer.wire):
        return _Verdict(Outcome.PASS)
    got = _shown_wire(answer.wire)
    return _Verdict(Outcome.FAIL, f"{call} gave {got}, expected {_shown(case['expected'])}")


def _stdio_verdict(case: Mapping[str, Any], result: Result) -> _Verdict:
    if result.ended is not Ended.FINISHED:
        return _Verdict(_BY_ENDING[result.ended], f"the program {result.reason}")
    expected = case["output"].encode()
    if same_output(expected, result.stdout):
        return _Verdict(Outcome.PASS)
    got = _shown(result.stdout[:200].decode(errors="replace"))
    return _Verdict(Outcome.FAIL, f"printed {got}, expected {_shown(case['output'])}")


def same_output(expected: bytes, got: bytes) -> bool:
    """Equal bytes, but for blanks at the ends of lines, CR LF, and empty lines at the end."""
    return _lines(expected) == _lines(got)


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip(b" \t\r") for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _shown_wire(wire: Any) -> str:
    """A sent value for a reader, who may be shown anything but a failure to show it."""
    try:
        return _shown_wire_form(wire)
    except (RecursionError, ValueError):
        return "a value that cannot be shown"


def _shown_wire_form(wire: Any) -> str:
    if type(wire) is list and len(wire) == 2 and wire[0] in ("list", "tuple", "set"):
        left, right = {"list": "[]", "tuple": "()", "set": "{}"}[wire[0]]
        items = wire[1][:20] if type(wire[1]) is list else []
        inner = ", ".join(_shown(i) if type(i) is not list else "..." for i in items)
        return _shown_text(f"{left}{inner}{right}")
    return _shown(wire)


def _shown_text(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def extract_program(response: str) -> str:
    """The last fenced block after the thinking, or all of that text if there is none.

    A last fence that is never closed (a truncated answer) opens a block up to the end.
    """
    text = response.rpartition("</think>")[2].partition("<think>")[0]
    start, mark, block = 0, "", None
    for fence in _FENCE.finditer(text):
        if not mark:
            start, mark = fence.end() + 1, fence.group(1)
        elif fence.group().strip() == mark:
            block, mark = text[start : fence.start()], ""
    if mark:
        block = text[start:]
    return text if block is None else block


def validate_reference(reference: Any) -> None:
    """Check a code task's reference when tasks load. Raises ValueError naming the wrong field.

    `{"language": "python", "tests": {"type": "function", "entry": NAME, "cases": [{"args": [...],
    "expected": ...}]}}`, or `{"type": "stdio", "cases": [{"input": TEXT, "output": TEXT}]}`, which
    is also the form for cpp and bash. `"processes": false` says that bash's builtins suffice.
    """
    if not isinstance(reference, Mapping):
        raise ValueError("reference must be an object with 'language' and 'tests'")
    language = reference.get("language")
    if language not in LANGUAGES:
        expected = ", ".join(LANGUAGES)
        raise ValueError(f"reference.language is {_shown(language)}; expected one of {expected}")
    if not isinstance(reference.get("processes", True), bool):
        raise ValueError("reference.processes must be true or false")
    tests = reference.get("tests")
    if not isinstance(tests, Mapping):
        raise ValueError("reference.tests must be an object with 'type' and 'cases'")
    kind = tests.get("type")
    if kind == "asserts":
        raise ValueError(
            "reference.tests.type 'asserts' is not supported; give the calls as type 'function' "
            "with 'entry' and 'cases'"
        )
    if kind not in ("function", "stdio"):
        raise ValueError(f"reference.tests.type is {_shown(kind)}; expected 'function' or 'stdio'")
    if kind != "stdio" and LANGUAGES[language] != "python":
        raise ValueError(f"reference.tests.type is {_shown(kind)}; in {language} only 'stdio'")
    entry = tests.get("entry")
    if kind == "function" and not (isinstance(entry, str) and entry.isidentifier()):
        raise ValueError("reference.tests.entry must be the name of the function to call")
    cases = tests.get("cases")
    if not isinstance(cases, (list, tuple)) or not cases:
        raise ValueError("reference.tests.cases must be a list of at least one case")
    for number, case in enumerate(cases, 1):
        _validate_case(kind, f"reference.tests.cases, case {number}", case)


def _validate_case(kind: str, where: str, case: Any) -> None:
    needed = ("args", "expected") if kind == "function" else ("input", "output")
    if not isinstance(case, Mapping) or any(key not in case for key in needed):
        raise ValueError(f"{where}: must have '{needed[0]}' and '{needed[1]}'")
    if kind == "stdio":
        for key in needed:
            if not isinstance(case[key], str) or any("\ud800" <= c <= "\udfff" for c in case[key]):
                raise ValueError(f"{where}: '{key}' must be text that UTF-8 can hold")
        return
    if not isinstance(case["args"], (list, tuple)):
        raise ValueError(f"{where}: 'args' must be a list, one entry an argument")
    try:
        codec.encode(list(case["args"]))
        codec.encode(case["expected"])
    except codec.CodecError as error:
        raise ValueError(f"{where}: holds {error}; only plain data can be compared") from None
