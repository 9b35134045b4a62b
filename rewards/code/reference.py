"""The reference of a code task: its three forms of tests, checked when tasks load."""

import ast
import functools
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from conjoint.rewards.code.output import output_check
from conjoint.rewards.code.rows import as_reference
from conjoint.rewards.sandbox import backend, codec, spec
from conjoint.rewards.sandbox.base import Call, SandboxConfig
from conjoint.rewards.sandbox.inside.cases import Outline
from conjoint.rewards.sandbox.local import languages
from conjoint.rewards.sandbox.local.jail import tier_here
from conjoint.rewards.sandbox.local.worker import encode_calls

LANGUAGES = {"python": "python", "cpp": "cpp", "c++": "cpp", "bash": "bash"}
"""Names that a reference may use -> the sandbox's."""
TYPES = ("function", "stdio", "asserts")
_MAX_INPUT = spec.MAX_FRAME // 2
"""Bytes of stdin, or of the arguments of all calls."""
_ENTRY = re.compile(r"(?:[^\W\d]\w*(?:\(\))?\.)?[^\W\d]\w*")
_MAX_TESTS = 1_000_000
"""Characters of test code."""


def validate_reference(reference: Any) -> None:
    """Check a code task's reference. Raises ValueError naming the wrong field.

    `{"language": "python", "tests": TESTS}`, where TESTS is one of
    `{"type": "function", "entry": NAME, "cases": [{"args": [...], "kwargs": {...}, "expected":
    ...}]}` (one of args and kwargs may be left out),
    `{"type": "stdio", "cases": [{"input": TEXT, "output": TEXT}], "checker": ...}` (the checker as
    in `rewards/code/output.py`; it may be left out),
    `{"type": "asserts", "entry": NAME, "code": PYTHON}`: statements that call `entry`, a `check`
    that is given it, or tests in the form of unittest or pytest. NAME may be `Solution().name`.
    The forms of verl and LiveCodeBench (`rows.py`) are read as these.
    In cpp and bash there is only `stdio`. `"processes": false` beside `language` says that bash's
    builtins suffice.
    """
    reference = as_reference(reference)
    if not isinstance(reference, Mapping):
        raise ValueError("reference must be an object with 'language' and 'tests'")
    language = reference.get("language")
    if not isinstance(language, str) or language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ValueError(f"reference.language is {language!r:.80}; expected one of {known}")
    if not isinstance(reference.get("processes", True), bool):
        raise ValueError("reference.processes must be true or false")
    tests = reference.get("tests")
    if not isinstance(tests, Mapping):
        raise ValueError("reference.tests must be an object with 'type' and 'cases'")
    kind = tests.get("type")
    if kind not in TYPES:
        known = ", ".join(f"'{name}'" for name in TYPES)
        raise ValueError(f"reference.tests.type is {kind!r:.80}; expected one of {known}")
    if kind != "stdio" and LANGUAGES[language] != "python":
        raise ValueError(f"reference.tests.type is '{kind}'; in {language} only 'stdio'")
    entry = tests.get("entry")
    if kind != "stdio" and not (isinstance(entry, str) and _ENTRY.fullmatch(entry)):
        raise ValueError(
            "reference.tests.entry must be the name of the function to call, or a method's as in "
            "'Solution().name'"
        )
    if kind == "asserts":
        _validate_code(tests.get("code"), str(entry))
        return
    if kind == "stdio":
        _validate_program(output_check(tests).source)
    cases = tests.get("cases")
    if not isinstance(cases, (list, tuple)) or not cases:
        raise ValueError("reference.tests.cases must be a list of at least one case")
    validate = _validate_call if kind == "function" else _validate_script
    for number, case in enumerate(cases, 1):
        validate(f"reference.tests.cases, case {number}", case)


def _validate_call(where: str, case: Any) -> None:
    given = isinstance(case, Mapping) and ("args" in case or "kwargs" in case)
    if not given or "expected" not in case:
        raise ValueError(f"{where}: must have 'args' and 'expected' ('kwargs' may be added)")
    args, kwargs = case.get("args", ()), case.get("kwargs", {})
    if not isinstance(args, (list, tuple)):
        raise ValueError(f"{where}: 'args' must be a list, one entry an argument")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ValueError(f"{where}: 'kwargs' must be an object, one entry a named argument")
    try:
        for value in (*args, *kwargs.values(), case["expected"], case.get("or_expected")):
            codec.encode(value)
    except codec.CodecError as error:
        raise ValueError(f"{where}: holds {error}; only plain data can be compared") from None


def _validate_script(where: str, case: Any) -> None:
    if not isinstance(case, Mapping) or any(key not in case for key in ("input", "output")):
        raise ValueError(f"{where}: must have 'input' and 'output'")
    for key in ("input", "output"):
        if not _is_text(case[key]):
            raise ValueError(f"{where}: '{key}' must be text that UTF-8 can hold")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _parsed(where: str, source: str) -> ast.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes and the like: not an error
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where} cannot be parsed ({type(error).__name__})") from None


def _validate_code(code: Any, entry: str) -> None:
    where = "reference.tests.code"
    if not _is_text(code) or not code.strip():
        raise ValueError(f"{where} must be Python code that tests '{entry}'")
    if len(code) > _MAX_TESTS:
        raise ValueError(f"{where} is longer than {_MAX_TESTS} characters")
    tree = _parsed(where, code)
    outline = Outline(tree, entry)
    check = outline.check
    if check and not (check.args.posonlyargs or check.args.args or check.args.vararg):
        raise ValueError(f"{where}: check() takes no argument; it is given '{entry}'")
    *owner, name = re.split(r"(?:\(\))?\.", entry)
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(found) | ast.Attribute(attr=found) | ast.alias(name=found):
                names.add(found)
    if not check and name not in names:
        raise ValueError(f"{where} neither names '{entry}' nor defines check(candidate)")
    if outline.defined.keys() & {name, *owner}:
        raise ValueError(f"{where} defines '{entry}' itself, the function to be tested")
    if why := outline.unusable():
        raise ValueError(f"{where} {why}")
    if not outline.checks_something():
        raise ValueError(
            f"{where} checks nothing: it has no assert, no test of unittest or pytest and no "
            "check(candidate) that can fail by what the program answers"
        )


def _validate_program(source: str) -> None:
    where = "reference.tests.checker.source"
    if source and not _function(_parsed(where, source), "check"):
        raise ValueError(f"{where} defines no function check(input, output, expected)")


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    found = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return next(found, None)


def _check_sizes(tests: Mapping[str, Any], output_kb: int) -> None:
    """That what is expected can come out of the jail: its cap would blame a right program."""
    if tests["type"] == "asserts":
        return
    cases = tests["cases"]
    if tests["type"] == "stdio":
        # A line may end in CR LF, the last one in a line end that is not expected.
        outputs = [len(c["output"].encode()) + c["output"].count("\n") + 2 for c in cases]
        largest, sent = max(outputs), max(len(c["input"].encode()) for c in cases)
    else:
        # All answers together; one that is equal may be written up to twice as long (3.0 for 3).
        expected = [codec.dumps(["value", codec.encode(case["expected"])]) for case in cases]
        largest = 2 * sum(map(len, expected))
        sent = len(encode_calls([Call(c.get("args", ()), c.get("kwargs", {})) for c in cases]))
    if largest > output_kb << 10:
        raise ValueError(
            f"reference.tests.cases: a right program may write {math.ceil(largest / 1024)} KiB; "
            f"sandbox.output_kb is {output_kb}, which would cut it off: raise it, or drop the case"
        )
    if sent > _MAX_INPUT:
        raise ValueError(f"reference.tests.cases: the input is {sent} bytes, above {_MAX_INPUT}")


def fits_sandbox(sandbox: SandboxConfig, answers_known: bool) -> Callable[[Any], None]:
    """The check that a sandbox can do what a sound reference asks for: raises ValueError.

    Where the answers are known, bash is taken to need no more processes than they do; the jail
    says so when it runs them.
    """
    tier = functools.cache(lambda: tier_here(sandbox))

    def check(reference: Any) -> None:
        reference = as_reference(reference)
        if why := backend.unfit(sandbox, reference):
            raise ValueError(why)
        _check_sizes(reference["tests"], sandbox.output_kb)
        if sandbox.backend != "local":
            return
        language = LANGUAGES[reference["language"]]
        processes = reference.get("processes", True) and not answers_known
        if why := languages.unfit(language, processes, tier):
            raise ValueError(f"reference.language is {language}; {why}")

    return check
