"""Prose in the code has a subject: no docstring or field string begins with a bare "Of ..."."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "envs", "rollouts", "rewards", "rl", "scripts", "tests")


def bare_strings(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each string that is a statement by itself: docstrings of modules, classes and
    functions, and the strings after a field or a constant, which `ast.get_docstring` does not see.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


def without_subject(source: str) -> list[int]:
    """Lines of the strings that begin with "Of "."""
    return sorted(
        line for line, text in bare_strings(source) if text.split(maxsplit=1)[:1] == ["Of"]
    )


def test_every_string_says_what_it_is_about():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} begins with 'Of': say what it is (the version of ...)"
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in without_subject(file.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""Of a module."""\n', [1]),
        ('def f():\n    """\n    Of what f is given."""\n', [2]),
        ('async def f():\n    """Of f."""\n', [2]),
        ('class A:\n    """A."""\n\n    version: int\n    """Of the weights."""\n', [5]),
        ('LIMIT = 3\n"""Of a run."""\n', [2]),
        ('def f(self):\n    self.version = 0\n    """Of the weights."""\n', [3]),
        ('x = "Of mice and men"\n', []),
        ('print("Of mice and men")\n', []),
        ('"""Often a good idea."""\n', []),
        ('"""Version of the weights."""\n', []),
        ("# Of two equals the newest.\nx = 1\n", []),
    ],
)
def test_the_rule_itself(source: str, lines: list[int]):
    assert without_subject(source) == lines
