"""The code reward: honest programs are paid, forged passes are not, broken jails are neither."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Group, Outcome, Score, Task, Trajectory
from conjoint.rewards.base import RewardContext
from conjoint.rewards.code.extract import extract_programs
from conjoint.rewards.code.output import OutputCheck
from conjoint.rewards.code.reward import (
    CodeReward,
    CodeRewardConfig,
    fits_sandbox,
    same_output,
    validate_reference,
)
from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.base import (
    Answer,
    Call,
    Ended,
    Program,
    Result,
    SandboxConfig,
    SandboxUnavailable,
)
from conjoint.rewards.sandbox.local.jail import LocalJail

_CASES = [
    {"args": [2], "expected": 4},
    {"args": [5], "expected": 10},
    {"args": [-3], "expected": -6},
]
_DOUBLE = {"type": "function", "entry": "f", "cases": _CASES}
_STDIO = {
    "type": "stdio",
    "cases": [{"input": "21\n", "output": "42\n"}, {"input": "7\n", "output": "14\n"}],
}


def _task(tests: dict[str, Any]) -> Task:
    return Task.make("code", "Double it.", {"language": "python", "tests": tests})


class Grader:
    def __init__(self) -> None:
        self.loop = asyncio.Runner()
        self.jail = LocalJail(SandboxConfig(wall_s=12.0, cpu_s=1, workers=3))
        self.loop.run(self.jail.start())

    def __call__(self, tests: dict[str, Any], response: str, partial: bool = False) -> Score:
        reward = CodeReward(self.jail, CodeRewardConfig(partial_credit=partial))
        return self.loop.run(reward.check(_task(tests), response))


@pytest.fixture(scope="module")
def grade() -> Iterator[Grader]:
    try:
        grader = Grader()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield grader
    grader.loop.run(grader.jail.close())
    grader.loop.close()


_FORGED = {
    "exit 0 at the top": "import os\nos._exit(0)",
    "exit 0 in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit in the call": "def f(x): raise SystemExit(0)",
    "exit 0 at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "equal to everything": ("class E:\n    def __eq__(self, o): return True\ndef f(x): return E()"),
    "int equal to everything": (
        "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
        "def f(x): return E(0)"
    ),
    "float equal to everything": (
        "class E(float):\n    def __eq__(self, o): return True\n    __hash__ = float.__hash__\n"
        "def f(x): return E(0)"
    ),
    "poisoned builtins": (
        "import builtins\nfor n in ('all', 'any', 'isinstance', 'type', 'len', 'print'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 0"
    ),
    "poisoned json": (
        "import json\njson.dumps = lambda *a, **k: '[\"value\", 4]'\ndef f(x): return 0"
    ),
    "replaced import": (
        "import builtins\nbuiltins.__import__ = lambda *a, **k: None\ndef f(x): return 0"
    ),
    "verdicts on every descriptor": (
        "import os\nfor n in range(64):\n"
        "    try: os.write(n, b'pass\\n{\"passed\": true}\\n' * 9)\n"
        "    except OSError: pass\ndef f(x): return 0"
    ),
    "printed marks": "def f(x):\n    print('ALL TESTS PASSED', flush=True)\n    return 0",
    "test framework": (
        "import sys\nfor m in ('pytest', 'unittest'): sys.modules[m] = None\ndef f(x): return 0"
    ),
    "caller's names": (
        "import sys\ndef f(x):\n    fr = sys._getframe()\n    while fr:\n"
        "        for k, v in {**fr.f_globals, **fr.f_locals}.items():\n"
        "            if 'expect' in str(k).lower(): return v\n        fr = fr.f_back\n    return 0"
    ),
    "garbage collector": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if type(o) is dict and 'expected' in o: return o['expected']\n    return 0"
    ),
    "constant": "def f(x): return 4",
    "lookup table of shown cases": "def f(x): return {2: 4, 3: 6}.get(x, 0)",
    "state across calls": ("n = -1\ndef f(x):\n    global n\n    n += 1\n    return [4, 6, 8][n]"),
    "hand-written message": (
        'import os\nos.write(3, b\'["value",4]\\n["value",6]\\n["value",8]\\n\')\nos._exit(0)'
    ),
    "no function": "print(4)",
    "not a function": "f = 4",
    "endless generator": "def f(x):\n    while True: yield 4",
    "text of the number": "def f(x): return str(2 * x)",
    "argument changed in place": "def f(x):\n    x = 4\n    return None",
    "module planted": "import sys, types\nsys.modules['conjoint.rewards.code.reward'] = types\n"
    "def f(x): return 0",
}


@pytest.mark.parametrize("name", _FORGED)
def test_a_forged_pass_is_worth_nothing(grade: Grader, name: str) -> None:
    score = grade(_DOUBLE, _FORGED[name])
    assert score.value == 0.0
    assert score.outcome in (Outcome.FAIL, Outcome.ERROR), score
    assert score.reasons[0].startswith("case ")


@pytest.mark.parametrize(
    "program",
    [
        "print(42)",
        "import sys\nprint({'21': 42}.get(input(), 0))",
        "print(42)\nimport os; os._exit(3)",
        "import os\nos.write(2, b'42')",
        "import os\nprint(42, flush=True)\nos.kill(os.getpid(), 9)",
    ],
)
def test_a_forged_output_is_worth_nothing(grade: Grader, program: str) -> None:
    assert grade(_STDIO, program).value == 0.0


_HONEST = [
    "def f(x): return x * 2",
    "Here you are:\n```python\ndef f(x):\n    return x + x\n```\nDone.",
    "<think>\n```python\ndef f(x): return 0\n```\n</think>\n```py\nf = lambda x: 2 * x\n```",
    "```\ndef f(x): return 0\n```\nBetter:\n```\ndef f(x): return 2 * x\n```",
    "def f(x): return float(x * 2)",
    "print('debugging')\ndef f(x):\n    print(x)\n    return x * 2",
    "if __name__ == '__main__':\n    input()\ndef f(x): return x * 2",
]


@pytest.mark.parametrize("response", _HONEST)
def test_an_honest_program_is_paid(grade: Grader, response: str) -> None:
    score = grade(_DOUBLE, response)
    assert (score.value, score.outcome) == (1.0, Outcome.PASS), score
    assert score.reasons == ("all 3 cases pass",)


def test_stdio_is_paid_with_any_line_ends(grade: Grader) -> None:
    assert grade(_STDIO, "import sys\nsys.stdout.write(f'{int(input()) * 2}\\r\\n')").value == 1.0


def test_rich_types_are_compared(grade: Grader) -> None:
    cases = [{"args": [[3, 1], {"k": 2.5}], "expected": [[1, 3], {"k": 2.5}, None, True, "\u00e9"]}]
    tests = {"type": "function", "entry": "f", "cases": cases}
    assert grade(tests, "def f(a, b): return (sorted(a), b, None, True, '\u00e9')").value == 1.0


@pytest.mark.parametrize(
    ("program", "outcome", "words"),
    [
        (
            "def f(x): return 2 * x if x > 0 else 0",
            "fail",
            "case 3 of 3: f(-3) gave 0, expected -6",
        ),
        ("def f(x): return [x]", "fail", "case 1 of 3: f(2) gave [2], expected 4"),
        ("def f(x): return 4 if x == 2 else 1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(x):\n    while x == 5: pass\n    return 2 * x", "timeout", "case 2 of 3: f(5)"),
        ("def f(x) return", "error", "SyntaxError"),
        ("def g(x): return x", "error", "defines no function 'f'"),
    ],
)
def test_reason_names_the_first_failing_case(
    grade: Grader, program: str, outcome: str, words: str
) -> None:
    score = grade(_DOUBLE, program)
    assert score.outcome == outcome
    assert words in score.reasons[0]


def test_named_arguments_are_passed_by_name(grade: Grader) -> None:
    cases = [
        {"args": [7], "kwargs": {"by": 2}, "expected": 3.5},
        {"kwargs": {"by": 4, "x": 2}, "expected": 0.5},
    ]
    tests = {"type": "function", "entry": "f", "cases": cases}
    assert grade(tests, "def f(x, *, by): return x / by").value == 1.0
    assert grade(tests, "def f(*args, **kwargs): return 3.5").value == 0.0
    wrong = grade(tests, "def f(x, by): return by / x")
    assert wrong.reasons[0].startswith("case 1 of 2: f(7, by=2) gave 0.2857")
    assert grade(tests, "def f(x): return x").outcome is Outcome.ERROR


def test_partial_credit_is_a_choice(grade: Grader) -> None:
    program = "def f(x): return 2 * x if x > 0 else 0"
    assert grade(_DOUBLE, program).value == 0.0
    assert grade(_DOUBLE, program, partial=True).value == pytest.approx(2 / 3)
    assert grade(_STDIO, "print(42)", partial=True).value == 0.5


_JUDGE = """
def check(input, output, expected):
    low, high = sorted(map(int, output.split()))
    return low * high == int(input) and low > 1
"""
_CHECKERS = ("tokens", {"type": "floats", "tolerance": 1e-3}, {"type": "program", "source": _JUDGE})


def test_a_checker_program_judges_each_output(grade: Grader) -> None:
    cases = [{"input": "21\n", "output": "3 7"}, {"input": "10\n", "output": "2 5"}]
    tests = {"type": "stdio", "cases": cases, "checker": _CHECKERS[-1]}
    right = "n = int(input())\nd = next(d for d in range(2, n) if n % d == 0)\nprint(n // d, d)"
    assert grade(tests, right).value == 1.0
    assert grade(tests, "print(3, 7)").value == 0.0
    assert grade(tests, "print(3, 7)", partial=True).value == 0.5
    for program, words in (
        ("n = int(input())\nprint(1, n)", "case 1 of 2: printed '1 21\\n'; the checker refused it"),
        ("print('three seven')", "the checker failed: ValueError"),
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("print(True)", "the checker failed"),
    ):
        score = grade(tests, program)
        assert score.value == 0.0 and words in score.reasons[0], score


def test_only_true_is_a_yes_of_a_checker(grade: Grader) -> None:
    for value, paid in (("True", 1.0), ("1", 0.0), ("'yes'", 0.0), ("None", 0.0)):
        source = f"def check(input, output, expected): return {value}"
        tests = {**_STDIO, "checker": {"type": "program", "source": source}}
        assert grade(tests, "print(1)").value == paid, value


def test_the_checker_never_shares_a_process_with_the_program() -> None:
    sandbox = FakeSandbox(
        Result(Ended.FINISHED, stdout=b"out"),
        Result(Ended.FINISHED, answers=(Answer(wire=True),)),
        Result(Ended.FINISHED, stdout=b"out"),
        Result(Ended.INFRA_ERROR, "the zygote ended"),
    )
    score = _check(sandbox, {**_STDIO, "checker": _CHECKERS[-1]}, "print('mine')")
    assert (score.value, score.reasons) == (None, ("the zygote ended",))
    ran, judged, *_ = sandbox.programs
    assert "42" not in repr(ran) and ran.source == "print('mine')"
    assert judged.source == _JUDGE and judged.entry == "check"
    assert [Call.of(c).args for c in judged.calls] == [("21\n", "out", "42\n")]


class FakeSandbox:
    """Answers from a list, and remembers what it was asked to run."""

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.programs: list[Program] = []

    async def run(self, program: Program) -> Result:
        self.programs.append(program)
        return self.results.pop(0)

    async def close(self) -> None: ...


def _check(sandbox: FakeSandbox, tests: dict[str, Any], response: str = "x") -> Score:
    return asyncio.run(CodeReward(sandbox).check(_task(tests), response))


@pytest.mark.parametrize("tests", [_DOUBLE, _STDIO])
def test_a_broken_jail_is_infra_error_and_never_zero(tests: dict[str, Any]) -> None:
    score = _check(FakeSandbox(Result(Ended.INFRA_ERROR, "the zygote ended")), tests)
    assert (score.value, score.outcome) == (None, Outcome.INFRA_ERROR)
    assert score.reasons == ("the zygote ended",)


def test_nothing_expected_is_ever_given_to_the_program() -> None:
    secret = "EXPECTED-VALUE"
    calls = {"type": "function", "entry": "f", "cases": [{"args": [1], "expected": secret}]}
    stdio = {"type": "stdio", "cases": [{"input": "1", "output": secret}]}
    for tests in (calls, stdio):
        sandbox = FakeSandbox(Result(Ended.ERROR, "nothing"))
        _check(sandbox, tests)
        assert secret not in repr(sandbox.programs)


def test_what_does_not_end_after_its_last_answer_is_not_paid() -> None:
    answered = tuple(Answer(wire=case["expected"]) for case in _CASES)
    assert _check(FakeSandbox(Result(Ended.FINISHED, "", answers=answered)), _DOUBLE).value == 1.0
    for ended in (Ended.TIMEOUT, Ended.ERROR):
        score = _check(FakeSandbox(Result(ended, "ran longer than 1 s", answers=answered)), _DOUBLE)
        assert (score.value, score.outcome) == (0.0, ended)
        assert score.reasons[0].endswith("answered, and then ran longer than 1 s")
    short = FakeSandbox(Result(Ended.FINISHED, "", answers=answered[:2]))
    assert _check(short, _DOUBLE).value == 0.0


def test_an_answer_that_cannot_be_shown_is_the_programs_fault() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    wires: Sequence[Any] = (["list", [deep]], deep, {"a": deep}, ["list", {"a": 1}], 10**5000)
    for wire in wires:
        result = Result(Ended.FINISHED, answers=(Answer(wire=wire),) * 3)
        assert _check(FakeSandbox(result), _DOUBLE).outcome is Outcome.FAIL


def test_group_gets_one_score_a_trajectory(grade: Grader) -> None:
    responses = ["def f(x): return 2 * x", "def f(x): return x", ""]
    trajectories = [
        Trajectory(messages=[{"role": "assistant", "content": text}]) for text in responses
    ]
    reward = CodeReward(grade.jail)
    scores = grade.loop.run(reward(Group(_task(_DOUBLE), trajectories), RewardContext()))
    assert [score.value for score in scores] == [1.0, 0.0, 0.0]


def test_a_huge_program_is_refused_without_a_run() -> None:
    sandbox = FakeSandbox()
    assert _check(sandbox, _DOUBLE, "x = 1\n" * 100_000).outcome is Outcome.ERROR
    assert sandbox.programs == []


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx\n```\nb", "x\n"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        ("```\na\n```\n```python\nb", "b"),
        ("~~~py\na\n```\nb\n~~~", "a\n```\nb\n"),
        ("  ```python\r\nx\r\n  ```", "x\r\n"),
        ("```\n```", ""),
        ("<think>```\nno\n```", ""),
        ("it is `x` and ```y```", "it is `x` and ```y```"),
        ("````\n```\nx\n```\n````", "```\nx\n```\n"),
    ],
)
def test_the_last_fenced_block_is_the_program(response: str, program: str) -> None:
    assert extract_programs(response, "python", {})[0] == program


def test_extraction_is_linear() -> None:
    assert extract_programs("`" * 300_000 + "\n```\n" * 50_000, "python", _STDIO)


_EXACT, _TOKENS, _FLOATS = OutputCheck(), OutputCheck("tokens"), OutputCheck("floats", 1e-6)


@pytest.mark.parametrize(
    ("check", "expected", "got", "same"),
    [
        (_EXACT, b"1 2\n", b"1  2\n", False),
        (_TOKENS, b"1 2\n3", b" 1\n2\t3\r\n", True),
        (_TOKENS, b"1 2", b"12", False),
        (_TOKENS, b"1 2", b"1 2 2", False),
        (_TOKENS, b"1.0", b"1", False),
        (_FLOATS, b"0.333333", b"0.3333333333", True),
        (_FLOATS, b"0.333333", b"0.33334", False),
        (_FLOATS, b"yes 1e3\n", b"yes\n1000.0000001", True),
        (_FLOATS, b"yes 1", b"no 1", False),
        (_FLOATS, b"1000000.0", b"1000000.9", True),
        (_FLOATS, b"1000000", b"1000001", False),
        (_FLOATS, b"3", b"3.0", True),
        (_FLOATS, b"0.0", b"-0", True),
        (_FLOATS, b"1.0 2.0", b"1.0", False),
        (_FLOATS, b"1.0", b"nan", False),
        (_FLOATS, b"1.0", b"1e9999", False),
        (_FLOATS, b"1e9999", b"2e9999", False),
        (_FLOATS, b"nan inf", b"nan inf", True),
        (_FLOATS, b"1.0", b"1_0e-1", False),
        (_FLOATS, b"1.0", "\u0661".encode(), False),
        (_FLOATS, b"1.0", b"1." + b"0" * 100_000, False),
        (OutputCheck("floats", 0.5), b"1.0", b"1.5", True),
    ],
)
def test_checkers_of_outputs(check: OutputCheck, expected: bytes, got: bytes, same: bool) -> None:
    assert check.same(expected, got) is same


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (b"1\n", b"1", True),
        (b"1 \n2\n", b"1\r\n2\n\n", True),
        (b"1\n", b"1\r2\n", False),
        (b"a\n", b" a\n", False),
        (b"1\n\n2", b"1\n2", False),
        (b"\xef\xbf\xbd", b"\xff", False),
        (b"", b"\n", True),
    ],
)
def test_output_comparison(expected: bytes, got: bytes, same: bool) -> None:
    assert same_output(expected, got) is same


def _reference(**tests: Any) -> dict[str, Any]:
    return {
        "language": "python",
        "tests": {"type": "function", "entry": "f", "cases": _CASES} | tests,
    }


def _checked(checker: Any) -> dict[str, Any]:
    return {"language": "python", "tests": {**_STDIO, "checker": checker}}


def _asserts(code: Any, entry: str = "f") -> dict[str, Any]:
    return {"language": "python", "tests": {"type": "asserts", "entry": entry, "code": code}}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (None, "must be an object"),
        ({"language": "rust", "tests": _DOUBLE}, "reference.language is 'rust'"),
        ({"language": "python"}, "reference.tests must be an object"),
        (_reference(type=["x"]), "reference.tests.type"),
        (_reference(type="unittest"), "expected one of 'function', 'stdio', 'asserts'"),
        (_reference(entry="f()"), "reference.tests.entry"),
        (_reference(cases=[]), "at least one case"),
        (_reference(cases=[_CASES[0], {"args": [1]}]), "case 2: must have 'args' and 'expected'"),
        (_reference(cases=[{"expected": 1}]), "case 1: must have 'args' and 'expected'"),
        (_reference(cases=[{"kwargs": [1], "expected": 1}]), "case 1: 'kwargs' must be an object"),
        (_reference(cases=[{"kwargs": {1: 2}, "expected": 1}]), "'kwargs' must be an object"),
        (_reference(cases=[{"kwargs": {"a": len}, "expected": 1}]), "case 1: holds a value of"),
        (_reference(cases=[{"args": 1, "expected": 1}]), "case 1: 'args' must be a list"),
        (_reference(cases=[{"args": [object()], "expected": 1}]), "case 1: holds a value of type"),
        (_reference(type="stdio", cases=[{"input": 1, "output": ""}]), "'input' must be text"),
        (_reference(type="stdio", cases=[{"input": "", "output": "\ud800"}]), "'output' must be"),
        (_checked("fuzzy"), "tests.checker: type is 'fuzzy'; expected one of exact, tokens,"),
        (_checked(None), "tests.checker: type is None"),
        (_checked({"tolerance": 1}), "tests.checker: type is None"),
        (_checked({"type": "exact", "tolerance": 1}), "'tolerance' is not an option of type"),
        (_checked({"type": "floats", "tolerance": -1}), "'tolerance' is -1; expected a number"),
        (_checked({"type": "floats", "tolerance": float("nan")}), "'tolerance' is nan"),
        (_checked({"type": "floats", "tolerance": True}), "'tolerance' is True"),
        (_checked({"type": "program"}), "'source' must be a Python program that defines check"),
        (_checked({"type": "program", "source": "check = 1"}), "defines no function check"),
        (_checked({"type": "program", "source": "def check("}), "checker.source, line 1: "),
        (_asserts(None), "reference.tests.code must be Python code that tests 'f'"),
        (_asserts(" \n"), "reference.tests.code must be Python code"),
        (_asserts("\ud800"), "reference.tests.code must be Python code"),
        (_asserts("x = 1\nassert f(1 ==="), "reference.tests.code, line 2: "),
        (_asserts("assert f(1)\0"), "reference.tests.code"),
        (_asserts("(" * 5000), "reference.tests.code"),
        (_asserts("-" * 200_000 + "f"), "reference.tests.code"),
        (_asserts("assert g(1)"), "neither names 'f' nor defines check(candidate)"),
        (_asserts("def check(): pass"), "check() takes no argument"),
        (_asserts("def f(x): return 1\nassert f(1)"), "defines 'f' itself"),
        (_asserts("assert f(1)", entry="f(1)"), "reference.tests.entry"),
    ],
)
def test_a_bad_reference_is_named(reference: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        validate_reference(reference)
    task = Task("code-1", "code", (), reference)
    score = asyncio.run(CodeReward(FakeSandbox()).check(task, "x"))
    assert score.outcome is Outcome.INFRA_ERROR


def test_good_references_load() -> None:
    for tests in (_DOUBLE, _STDIO, *(_STDIO | {"checker": c} for c in _CHECKERS)):
        validate_reference({"language": "python", "tests": tests})
    for code in ("assert f(1) == 2", "def check(candidate):\n    assert candidate(1)"):
        validate_reference(_asserts(code))
    validate_reference(_asserts("assert check(153) == True", entry="check"))
    assert codec.encode([c["args"] for c in _CASES])


def test_the_cases_of_a_script_have_a_time_together() -> None:
    cases = [{"input": str(n), "output": "42"} for n in range(9)]
    slow = Result(Ended.FINISHED, stdout=b"42", wall_s=4.0)
    task = _task({"type": "stdio", "cases": cases})
    for partial, value in ((False, 0.0), (True, 3 / 9)):
        sandbox = FakeSandbox(*[slow] * 9)
        config = CodeRewardConfig(partial_credit=partial, total_s=10.0)
        score = asyncio.run(CodeReward(sandbox, config).check(task, "print(42)"))
        assert (score.value, score.outcome) == (pytest.approx(value), Outcome.TIMEOUT)
        assert "case 4 of 9: its cases took longer than 10 s together" in score.reasons[0]
        assert len(sandbox.programs) == 3
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConjointError, match=r"reward\.code\.total_s"):
            CodeRewardConfig(total_s=wrong).validate()


def test_a_program_that_hangs_once_it_has_answered_is_not_paid() -> None:
    stalls = "import os, time\nos._exit = lambda code: time.sleep(60)\n"

    async def grade() -> list[Score]:
        jail = LocalJail(SandboxConfig(wall_s=1.0, workers=2))
        try:
            jobs = [(_DOUBLE, "def f(x): return 2 * x"), (_STDIO, "print(2 * int(input()))")]
            reward = CodeReward(jail)
            checks = [reward.check(_task(tests), stalls + program) for tests, program in jobs]
            return list(await asyncio.gather(*checks))
        finally:
            await jail.close()

    try:
        called, printed = asyncio.run(grade())
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert (called.value, called.outcome) == (0.0, Outcome.TIMEOUT), called
    assert (printed.value, printed.outcome) == (0.0, Outcome.TIMEOUT), printed


_LOUD = "\ud800\x1b[31m\u202e\0"


@pytest.mark.parametrize(
    ("tests", "program"),
    [
        (_DOUBLE, f"def f(x): raise Exception({_LOUD!r})"),
        (_DOUBLE, f"def f(x): return {_LOUD!r}"),
        (_DOUBLE, f"raise type({_LOUD[:2]!r}, (Exception,), {{}})({_LOUD!r})"),
        (_DOUBLE, f"def f(x): return {_LOUD}"),
        (_DOUBLE, f"def {_LOUD}(): '{_LOUD}'"),
        (_STDIO, f"print({_LOUD!r}, 42)"),
        (_STDIO, "import os\nos.write(1, b'\\xff\\x1b[31m\\xed\\xa0\\x80')"),
        (_STDIO, f"import sys\nsys.exit({_LOUD!r})"),
        (
            {"type": "asserts", "entry": "f", "code": "assert f(1) == 2"},
            f"def f(x): raise type({_LOUD[:2]!r}, (Exception,), {{}})({_LOUD!r})",
        ),
    ],
)
def test_a_reason_can_be_written_whatever_a_program_said(
    grade: Grader, tests: dict[str, Any], program: str
) -> None:
    score = grade(tests, program)
    assert score.value == 0.0
    assert all(reason.encode() and reason.isprintable() for reason in score.reasons), score


def test_what_a_right_program_could_not_say_is_refused_at_load() -> None:
    long = "9" * 1500
    scripts = {"type": "stdio", "cases": [{"input": "", "output": long}]}
    calls = {"type": "function", "entry": "f", "cases": [{"args": [], "expected": long}]}
    fed = {"type": "stdio", "cases": [{"input": "x" * (33 << 20), "output": ""}]}
    for tests, words in (
        (scripts, "a right program may write 2 KiB; sandbox.output_kb is 1"),
        (calls, "a right program may write 3 KiB; sandbox.output_kb is 1"),
        (fed, "the input is 34603008 bytes"),
    ):
        reference = {"language": "python", "tests": tests}
        with pytest.raises(ValueError, match=re.escape(words)):
            fits_sandbox(SandboxConfig(output_kb=1), True)(reference)
        if tests is not fed:
            fits_sandbox(SandboxConfig(output_kb=4), True)(reference)
