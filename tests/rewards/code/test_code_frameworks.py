"""Tests of unittest's and pytest's form, and what a program raises into any tests: as in a plain
run, but that no exception of the program steers the tests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from conjoint.envs.types import Outcome, Score, Task
from conjoint.rewards.code.reward import CodeReward, CodeRewardConfig, validate_reference
from conjoint.rewards.sandbox.base import SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local.jail import LocalJail


class Grader:
    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.Runner()
        self.jail = LocalJail(SandboxConfig(wall_s=30.0, cpu_s=2, workers=2, **options))
        self.loop.run(self.jail.start())

    def __call__(self, code: str, *programs: str, partial: bool = False, entry: str = "f") -> Any:
        """The score of each program; of one alone, that score."""
        tests = {"type": "asserts", "entry": entry, "code": code}
        task = Task.make("code", "?", {"language": "python", "tests": tests})
        reward = CodeReward(self.jail, CodeRewardConfig(partial_credit=partial))

        async def grade() -> list[Score]:
            return list(await asyncio.gather(*(reward.check(task, p) for p in programs)))

        scores = self.loop.run(grade())
        return scores if len(programs) > 1 else scores[0]

    def close(self) -> None:
        self.loop.run(self.jail.close())
        self.loop.close()


@pytest.fixture(scope="module")
def grade() -> Iterator[Grader]:
    try:
        grader = Grader()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield grader
    grader.close()


_RIGHT = "def f(x): return x + x"
_WRONG = "def f(x): return 4 if x == 2 else x + ''"
_CASE = "import unittest\nclass T(unittest.TestCase):\n"
_UNIT = (
    f"{_CASE}    def test_a(self):\n        self.assertEqual(f(2), 4)\n"
    "    def test_b(self):\n        self.assertEqual(f(5), 10)\n"
)
_SUITE = "suite = unittest.TestLoader().loadTestsFromTestCase(T)\n"
_RUN = "unittest.TextTestRunner(verbosity=2).run(suite)"
_PYTEST = "def test_a():\n    assert f(2) == 4\ndef test_b():\n    assert f(5) == 10\n"
# Each passes for _RIGHT, and for _WRONG in part.
_FORMS = {
    "nobody runs them": _UNIT,
    "main": f"{_UNIT}if __name__ == '__main__':\n    unittest.main()\n",
    "main without exit": f"{_UNIT}unittest.main(argv=['x'], exit=False)\n",
    "main by name": f"from unittest import main\n{_UNIT}main()\n",
    "runner": f"{_UNIT}{_SUITE}{_RUN}\n",
    "runner and exit": f"import sys\n{_UNIT}{_SUITE}sys.exit(not {_RUN}.wasSuccessful())\n",
    "a suite by hand": (
        f"{_CASE}    def custom(self):\n        self.assertEqual(f(5), 10)\n"
        f"suite = unittest.TestSuite([T('custom')])\n{_RUN}\nassert f(2)\n"
    ),
    "subtests": (
        f"{_CASE}    def test_a(self):\n        for x in (2, 5):\n"
        "            with self.subTest(x=x):\n                self.assertEqual(f(x), 2 * x)\n"
    ),
    "async": (
        "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n"
        "    async def test_a(self):\n        self.assertEqual(f(5), 10)\n"
    ),
    "set-up": (
        f"{_CASE}    @classmethod\n    def setUpClass(cls): cls.x = 5\n"
        "    def setUp(self): self.want = 10\n    @unittest.skip('')\n    def test_0(self): pass\n"
        "    def test_a(self):\n        self.assertEqual(f(self.x), self.want)\n"
    ),
    "pytest": _PYTEST,
    "called": f"{_PYTEST}if __name__ == '__main__':\n    test_a()\n    print('ok')\n",
    "called with arguments": "def test(x, y):\n    assert f(x) == y\ntest(2, 4)\ntest(5, 10)\n",
    "imported": f"import pytest, sys\nfrom my_module import f\n{_PYTEST}sys.exit(pytest.main())\n",
    "imported as": "from solution import f as g\ndef test_a():\n    assert g(5) == 10\n",
    "a module": "import solution\ndef test_a():\n    assert solution.f(5) == 10\n",
    "parameters": (
        "import pytest\n@pytest.mark.parametrize('x, y', [(2, 4), pytest.param(5, 10)])\n"
        "@pytest.mark.parametrize(['k'], [(1,)])\n@pytest.mark.parametrize('z', [1, 2])\n"
        "def test_a(x, y, k, z):\n    assert f(x) * k * z == y * z\n"
    ),
    "fixtures": (
        "import pytest\n@pytest.fixture\ndef two(): return 2\n@pytest.fixture\ndef cases(two):\n"
        "    yield [(two, 4), (5, 10)]\ndef test_a(cases):\n    for x, y in cases:\n"
        "        assert f(x) == y\n"
    ),
    "raises and approx": (
        "import pytest\ndef test_a():\n    with pytest.raises(TypeError, match='unsupported'):\n"
        "        f(None)\n    assert f(5.1) == pytest.approx(10.2)\n"
        "    assert [f(0.1)] == pytest.approx([0.2])\n"
    ),
    "a class": (
        "class TestF:\n    def setup_method(self): self.x = 5\n    def test_a(self):\n"
        "        assert f(self.x) == 10\n"
    ),
    "async function": "async def test_a():\n    assert f(5) == 10\n",
    "a helper": "def verify():\n    assert f(5) == 10\nverify()\n",
    "an exit": "import sys\nif f(2) != 4 or f(5) != 10: sys.exit(1)\nsys.exit(0)\n",
    "check and more": "def check(c):\n    assert c(2) == 4\ndef test_a():\n    assert f(5) == 10\n",
}


@pytest.mark.parametrize("name", _FORMS)
def test_tests_are_run_as_what_they_are(grade: Grader, name: str) -> None:
    raising = ("def f(x): raise StopIteration", "def f(x): raise SystemExit(0)", "def g(): pass")
    right, *wrong = grade(_FORMS[name], _RIGHT, _WRONG, *raising)
    assert (right.value, right.outcome) == (1.0, Outcome.PASS), right
    assert "all 0" not in right.reasons[0]
    assert [score.value for score in wrong] == [0.0] * 4, wrong
    part = grade(_FORMS[name], _WRONG, partial=True)
    assert part.value is not None and part.value < 1.0


def test_each_test_is_a_case(grade: Grader) -> None:
    for name, share in (("runner", 1 / 2), ("pytest", 1 / 2), ("parameters", 2 / 4)):
        assert grade(_FORMS[name], _WRONG, partial=True).value == pytest.approx(share), name
    assert grade(_UNIT, _WRONG).reasons[0].startswith("case 2 of 2: T.test_b: f(5) failed with")


def test_a_test_that_is_skipped_after_a_call_is_not_passed(grade: Grader) -> None:
    code = f"{_UNIT}    def test_c(self):\n        if f(1) != 2: self.skipTest('no')\n"
    right, wrong = grade(code, _RIGHT, "def f(x): return 2 * x if x > 1 else None")
    assert (right.value, wrong.value) == (1.0, 0.0)
    unable = grade(f"{_CASE}    @unittest.skip('')\n    def test_a(self): assert f(1)", _RIGHT)
    assert unable.outcome is Outcome.INFRA_ERROR


# What a program raises.

_RAISED = (
    "StopIteration", "StopIteration(4)", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt",
    "SystemExit(0)", "BaseException", "MemoryError", "UserWarning('x')",
    "type('Mine', (StopIteration,), {})()", "type('Mine', (KeyboardInterrupt,), {})()",
    "type('AssertionError', (StopIteration,), {})()", "BaseExceptionGroup('', [SystemExit()])",
)  # fmt: skip
_LOOPS = (
    "for got, (x, y) in zip(map(f, [2, 5]), [(2, 4), (5, 10)]):\n    assert got == y",
    "assert all(map(lambda x: f(x) == 2 * x, [2, 5]))",
    "assert next(map(f, [2]), 4) == 4",
    "assert max(map(f, [2, 5]), default=10) == 10",
    "got = list(iter(lambda: f(2), 4))\nassert not got",
    "class I:\n    n = 0\n    def __iter__(self): return self\n    def __next__(self):\n"
    "        self.n += 1\n        if self.n > 3: raise StopIteration\n"
    "        return f(self.n) == 2 * self.n\nassert all(I())",
    "import asyncio\nasync def give():\n    for x in (2, 5): yield f(x)\nasync def main():\n"
    "    async for y in give(): assert y in (4, 10)\nasyncio.run(main())",
    f"{_CASE}    def test_a(self):\n        for x, y in zip(map(f, [2, 5]), [4, 10]):\n"
    "            self.assertEqual(x, y)\nunittest.main(exit=False)",
    "def test_a():\n    for x, y in zip(map(f, [2, 5]), [4, 10]):\n        assert x == y",
)


@pytest.mark.parametrize("loop", range(len(_LOOPS)))
def test_what_a_program_raises_steers_no_loop_of_the_tests(grade: Grader, loop: int) -> None:
    programs = [f"def f(x): raise {raised}" for raised in _RAISED]
    right, *wrong = grade(_LOOPS[loop], _RIGHT, *programs)
    assert right.value == 1.0, right
    assert [(p, s) for p, s in zip(programs, wrong, strict=True) if s.value != 0.0] == []


@pytest.mark.parametrize("isolation", ["namespaces", "landlock"])
@pytest.mark.parametrize("mode", ["fork", "exec"])
def test_nor_in_any_tier_and_mode(isolation: str, mode: str) -> None:
    try:
        grade = Grader(isolation=isolation, mode=mode)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    try:
        scores = grade(_LOOPS[0], _RIGHT, *(f"def f(x): raise {r}" for r in _RAISED[:4]))
        assert [score.value for score in scores] == [1.0, 0.0, 0.0, 0.0, 0.0]
        method = "from typing import List\nclass Solution:\n    def f(self, x): return 2 * x"
        assert grade("assert Solution().f(2) == 4", method, entry="Solution").value == 1.0
    finally:
        grade.close()


@pytest.mark.parametrize(
    ("code", "program"),
    [
        (
            "try:\n    f(1)\n    assert False\nexcept StopIteration: pass",
            "def f(x): next(iter(()))",
        ),
        (
            "import pytest\ndef test_a():\n"
            "    with pytest.raises((ValueError, StopIteration)): f(1)",
            "def f(x): next(iter(()))",
        ),
        (
            f"{_CASE}    def test_a(self):\n        with self.assertRaises(SystemExit) as found:\n"
            "            f(1)\n        self.assertEqual(found.exception.args, (3,))",
            "def f(x): raise SystemExit(3)",
        ),
    ],
)
def test_tests_may_expect_such_an_exception(grade: Grader, code: str, program: str) -> None:
    right, wrong, other = grade(code, program, "def f(x): return 1", "def f(x): raise KeyError")
    assert (right.value, wrong.value, other.value) == (1.0, 0.0, 0.0)


# LeetCode's programs.

_METHOD = (
    "class Solution:\n    def f(self, nums: List[int], k: Optional[int] = 1) -> List[int]:\n"
    "        return [n * k for n in reversed(nums)] if pow(2, 3, 5) == 3 else deque()\n"
)


@pytest.mark.parametrize("entry", ["f", "Solution", "Solution().f", "Solution.f"])
def test_a_class_solution_is_a_program(grade: Grader, entry: str) -> None:
    code = "s = Solution()\nassert s.f([1, 2]) == [2, 1]\nassert Solution().f([1], k=3) == [3]"
    if entry != "Solution":
        code = f"def check(candidate):\n    assert candidate(nums=[1, 2], k=2) == [4, 2]\n{code}"
    equal = "class Solution:\n    def __eq__(s, o): return True\n    def f(s, *a, **k): return s\n"
    wrong = (_METHOD.replace("reversed", ""), equal, "class Solution: pass", "Solution = 4")
    right, *others = grade(code, _METHOD, *wrong, entry=entry)
    assert right.value == 1.0, right
    assert [score.value for score in others] == [0.0] * 4, others


def test_an_object_keeps_its_state(grade: Grader) -> None:
    code = "c = Counter(2)\nc.add(3)\nassert c.total() == 5\nassert Counter(1).total() == 1"
    right = (
        "class Counter:\n    def __init__(self, n): self.n = n\n"
        "    def add(self, n): self.n += n\n    def total(self): return self.n\n"
    )
    good, bad = grade(code, right, right.replace("+=", "-="), entry="Counter")
    assert (good.value, bad.value) == (1.0, 0.0)
    assert "Counter(2).total() gave -1" in bad.reasons[0]


# At load.


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("f(2)", "checks nothing"),
        ("f(2) == 4", "checks nothing"),
        ("print(f(2))", "checks nothing"),
        ("assert True\nf(2)", "checks nothing"),
        ("assert (f(2) == 4, 'a message')", "checks nothing"),
        ("def verify():\n    assert f(2) == 4", "checks nothing"),
        ("def check(candidate):\n    candidate(2)", "checks nothing"),
        ("def test_a():\n    f(2)", "checks nothing"),
        (f"{_CASE}    def helper(self): self.assertEqual(f(2), 4)\nunittest.main()", "checks noth"),
        ("import unittest\nf(2)\nunittest.main()", "checks nothing"),
        (f"{_CASE}    async def test_a(self): self.assertEqual(f(2), 4)", "T.test_a is async"),
        ("def test_a():\n    yield\n    assert f(2) == 4", "test_a has a yield"),
        ("def test_a(capsys):\n    assert f(2) == 4", "test_a takes 'capsys', which is no fixture"),
        ("import numpy as np\nassert np.all(f(2) == 4)", "imports numpy"),
        ("import pytest\ndef test_a():\n    with pytest.warns(): f(2)", "uses pytest.warns"),
        ("def setup_module(): pass\ndef test_a():\n    assert f(2) == 4", "defines setup_module()"),
    ],
)
def test_tests_that_prove_nothing_are_refused_at_load(code: str, words: str) -> None:
    tests = {"type": "asserts", "entry": "f", "code": code}
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        validate_reference({"language": "python", "tests": tests})
