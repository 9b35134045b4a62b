"""Every attack in every combination of user, tier and mode that this machine has.

What ran is printed at the end of the tests (tests/conftest.py). A combination that its probe offers
may not be left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.sandbox.matrix import COMBINATIONS

_REPOSITORY = Path(__file__).parents[3]
_EXAMPLES = _REPOSITORY.parent / "shared/data/sandbox_attack_examples.jsonl"
_NOBODY = 65534
_USERS = ("root", "unprivileged")
_PARTS = {
    "rewards": "conjoint/rewards",
    "envs/text.py": "conjoint/envs/text.py",
    "envs/types.py": "conjoint/envs/types.py",
    "tests/rewards/sandbox": "tests/rewards/sandbox",
}
"""What the attacks take of the repository -> where it lies in the copy, to be imported."""
_OLDEST = (3, 11)
_ALL = [(user, tier, mode) for user in _USERS for tier, mode in COMBINATIONS]
_ran: set[tuple[str, str, str]] = set()


class Runner:
    """Starts `matrix` as a user: with this Python, or as somebody else with one that all may read
    on a copy of the few files that it takes."""

    def __init__(self, user: str, place: Path) -> None:
        self.why = ""
        self._python, self._place, self._user = sys.executable, place, {}
        if user == "root":
            self.why = "" if os.geteuid() == 0 else "these tests do not run as root"
        elif os.geteuid() == 0:
            self._python = _python_of_all()
            self.why = "" if self._python else "no Python 3.11 or newer that everybody may read"
            self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}

    def __call__(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [self._python, "-B", "-m", "tests.rewards.sandbox.matrix", *words],
            cwd=self._place,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self._place)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _python_of_all() -> str:
    """A Python that another user can start, "" if there is none."""
    for path in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"):
        look = f"import sys, json; print(sys.version_info >= {_OLDEST})"
        try:
            found = subprocess.run(
                [path, "-c", look], user=_NOBODY, capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if found.stdout.strip() == "True":
            return path
    return ""


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[str, Runner]]:
    place = Path(tempfile.mkdtemp(prefix="conjoint-matrix-"))
    for part, target in _PARTS.items():
        source, copy = _REPOSITORY / part, place / target
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    if _EXAMPLES.exists():
        shutil.copy(_EXAMPLES, place / "examples.jsonl")
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    yield {user: Runner(user, place) for user in _USERS}
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def offered(runners: dict[str, Runner]) -> dict[tuple[str, str, str], str]:
    """Combination -> why the probe does not offer it, empty if it does."""
    found = {}
    for user, runner in runners.items():
        tiers = {} if runner.why else runner("offers")
        for tier, mode in COMBINATIONS:
            found[user, tier, mode] = runner.why or tiers[f"{tier} {mode}"]
    return found


@pytest.mark.parametrize(("user", "tier", "mode"), _ALL, ids=[" ".join(c) for c in _ALL])
def test_every_attack_comes_out_as_it_must(
    user: str,
    tier: str,
    mode: str,
    runners: dict[str, Runner],
    offered: dict[tuple[str, str, str], str],
    record_property: Any,
) -> None:
    name, why = f"{user} x {tier} x {mode}", offered[user, tier, mode]
    if why:
        record_property("sandbox", f"{name}: not offered ({why})")
        pytest.skip(why)
    # What takes a second of CPU to be stopped is stopped alike for every user.
    costly = user == next(u for u in _USERS if not runners[u].why)
    result = runners[user](tier, mode, "examples.jsonl", "costly" if costly else "quick")
    verdicts, must = result["verdicts"], result["must"]
    record_property("sandbox", f"{name}: {_words(result)}")
    wrong = {
        row: (verdict, must[row])
        for row, verdict in verdicts.items()
        if verdict[0] not in (*must[row], "missing")
        or (verdict[0] == "pass") != (verdict[1] == 1.0)
    }
    assert not wrong
    assert result["tier"] == tier
    assert result["answers"] == ["42\n"]
    left = {key: result[key] for key in ("files", "cores", "segments", "children")}
    assert left == {"files": [], "cores": [], "segments": 0, "children": []}
    assert result["memory_mb"] < 300, "the grader grew"
    _ran.add((user, tier, mode))


def _words(result: dict[str, Any]) -> str:
    shared = sum(name.startswith("shared ") for name in result["verdicts"])
    missing = sorted({v[2] for v in result["verdicts"].values() if v[0] == "missing"})
    words = f"{result['programs'] - shared} attacks and controls of ours"
    words += f", {shared} shared examples" if shared else ", no shared examples"
    return "; ".join([words, *missing])


def test_no_combination_that_the_probe_offers_was_left_out(
    request: pytest.FixtureRequest, offered: dict[tuple[str, str, str], str]
) -> None:
    """Counts only combinations asked for on pytest's command line. It stands last in the file, so
    that it runs after them."""
    chosen = {
        tuple(item.callspec.params[key] for key in ("user", "tier", "mode"))
        for item in request.session.items
        if item.name.startswith(test_every_attack_comes_out_as_it_must.__name__)
        and isinstance(item, pytest.Function)
    }
    assert {c for c in chosen if not offered[c]} <= _ran  # type: ignore[index]
