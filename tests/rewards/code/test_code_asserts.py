"""Assert tests: the checker sees what a plain run would, and no program can please it otherwise."""

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from conjoint.envs.types import Outcome, Score, Task
from conjoint.rewards.code.reward import CodeReward, CodeRewardConfig, examples
from conjoint.rewards.registry import OwnRewards, Parts, RewardConfig, reward_table
from conjoint.rewards.sandbox.base import Ended, Program, Result, SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.inside import live
from conjoint.rewards.sandbox.local.jail import LocalJail


class Grader:
    def __init__(self, **limits: Any) -> None:
        self.loop = asyncio.Runner()
        self.jail = LocalJail(SandboxConfig(wall_s=30.0, cpu_s=1, workers=2, **limits))
        self.loop.run(self.jail.start())

    def close(self) -> None:
        self.loop.run(self.jail.close())
        self.loop.close()

    def __call__(self, code: str, program: str, partial: bool = False, entry: str = "f") -> Score:
        tests = {"type": "asserts", "entry": entry, "code": code}
        task = Task.make("code", "?", {"language": "python", "tests": tests})
        reward = CodeReward(self.jail, CodeRewardConfig(partial_credit=partial))
        return self.loop.run(reward.check(task, program))

    def run(self, program: Program) -> Result:
        return self.loop.run(self.jail.run(program))


@pytest.fixture(scope="module")
def grade() -> Iterator[Grader]:
    try:
        grader = Grader()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield grader
    grader.close()


_DOUBLE = "assert f(2) == 4\nassert f(5) == 10\nassert f(-3) == -6\n"

# What a plain run would say: (tests, program). Each program is right.
_AS_RUN_PLAINLY = {
    "check": ("def check(candidate):\n    assert candidate(1) == 2\n", "def f(x): return x + 1"),
    "check of its own": ("def check(g):\n    assert g(1) == 2\ncheck(f)", "def f(x): return x + 1"),
    "local names": (
        "import math\nLIMIT = 3\ndef ok(x):\n    return math.isclose(f(x), x / LIMIT)\n"
        "for x in range(LIMIT):\n    assert ok(x), x\n",
        "def f(x): return x / 3",
    ),
    "a module that the program has": ("assert math.floor(f(1)) == 0", "import math\nf = math.sin"),
    "a helper of the program": (
        "assert g(f(3)) == 3",
        "def f(x): return x + 1\ndef g(x): return x - 1",
    ),
    "float equality": ("assert f(0.1) != 0.3 and f(0.1) == 0.1 + 0.2", "def f(x): return x + 0.2"),
    "nan": ("x = f()\nassert x != x", "def f(): return float('nan')"),
    "exact types": (
        "assert type(f(1)) is tuple and type(f(1)[0]) is bool and f(1) != [True, 1]",
        "def f(x): return (True, x)",
    ),
    "sets and dicts": (
        "assert f(['b', 'a', 'b']) == ({'a', 'b'}, {'b': 2, 'a': 1})\n"
        "assert list(f(['b', 'a'])[1]) == ['b', 'a']",
        "def f(x): return set(x), {k: x.count(k) for k in x}",
    ),
    "counter": (
        "assert f('aab').most_common(1) == [('a', 2)]",
        "import collections\ndef f(x): return collections.Counter(x)",
    ),
    "none": ("assert f([]) is None", "def f(x): return x[0] if x else None"),
    "big ints": ("assert f(300) == 2 ** 300", "def f(n): return 2 ** n"),
    "surrogates and nulls": ("assert f('\\ud800\\0') == '\\0\\ud800'", "def f(s): return s[::-1]"),
    "keyword arguments": (
        "assert f(1, b=2, c={'k': ()}) == (1, 2, {'k': ()})",
        "def f(a, *, b, c): return a, b, c",
    ),
    "argument sorted in place": (
        "x = [[3], [1]]\ninner = x[0]\nassert f(x) is None and x == [[1], [3, 0]]\n"
        "y = {'k': [2], 'l': {1}}\ng(y)\nassert y == {'k': [2, 5], 'm': 1}",
        "def f(x):\n    x[0].append(0)\n    x.sort()\n"
        "def g(y):\n    y['k'].append(5)\n    y.pop('l')\n    y['m'] = 1",
    ),
    "aliases see what a call did": (
        "row = [1]\ngrid = [row, [2]]\nf(grid)\nassert row == [9] and grid[0] is row",
        "def f(g): g[0][0] = 9",
    ),
    "the same object returned": ("x = [1]\nassert f(x) is x", "def f(x): return x"),
    "a copy returned": ("x = [1]\nassert f(x) is not x", "def f(x): return list(x)"),
    "state between calls": (
        "assert [f(), f()] == [1, 2]",
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
    ),
    "built-in exception": (
        "try:\n    f(-1)\nexcept ValueError as e:\n    assert e.args == ('neg', 3)\n"
        "else:\n    raise AssertionError\n",
        "def f(x):\n    raise ValueError('neg', 3)",
    ),
    "exception of the program's own": (
        "try:\n    f()\nexcept LookupError as e:\n    assert type(e).__name__ == 'Missing'\n"
        "else:\n    assert False\n",
        "class Missing(KeyError): pass\ndef f(): raise Missing('x')",
    ),
    "unittest": (
        "import unittest\nt = unittest.TestCase()\n"
        "with t.assertRaises(ZeroDivisionError):\n    f(0)\nt.assertAlmostEqual(f(4), 0.25)",
        "def f(x): return 1 / x",
    ),
    "a built-in's name": ("assert sum(10, 15) == 25", "def sum(a, b): return a + b"),
    "many calls": ("for i in range(300):\n    assert f(i) == i", "def f(i): return i"),
}


@pytest.mark.parametrize("name", _AS_RUN_PLAINLY)
def test_a_right_program_passes_as_in_a_plain_run(grade: Grader, name: str) -> None:
    code, program = _AS_RUN_PLAINLY[name]
    entry = "sum" if "sum(" in code else "f"
    score = grade(code, program, entry=entry)
    assert (score.value, score.outcome) == (1.0, Outcome.PASS), score


def test_a_function_named_check_is_called_by_the_statements(grade: Grader) -> None:
    right, wrong = "def check(n): return n == 153", "def check(n): return True"
    code = "assert check(153) == True\nassert check(10) == False"
    assert grade(code, right, entry="check").value == 1.0
    assert grade(code, wrong, entry="check").value == 0.0


_WRITE_ALL = """
import os
for n in range(200):
    for line in (b'v["passed",""]\\n', b'["value",4,null]\\n'):
        try: os.write(n, line)
        except OSError: pass
"""
_SEND = "import os\ndef f(x):\n    os.write(3, {} + b'\\n')\n    return 4"
# What it is -> (program, outcome).
_FORGED = {
    "exit 0 on import": ("import os\nos._exit(0)", "error"),
    "exit 0 in the call": ("import os\ndef f(x): os._exit(0)", "error"),
    "SystemExit in the call": ("def f(x): raise SystemExit(0)", "error"),
    "SystemExit on import": ("raise SystemExit(0)", "error"),
    "no function": ("print('3 passed')", "error"),
    "not a function": ("f = 4", "error"),
    "fresh object": ("def f(x): return object()", "fail"),
    "an object in a list": ("def f(x): return [object()]", "fail"),
    "a class": (
        "class f:\n    def __init__(s, x): pass\n    def __eq__(s, o): return True",
        "fail",
    ),
    "equal to everything": (
        "class E(int):\n    def __eq__(s, o): return True\ndef f(x): return E(0)",
        "fail",
    ),
    "no assertion fails": (
        "import builtins\nbuiltins.AssertionError = KeyError\ndef f(x): return 0",
        "fail",
    ),
    "a hook for what is not caught": (
        "import sys\nsys.excepthook = lambda *a: None\ndef f(x): return 0",
        "fail",
    ),
    "every verdict and answer on every descriptor": (_WRITE_ALL + "def f(x): return 0", "fail"),
    "verdict, then exit": (_WRITE_ALL + "os._exit(0)", "fail"),
    "nonsense on the pipe": (_SEND.format("b'\\xff[[['"), "fail"),
    "a bare object on the pipe": (_SEND.format("""b'["value",{"a":1},null]'"""), "fail"),
    "an argument that is not there": (_SEND.format("""b'["argument",7,null]'"""), "fail"),
    "a deep answer": (_SEND.format("b'[' * 100000"), "fail"),
    "no end of an answer": (
        "import os\ndef f(x):\n    while True: os.write(3, b'1' * 65536)",
        "error",
    ),
    "closed pipe": ("import os, time\ndef f(x):\n    os.close(3)\n    time.sleep(60)", "error"),
    "looks for more on its descriptors": (
        "import os\ndef f(x):\n    for n in range(5, 60):\n        try: return os.read(n, 99)\n"
        "        except OSError: pass",
        "fail",
    ),
    "replaced check": (
        "import sys\nfor m in list(sys.modules.values()):\n    m.check = lambda c: None\n"
        "def f(x): return 0",
        "fail",
    ),
    "stdin is empty": ("import sys\nlines = sys.stdin.read()\ndef f(x): return lines", "fail"),
    "hang in the call": ("def f(x):\n    while True: pass", "timeout"),
    "an exception that cannot be shown": (
        "class E(Exception):\n    def __str__(s): raise s\ndef f(x): raise E(object())",
        "error",
    ),
    "an exception with a lying name": (
        "class E(BaseException): pass\nE.__name__ = 'passed'\ndef f(x): raise E()",
        "error",
    ),
}


@pytest.mark.parametrize("name", _FORGED)
def test_a_forged_pass_is_worth_nothing(grade: Grader, name: str) -> None:
    program, outcome = _FORGED[name]
    score = grade(_DOUBLE, program)
    assert (score.value, score.outcome) == (0.0, outcome), score
    assert score.reasons[0].startswith("case ") and " of 3: " in score.reasons[0]


@pytest.mark.parametrize("isolation", ["namespaces", "landlock"])
def test_a_fresh_interpreter_answers_the_same(isolation: str) -> None:
    try:
        grade = Grader(mode="exec", isolation=isolation)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    try:
        for name in ("argument sorted in place", "built-in exception", "counter"):
            assert grade(*_AS_RUN_PLAINLY[name]).value == 1.0, name
        for name in ("exit 0 in the call", "fresh object", "verdict, then exit", "stdin is empty"):
            program, outcome = _FORGED[name]
            score = grade(_DOUBLE, program)
            assert (score.value, score.outcome) == (0.0, outcome), score
    finally:
        grade.close()


_ANY = "assert f(1) is not None\nassert f(2) != 3\nassert f(3)\nassert not f(4) == 5"


@pytest.mark.parametrize("partial", [False, True])
def test_an_object_does_not_even_pass_tests_that_any_value_passes(
    grade: Grader, partial: bool
) -> None:
    assert grade(_ANY, "def f(x): return 1", partial).value == 1.0
    for value in ("object()", "f", "iter([1])", "type", "(object(),)", "{1: object()}"):
        score = grade(_ANY, f"def f(x): return {value}", partial)
        assert (score.value, score.outcome) == (0.0, Outcome.FAIL), (value, score)


def test_what_the_tests_catch_cannot_hide_a_foreign_value_or_a_dead_program(grade: Grader) -> None:
    code = "try:\n    f(1)\nexcept BaseException:\n    pass\nx = 1\nassert x"
    for program in ("def f(x): return object()", "def f(x):\n    import os; os._exit(0)"):
        assert grade(code, program).value == 0.0
    assert grade(code, "def f(x): raise KeyError").value == 1.0


def test_an_argument_that_was_changed_makes_no_comparison_true(grade: Grader) -> None:
    code = "x = [3, 1, 2]\nr = f(x)\nassert r == sorted(x) and len(r) == 3"
    assert grade(code, "def f(a): return sorted(a)").value == 1.0
    assert grade(code, "def f(a):\n    a.clear()\n    return []").value == 0.0
    left = grade("x = [1]\nf(x)\nassert x", "def f(x): x.append(object())")
    assert left.outcome is Outcome.FAIL and "a value of type object" in left.reasons[0]


def test_the_tests_are_nowhere_in_the_programs_reach(grade: Grader) -> None:
    secret = "the answer is 4219"
    program = (
        "import gc, sys\n"
        "def f(x):\n"
        "    texts = [o for o in gc.get_objects() if isinstance(o, (str, bytes, dict, list))]\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        texts += [frame.f_locals, frame.f_globals]\n"
        "        frame = frame.f_back\n"
        "    found = [t for t in map(repr, texts) if '42' + '19' in t]\n"
        "    return found[0] if found else None\n"
    )
    assert grade(f"assert f(1) == {secret!r}", program).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("code", "program", "words"),
    [
        (_DOUBLE, "def f(x): return 4", "case 2 of 3: assert f(5) == 10: f(5) gave 4"),
        (_DOUBLE, "def f(x): return x / 0", "failed with ZeroDivisionError: division by zero"),
        (_DOUBLE, "f(2)", "exit status 1: NameError: name 'f' is not defined"),
        (_DOUBLE, "def g(x): pass", "defines no function 'f'"),
        ("assert len(f(k=1)) == 2", "def f(k): pass", "TypeError: object of type 'NoneType'"),
        ("assert len(f(k=1)) == 2", "def f(k): pass", "; f(k=1) gave None"),
        ("assert f(1)\nassert g(1)", "def f(x): return 1", "NameError: name 'g' is not defined"),
        (
            "later = f(1)\nassert later\nwhile 1: pass",
            "def f(x): return 1",
            "the tests: used more than",
        ),
    ],
)
def test_the_reason_says_which_statement_and_call(
    grade: Grader, code: str, program: str, words: str
) -> None:
    score = grade(code, program)
    assert score.value == 0.0 and words in score.reasons[0], score


def test_partial_credit_is_the_share_of_statements(grade: Grader) -> None:
    program = "def f(x): return 2 * x if x > 2 else 0"
    check = "def check(g):\n    x = 5\n    assert g(x) == 10\n    assert g(1) == 2\n    return\n"
    for code, share in ((_DOUBLE, 1 / 3), (check, 1 / 2)):
        assert grade(code, program).value == 0.0
        assert grade(code, program, partial=True).value == pytest.approx(share)
        assert grade(code, "def f(x): return 2 * x", partial=True).value == 1.0
    dying = "def f(x):\n    while x == -3: pass\n    return 2 * x"
    score = grade(_DOUBLE, dying, partial=True)
    assert (score.value, score.outcome) == (pytest.approx(2 / 3), Outcome.TIMEOUT)
    late = grade(_DOUBLE + "f(0)\nx = 1 / f(1)", "def f(x): return 2 * x if x - 1 else 0", True)
    assert late.value is not None and late.value < 1.0


def test_the_key_reaches_the_reward(grade: Grader) -> None:
    cfg = RewardConfig(kinds={"code": ["code"]}, code=CodeRewardConfig(partial_credit=True))
    none: Any = None
    table = reward_table(Parts(cfg, grade.jail, none, []), OwnRewards({}))
    tests = {"type": "asserts", "entry": "f", "code": _DOUBLE}
    task = Task.make("code", "?", {"language": "python", "tests": tests})
    [reward] = table["code"].values()
    assert isinstance(reward, CodeReward)
    assert grade.loop.run(reward.check(task, "def f(x): return 4")).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("g = f\nassert g", "never call f"),
        ("assert f(lambda x: x)", "the tests give f a value of type function"),
    ],
)
def test_tests_that_cannot_be_graded_are_not_the_programs_fault(
    grade: Grader, code: str, words: str
) -> None:
    score = grade(code, "def f(x): return 1")
    assert (score.value, score.outcome) == (None, Outcome.INFRA_ERROR)
    assert score.reasons[0].startswith("unusable reference") and words in score.reasons[0]


def test_a_sandbox_that_knows_no_checker_grades_nothing() -> None:
    class Other:
        async def run(self, program: Program) -> Result:
            return Result(Ended.FINISHED)

        async def close(self) -> None: ...

    tests = {"type": "asserts", "entry": "f", "code": _DOUBLE}
    task = Task.make("code", "?", {"language": "python", "tests": tests})
    score = asyncio.run(CodeReward(Other()).check(task, "def f(x): return 2 * x"))
    assert score.outcome is Outcome.INFRA_ERROR


def test_both_jails_serve_on_and_leave_nothing_open(grade: Grader) -> None:
    import os

    program = Program("def f(x): return 2 * x", entry="f", checker=_DOUBLE)
    dying = dataclasses.replace(program, source="import os\ndef f(x): os.kill(os.getpid(), 9)")
    grade.run(program)
    before = len(os.listdir("/proc/self/fd"))

    async def many() -> list[Result]:
        return list(await asyncio.gather(*(grade.jail.run(p) for p in [program, dying] * 8)))

    results = grade.loop.run(many())
    assert [r.passed for r in results] == [True, False] * 8, results
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 2  # zygotes that started meanwhile
    assert grade.jail.restarts == 0


def test_no_checker_has_a_user_of_a_program(grade: Grader) -> None:
    grade(_DOUBLE, "def f(x): return 2 * x")
    checkers: Any = grade.jail._checkers
    users = [[w.spec.uid for w in jail._workers] for jail in (grade.jail, checkers)]
    if users[0][0] is None:
        pytest.skip("zygotes keep the user of an unprivileged process")
    assert not set(users[0]) & set(users[1])


def test_a_broken_checker_jail_is_tried_again_and_never_a_zero(grade: Grader) -> None:
    checkers: Any = grade.jail._checkers
    assert checkers is not None
    for worker in list(checkers._workers):
        worker.process.kill()
        worker.process.wait()
    score = grade(_DOUBLE, "def f(x): return 2 * x")
    assert score.outcome in (Outcome.PASS, Outcome.INFRA_ERROR)
    assert grade(_DOUBLE, "def f(x): return 2 * x").value == 1.0


def test_a_cancelled_run_frees_both_jails(grade: Grader) -> None:
    sleeping = Program("import time\ndef f(x): time.sleep(60)", entry="f", checker=_DOUBLE)

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await grade.jail.run(sleeping)

    grade.loop.run(cancelled())
    for _ in range(3):
        assert grade(_DOUBLE, "def f(x): return 2 * x").value == 1.0


def test_examples_pay_the_right_answer_and_no_cheat(grade: Grader) -> None:
    reward = CodeReward(grade.jail)
    for example in examples():
        assert grade.loop.run(reward.check(example.task, example.right)).value == 1.0
        assert len(example.cheats) >= 4
        for what, cheat in example.cheats.items():
            assert grade.loop.run(reward.check(example.task, cheat)).value == 0.0, what


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1, [2]], [1, [3], 4]),
        ([[1], [2]], [[5]]),
        ({"a": [1], "b": 2}, {"b": 3, "a": [1, 1]}),
        ({1, 2}, {3}),
        (([1], 2), ([1, 5], 2)),
        (bytearray(b"ab"), bytearray(b"c")),
    ],
)
def test_what_a_call_did_to_an_argument_is_written_back_in_place(old: Any, new: Any) -> None:
    inner = old[0] if isinstance(old, list) else None
    back = live.write_back(old, new)
    assert back == new and back is old
    assert list(back) == list(new)
    if isinstance(inner, list):
        assert back[0] is inner
