"""Inside the checker's jail: runs assert tests against a solution that runs in another jail.

Owns what the tests see of the solution: functions that hand each call out and the answer back in
(`live.py`). What comes back is plain data or a built-in exception; anything else
ends the tests at once, so that no test can be pleased by it. The verdict goes out on descriptor 3,
which no solution has.

Lines out: `c` and a call, `p` and [cases passed, all cases], `v` and the verdict. A case is a
statement of the tests, at their top or at that of their `check`, that can fail (`cases.py`), or a
test of unittest or pytest (`frameworks.py`).
"""

import ast
import builtins
import contextlib
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.inside import cases, frameworks, live, solution

_OUT = 3
_MAX_TEXT = 120


def run(source: bytes, entry: str, payload: bytes) -> NoReturn:
    """Run the tests; never returns. The payload says whether to go on after a failed case."""
    try:
        answers = os.fdopen(solution.take_stdin(), "rb")
        solution.open_streams()
        solution.start_clean()
        _Tests(source.decode("utf-8", "surrogatepass"), entry, answers, json.loads(payload)).run()
    finally:
        os._exit(1)


class _Tests:
    def __init__(self, source: str, entry: str, answers: Any, every_case: bool) -> None:
        self._source = source
        self._entry = entry
        self._answers = answers
        self._every_case = every_case
        self._outline = cases.Outline(ast.parse(source), entry)
        self._cases = cases.guard(self._outline)
        self._count = len(self._cases) + self._outline.count
        self._ended: dict[int, bool] = {}
        """Whether a case passed: of a statement its number from 1, of a framework's test one below
        0."""
        self._entered: set[str] = set()
        self._told = (-1, 0)  # what the pool knows of passed and all cases
        self._failures: list[tuple[str, str]] = []
        self._calls = self._calls_before = 0
        self._last: _Call | None = None
        self._raised: BaseException | None = None

    def run(self) -> NoReturn:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        code = compile(self._outline.tree, "tests.py", "exec", dont_inherit=True)
        names = module.__dict__
        free = {name: self._function(name) for name in _names(code) if not hasattr(builtins, name)}
        names.update(free)
        names.update(_modules(self._outline.tree, free))
        names.update({cases.stand_in_name(name): cls for name, cls in live.STAND_INS.items()})
        names[cases.PASSED], names[cases.FAILED] = self._case_passed, self._case_failed
        names[cases.ENTERED] = self._entered.add
        for name in self._outline.program_modules():
            sys.modules[name] = _Program(name, self._function)
        under_test = self._function(self._entry)
        if self._entry.isidentifier():
            names[self._entry] = under_test
        unittests = frameworks.install(self._source, self)
        try:
            with _may_end():
                exec(code, names)
            check = names.get("check")
            if self._outline.check and callable(check) and "check" not in self._entered:
                with _may_end():
                    check(under_test)
            self._count = len(self._cases) + sum(number < 0 for number in self._ended)
            if unittests is not None:
                unittests.run(module)
            frameworks.run_pytest(module, self._outline, self._entered, self)
        except BaseException as error:
            self._end(*self._what_failed(error, "the tests"))
        if self._last is None:
            self._end("unusable", f"the tests never call {self._entry}")
        if not self._ended:
            self._end("unusable", "the tests check nothing")
        self._end(*(self._failures[0] if self._failures else ("passed", "")))

    def _function(self, name: str, shown: str = "") -> Callable[..., Any]:
        def relayed(*args: Any, **kwargs: Any) -> Any:
            return self._call(_Call(name, shown or name, args, kwargs))

        relayed.__name__ = relayed.__qualname__ = name
        return relayed

    def _call(self, call: "_Call") -> Any:
        try:
            sent = [codec.encode(arg) for arg in call.args]
            named = {key: codec.encode(value) for key, value in call.kwargs.items()}
        except (codec.CodecError, RecursionError) as error:
            why = f"the tests give {call.shown} {error}, which cannot leave their jail"
            self._end("unusable", why)
        self._last = call
        self._calls += 1
        self._write(b"c", [call.name, sent, named])
        line = self._answers.readline()
        if not line:
            os._exit(1)  # nobody listens any more
        try:
            kind, *body = codec.loads(line)
            value = self._read(kind, body, call)
        except Exception:  # whatever was sent to cause it, the tests must not see it
            self._end("fail", f"{call} sent something that is not an answer")
        call.value = value
        if kind == "raised" or kind == "missing":
            self._raised = value
            raise value
        return value

    def _read(self, kind: str, body: list[Any], call: "_Call") -> Any:
        """What an answer says: a value, or the exception to raise. Raises for a malformed one."""
        if kind == "gone":
            self._end("gone", f"{call} gave no answer")
        if kind == "missing" and call.name.startswith("#"):
            return AttributeError(f"no method '{call.name.partition('.')[2]}'")
        if kind == "missing" and call.name != self._entry:
            return NameError(f"name '{call.name}' is not defined")
        if kind == "missing":
            self._end("raised", f"the program {str(body[0])[:_MAX_TEXT]}")
        if kind == "refused":
            self._end("fail", f"{call} gave {str(body[0])[:_MAX_TEXT]}")
        if (changed := body[-1]) is not None:
            for old, new in zip(call.args, changed[0], strict=True):
                live.write_back(old, codec.decode(new))
            for key, new in live.decoded(changed[1]).items():
                live.write_back(call.kwargs[key], new)
        if kind == "raised":
            return live.exception(*body[:3])
        if kind == "instance":
            if not call.name[:1].isupper():
                self._end("fail", f"{call} gave an object")
            return _Instance(int(body[0]), str(call), self._function)
        return call.args[body[0]] if kind == "argument" else codec.decode(body[0])

    # Cases: statements of the module, then what a framework runs (see frameworks.Reports).

    def _case_passed(self, number: int) -> None:
        self._ended[number] = self._ended.get(number, True)

    def _case_failed(self, number: int) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, SystemExit) and not error.code:
            self._case_passed(number)
            raise error
        statement = ast.get_source_segment(self._source, self._cases[number - 1]) or "a statement"
        self._fail(number, " ".join(statement.split()), error)

    def expect(self, tests: int) -> None:
        self._count += tests

    def begin(self) -> None:
        self._calls_before = self._calls

    def passed(self) -> None:
        self._ended[-len(self._ended) - 1] = True

    def skipped(self) -> None:
        if self._calls != self._calls_before:
            self.failed("a test", AssertionError("skipped after a call"))
        else:
            self._count -= 1

    def failed(self, test: str, error: BaseException | None) -> None:
        self._fail(-len(self._ended) - 1, test, error)

    def _fail(self, number: int, what: str, error: BaseException | None) -> None:
        where = f"case {abs(number)} of {self._count}: {_cut(what)}"
        self._failures.append(self._what_failed(error, where))
        self._ended[number] = False
        if not self._every_case:
            self._end(*self._failures[0])

    def _what_failed(self, error: BaseException | None, where: str) -> tuple[str, str]:
        """("raised" if it is the solution's own exception that came through, else "fail", words)"""
        if error is self._raised:
            return "raised", f"{where}: {self._last} failed with {_described(error)}"
        said = "" if isinstance(error, AssertionError) else f"{_described(error)}; "
        if self._last is None:
            return "fail", f"{where}: {said}before any call"
        return "fail", f"{where}: {said}{self._last} gave {_shown(self._last.value)}"

    # Out.

    def _end(self, kind: str, text: str) -> NoReturn:
        """Send the verdict and stop here, whatever the tests would catch."""
        if kind in ("gone", "fail", "raised") and not text.startswith(("case ", "the tests")):
            text = f"case {len(self._ended) + 1} of {self._count}: {text}"
        self._write(b"v", [kind, text])
        os._exit(0)

    def _write(self, mark: bytes, message: list[Any]) -> None:
        data = mark + codec.dumps(message) + b"\n"
        if (now := (sum(self._ended.values()), self._count)) != self._told:
            self._told = now
            data = b"p" + codec.dumps(now) + b"\n" + data
        view = memoryview(data)
        while view:
            view = view[os.write(_OUT, view) :]


@dataclass(slots=True)
class _Call:
    """The last call, for the words of a verdict."""

    name: str
    shown: str
    """The name that the tests know."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any = None
    """What it gave, or the exception that it raised."""

    def __str__(self) -> str:
        named = [f"{key}={_shown(value)}" for key, value in self.kwargs.items()]
        return _cut(f"{self.shown}({', '.join([*map(_shown, self.args), *named])})")


@contextlib.contextmanager
def _may_end() -> Iterator[None]:
    """The tests may end themselves and say that all is well: a program's SystemExit never gets here
    as one."""
    try:
        yield
    except SystemExit as stop:
        if stop.code:
            raise


class _Instance:
    """An object of one of the program's classes: its methods can be called, nothing else."""

    def __init__(self, number: int, shown: str, function: Callable[[str, str], Any]) -> None:
        self.__made = number, shown, function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        number, shown, function = self.__made
        return function(f"#{number}.{name}", f"{shown}.{name}")


class _Program(types.ModuleType):
    """The module that the tests import the program from."""

    def __init__(self, name: str, function: Callable[[str], Any]) -> None:
        super().__init__(name)
        self.__function = function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__function(name)


def _names(code: types.CodeType) -> set[str]:
    """Every name that the code uses, in any of its functions."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _modules(tree: ast.Module, free: Mapping[str, Any]) -> dict[str, types.ModuleType]:
    """Standard modules that the tests use and do not import: a plain run has the program's."""
    used = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = {}
    for name in used.intersection(free, sys.stdlib_module_names):
        with contextlib.suppress(ImportError):
            found[name] = importlib.import_module(name)
    return found


def _described(error: BaseException | None) -> str:
    try:
        return _cut(f"{type(error).__name__}: {error}")
    except Exception:
        return type(error).__name__


def _shown(value: Any) -> str:
    try:
        return _cut(repr(value))
    except (RecursionError, ValueError):
        return "a value that cannot be shown"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
