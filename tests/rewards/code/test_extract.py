"""The block of an answer that can be the program is taken, whatever stands around it."""

import asyncio
from typing import Any

import pytest

from conjoint.envs.types import Task
from conjoint.rewards.code.extract import extract_programs
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.base import Ended, Program, Result

_CALLS = {"type": "function", "entry": "add", "cases": [{"args": [1, 2], "expected": 3}]}
_SCRIPT = {"type": "stdio", "cases": [{"input": "3\n1 2 3\n", "output": "6\n"}]}

_ADD = "def add(a, b):\n    return a + b\n"
_SUM = "n = int(input())\nprint(sum(map(int, input().split())))\n"
_CPP = "#include <iostream>\nint main(){ int n; std::cin >> n; std::cout << n; }\n"
_BASH = "read n\nread -a x\ns=0\nfor v in ${x[@]}; do s=$((s + v)); done\necho $s\n"


def _first(response: str, language: str = "python", tests: Any = _CALLS) -> str:
    return extract_programs(response, language, tests)[0]


def _block(tag: str, text: str) -> str:
    return f"```{tag}\n{text}```\n"


_AFTER_A_FUNCTION = [
    _block("python", "print(add(1, 2))\n"),
    _block("python", "from solution import add\nprint(add(1, 2))\n"),
    _block("python", "def test_add():\n    assert add(1, 2) == 3\n"),
    _block("python", ">>> add(1, 2)\n3\n"),
    _block("", "3\n"),
    _block("json", '{"add": 1}\n'),
    _block("bash", "python add.py\n"),
    "It gives `3`.",
]


@pytest.mark.parametrize("after", _AFTER_A_FUNCTION)
def test_what_defines_the_entry_is_the_program(after: str) -> None:
    response = f"Here:\n{_block('python', _ADD)}\nExample:\n{after}"
    assert _first(response) == _ADD
    inside = "\n".join(f"   {line}" for line in response.split("\n"))
    assert _first(f"1. First\n{inside}") == _ADD


_AFTER_A_SCRIPT = [
    _block("", "6\n"),
    _block("", "Input: 3\nOutput: 6\n"),
    _block("python", "6\n"),
    _block("python", "print(solve([1, 2, 3]))\n"),
    _block("text", "3\n1 2 3\n"),
    _block("bash", "python main.py < in.txt\n"),
    _block("sh", "echo '3\n1 2 3' | python3 main.py\n"),
]


@pytest.mark.parametrize("after", _AFTER_A_SCRIPT)
def test_what_reads_and_prints_is_the_script(after: str) -> None:
    assert _first(_block("python", _SUM) + after, tests=_SCRIPT) == _SUM


@pytest.mark.parametrize("tag", ["cpp", ""])
@pytest.mark.parametrize("after", [_block("", "6\n"), _block("bash", "./a.out\n"), "```cpp\nf(3);"])
def test_what_has_a_main_is_the_cpp_program(tag: str, after: str) -> None:
    assert _first(_block(tag, _CPP) + after, "cpp", _SCRIPT) == _CPP


@pytest.mark.parametrize("tag", ["bash", ""])
@pytest.mark.parametrize(
    "after",
    [
        _block("", "6\n"),
        _block("bash", "bash solve.sh < in.txt\n"),
        _block("sh", "chmod +x a.sh\n./a.sh\n"),
        _block("bash", "# or\necho '3' | bash solve.sh\n"),
    ],
)
def test_a_line_that_starts_the_script_is_not_the_script(tag: str, after: str) -> None:
    assert _first(_block(tag, _BASH) + after, "bash", _SCRIPT) == _BASH


def test_of_two_programs_the_later_counts() -> None:
    wrong = _ADD.replace("+", "-")
    for tag in ("python", "", "py"):
        assert _first(_block("python", wrong) + "No:\n" + _block(tag, _ADD)) == _ADD
    assert _first(_block("python", "print(0)\n") + _block("python", _SUM), tests=_SCRIPT) == _SUM


@pytest.mark.parametrize(
    "response",
    [
        "- ```python\n  def add(a, b):\n      return a + b\n  ```\n",
        "- ```python\ndef add(a, b):\n    return a + b\n```\n",
        "* a\n  * b\n\n    ```py\n    def add(a, b):\n        return a + b\n    ```",
        "> ```python\n> def add(a, b):\n>     return a + b\n> ```\n",
        f"```{{.python .numberLines}}\n{_ADD}```\n",
        f'``` Python title="a.py"\n{_ADD}```\n```\n3\n```',
        f"~~~python\n{_ADD}~~~\n~~~\n```\n~~~",
    ],
)
def test_fences_may_stand_in_lists_and_quotes(response: str) -> None:
    assert _first(response) == _ADD


def test_a_fence_in_a_docstring_ends_no_program() -> None:
    fence = "    ```\n"
    shown = f'def add(a, b):\n    """\n{fence}    add(1, 2)\n{fence}    """\n    return a + b\n'
    assert _first(shown) == shown
    assert extract_programs(f"```python\n{shown}```", "python", _CALLS)[0].endswith(
        "return a + b\n"
    )


def test_only_the_final_channel_is_read() -> None:
    draft, final = _block("python", "def add(a, b): return 0\n"), _block("python", _ADD)
    thought = f"<|channel|>analysis<|message|>{draft}<|end|>"
    answer = f"<|start|>assistant<|channel|>final<|message|>{final}<|return|>"
    called = f"<|start|>assistant<|channel|>commentary to=f<|message|>{draft}<|call|>"
    for response in (
        thought + answer,
        answer + called,
        thought + answer.replace("final<", "final <|constrain|>text<"),
        f"analysisWe try {draft}assistantfinal{final}",
    ):
        assert _first(response) == _ADD, response
    assert _first(thought) == "" == _first(thought + called)


def test_one_that_does_not_parse_gives_way_in_the_jail_to_one_as_good() -> None:
    seen: list[Program] = []

    class Fake:
        async def run(self, program: Program) -> Result:
            seen.append(program)
            return Result(Ended.ERROR, "nothing")

    response = _block("python", _ADD) + _block("python", "def add(a, b) -> int\n")
    task = Task.make("code", "?", {"language": "python", "tests": _CALLS})
    fake: Any = Fake()
    asyncio.run(CodeReward(fake).check(task, response))
    assert (seen[0].source, seen[0].alternatives) == ("def add(a, b) -> int\n", (_ADD,))
    assert seen[0].code.split(b"\0") == [b"def add(a, b) -> int\n", _ADD.encode()]
    assert b"\0" not in Program("x = 1\0 = 2").code
