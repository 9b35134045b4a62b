"""Tests of unittest's and pytest's form, run in the checker's jail as what they are.

Owns the discovery and the running of tests that no statement calls, and the small part of pytest
that tests use; the jail has the standard library only. Whether `unittest.main()` stands there, and
what it was told, decides nothing: every test is run, and each must pass.
"""

import asyncio
import contextlib
import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from conjoint.rewards.sandbox.inside.cases import Outline


class Reports(Protocol):
    """How tests ended, one after the other; `failed` may not return."""

    def expect(self, tests: int) -> None:
        """So many more tests are to be run, in place of what was guessed."""
        ...

    def begin(self) -> None: ...
    def passed(self) -> None: ...
    def skipped(self) -> None: ...
    def failed(self, test: str, error: BaseException | None) -> None: ...


# unittest.


class Unittest:
    """Runs the `TestCase` classes of a module. Made before the module is run, so that a runner
    that the module starts itself reports here too."""

    def __init__(self, reports: Reports) -> None:
        import unittest

        class Result(unittest.TestResult):
            bad = False

            def startTest(self, test: Any) -> None:
                super().startTest(test)
                ran.add(test.id())
                self.bad = False
                reports.begin()

            def addSuccess(self, test: Any) -> None:
                if not self.bad:
                    reports.passed()

            def addFailure(self, test: Any, err: Any) -> None:
                self.bad = True
                self.failures.append((test, ""))
                reports.failed(_short(test.id()), err[1])

            addError = addFailure

            def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
                if err is not None and not self.bad:
                    self.addFailure(test, err)

            def addSkip(self, test: Any, reason: str) -> None:
                reports.skipped()

            def addExpectedFailure(self, test: Any, err: Any) -> None:
                reports.skipped()

            def addUnexpectedSuccess(self, test: Any) -> None:
                self.addFailure(test, (None, AssertionError("passed unexpectedly"), None))

        ran: set[str] = set()
        self._ran = ran
        self._result = Result
        self._library = unittest
        self._expect = reports.expect
        nothing: Any = lambda *args, **kwargs: None  # noqa: E731  (the tests run in any case)
        unittest.main = unittest.TestProgram = nothing  # type: ignore[assignment,misc]
        unittest.TextTestRunner.run = lambda runner, test: self._run(test)  # type: ignore[method-assign,assignment]

    def run(self, module: types.ModuleType) -> None:
        """Run the tests that did not run yet."""
        suite = self._library.TestLoader().loadTestsFromModule(module)
        tests = [test for test in _flat(suite) if test.id() not in self._ran]
        self._expect(len(tests))
        self._run(self._library.TestSuite(tests))

    def _run(self, test: Any) -> Any:
        result = self._result()
        test(result)
        return result


def _flat(suite: Any) -> Iterator[Any]:
    for test in suite:
        if hasattr(test, "__iter__"):
            yield from _flat(test)
        else:
            yield test


def _short(test_id: str) -> str:
    return test_id.removeprefix("__main__.")


# pytest.


class Skipped(Exception):
    """A test that says it cannot run here."""


class _Raises:
    def __init__(self, expected: Any, match: str | None = None) -> None:
        self.expected, self.match = expected, match
        self.type: Any = None
        self.value: Any = None

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            raise AssertionError(f"did not raise {self.expected}")
        if not issubclass(kind, self.expected):
            return False
        self.type, self.value = kind, error
        if self.match is not None and not re.search(self.match, str(error)):
            raise AssertionError(f"{str(error)!r} does not match {self.match!r}")
        return True


class _Approximately:
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None

    def __init__(
        self,
        expected: Any,
        rel: float | None = None,
        abs: float | None = None,
        nan_ok: bool = False,
    ) -> None:
        self.expected, self.nan_ok = expected, nan_ok
        self.rel = rel if rel is not None else 0.0 if abs is not None else 1e-6
        self.abs = abs if abs is not None else 1e-12

    def __eq__(self, got: object) -> bool:
        return self._same(self.expected, got)

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def _same(self, expected: Any, got: Any) -> bool:
        if isinstance(expected, dict):
            keys = isinstance(got, dict) and expected.keys() == got.keys()
            return keys and all(self._same(expected[key], got[key]) for key in expected)
        if isinstance(expected, (list, tuple)):
            alike = isinstance(got, (list, tuple)) and len(got) == len(expected)
            return alike and all(map(self._same, expected, got))
        if expected == got:
            return True
        try:
            if expected != expected and got != got:
                return self.nan_ok
            allowed = max(self.rel * abs(expected), self.abs)
            return abs(expected) != float("inf") and bool(abs(expected - got) <= allowed)
        except TypeError:
            return False


class _Mark:
    """`@pytest.mark.NAME`, plain or called: kept on the function."""

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: Any = None) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plain = len(args) == 1 and not kwargs
        if plain and (inspect.isroutine(args[0]) or inspect.isclass(args[0])):
            marked: Any = args[0]
            marked.pytestmark = [*getattr(marked, "pytestmark", ()), self]
            return marked
        return _Mark(self.name, args, kwargs)


class _Marks:
    def __getattr__(self, name: str) -> _Mark:
        return _Mark(name)


class _Parameters(tuple[Any, ...]):
    """`pytest.param(...)`: values of one set, even where there is only one."""


def pytest_module() -> types.ModuleType:
    """What `import pytest` gives the tests: `cases.PYTEST`."""
    module = types.ModuleType("pytest")

    def raises(expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
        found = _Raises(expected, match)
        if not call:
            return found
        with found:
            call[0](*call[1:], **kwargs)
        return found

    def fixture(function: Any = None, **options: Any) -> Any:
        def marked(function: Any) -> Any:
            function.pytest_fixture = options
            return function

        return marked(function) if function is not None else marked

    def fail(reason: str = "", **_: Any) -> None:
        raise AssertionError(reason)

    def skip(reason: str = "", **_: Any) -> None:
        raise Skipped(reason)

    def param(*values: Any, **_: Any) -> _Parameters:
        return _Parameters(values)

    names = {"raises": raises, "approx": _Approximately, "mark": _Marks(), "param": param,
             "fixture": fixture, "fail": fail, "skip": skip,
             "main": lambda *_, **__: 0}  # fmt: skip
    vars(module).update(names)
    return module


def run_pytest(
    module: types.ModuleType, outline: Outline, entered: set[str], reports: Reports
) -> None:
    """Run the tests that were not entered yet: each with every set of its parameters."""
    names = vars(module)
    tests = []
    for node in outline.test_functions:
        if node.name not in entered and inspect.isroutine(names.get(node.name)):
            tests += [(node.name, None, one) for one in _with_parameters(names[node.name])]
    for cls in filter(inspect.isclass, (names.get(node.name) for node in outline.test_classes)):
        for name in vars(cls):
            if name.startswith("test") and f"{cls.__name__}.{name}" not in entered:
                found = _with_parameters(getattr(cls, name), getattr(cls, "pytestmark", ()))
                tests += [(f"{cls.__name__}.{name}", cls, one) for one in found]
    reports.expect(len(tests))
    for name, cls, (function, marks, values) in tests:
        reports.begin()
        try:
            if _left_out(marks):
                raise Skipped
            with contextlib.ExitStack() as stack:
                _run_one(function, cls, values, names, stack)
        except Skipped:
            reports.skipped()
        except BaseException as error:
            reports.failed(name, error)
        else:
            reports.passed()


def _with_parameters(
    function: Any, marks: Any = ()
) -> list[tuple[Any, list[_Mark], dict[str, Any]]]:
    marks = [*marks, *getattr(function, "pytestmark", ())]
    sets: list[list[dict[str, Any]]] = []
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, values = [*mark.args, *mark.kwargs.values()][:2]
        # One name in a text has bare values, one in a list has sets of one.
        bare = isinstance(names, str) and "," not in names
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows = [(v,) if bare and not isinstance(v, _Parameters) else v for v in values]
        sets.append([dict(zip(names, row, strict=True)) for row in rows])
    products = itertools.product(*sets)
    return [(function, marks, {k: v for one in p for k, v in one.items()}) for p in products]


def _left_out(marks: list[_Mark]) -> bool:
    """Skipped, or expected to fail, which proves nothing."""
    for mark in marks:
        condition = mark.args[0] if mark.args else mark.kwargs.get("condition", True)
        if mark.name == "skip" or (mark.name in ("skipif", "xfail") and condition):
            return True
    return False


def _run_one(
    function: Callable[..., Any],
    cls: Any,
    values: Mapping[str, Any],
    names: Mapping[str, Any],
    stack: contextlib.ExitStack,
) -> None:
    made: dict[str, Any] = {}
    target = cls() if cls is not None else None

    def fixture(name: str) -> Any:
        if name not in made:
            owner = cls if hasattr(cls, name) else None
            function = getattr(owner, name) if owner else names[name]
            made[name] = _finished(call(function, owner), stack)
        return made[name]

    def call(callee: Any, owner: Any) -> Any:
        wanted = [*inspect.signature(callee).parameters][owner is not None :]
        given = {name: values[name] if name in values else fixture(name)
                 for name in wanted if name in values or _is_fixture(cls, names, name)}  # fmt: skip
        return callee(*([target] if owner is not None else []), **given)

    for hook in ("setup_class", "setup_method", "teardown_method"):
        found = getattr(target, hook, lambda: None)
        arguments = [None] * len(inspect.signature(found).parameters)
        if hook.startswith("setup"):
            found(*arguments)
        else:
            stack.callback(found, *arguments)
    for scope in (names, vars(cls) if cls else {}):
        for name, item in list(scope.items()):
            if inspect.isfunction(item) and getattr(item, "pytest_fixture", {}).get("autouse"):
                fixture(name)
    value = call(function, cls)
    if inspect.iscoroutine(value):
        asyncio.run(value)


def _is_fixture(cls: Any, names: Mapping[str, Any], name: str) -> bool:
    return hasattr(getattr(cls, name, names.get(name)), "pytest_fixture")


def _finished(value: Any, stack: contextlib.ExitStack) -> Any:
    """The value of a fixture; what stands behind its yield runs after the test."""
    if not inspect.isgenerator(value):
        return value
    stack.callback(next, value, None)
    return next(value)


def install(tests: str, reports: Reports) -> Unittest | None:
    """Have ready what the tests name: their own pytest, and unittest with us as its runner."""
    if "pytest" in tests:
        sys.modules["pytest"] = pytest_module()
    return Unittest(reports) if "unittest" in tests else None
