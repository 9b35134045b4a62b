"""Exec mode, C++ and bash beyond what the attacks show: how programs start, and what is refused."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.code.reward import CodeReward, validate_reference
from conjoint.rewards.sandbox.base import Ended, Program, SandboxError
from conjoint.rewards.sandbox.kernel import seccomp
from conjoint.rewards.sandbox.kernel import syscalls as kernel
from conjoint.rewards.sandbox.local import languages
from conjoint.rewards.sandbox.local.jail import tier_here
from conjoint.rewards.sandbox.local.worker import Worker
from conjoint.rewards.sandbox.spec import Layers
from conjoint.rl.config.compose import load_config
from conjoint.rl.tasks import build_tasks
from conjoint.scripts.grade.main import run as run_grade
from tests.rewards.sandbox.conftest import config

_CPP = '#include <cstdio>\nint main() { int x; scanf("%d", &x); printf("%d\\n", 2 * x); }'
_CASES = [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in range(4)]
_needs_cpp = pytest.mark.skipif(bool(languages.missing("cpp")), reason="no g++")
_needs_bash = pytest.mark.skipif(bool(languages.missing("bash")), reason="no bash")


def run(driver: Any, source: str, language: str, stdin: bytes = b"") -> Any:
    return driver.loop.run(driver.jail.run(Program(source, stdin, language=language)))


def grade(driver: Any, language: str, source: str, **tests: Any) -> Any:
    reference = {"language": language, "tests": {"type": "stdio", "cases": _CASES} | tests}
    return driver.loop.run(CodeReward(driver.jail).check(Task.make("code", "?", reference), source))


@_needs_cpp
def test_a_program_is_compiled_once_for_all_its_cases(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    plain = Worker.compile

    async def counted(self: Worker, source: str) -> Any:
        compiled.append(source)
        return await plain(self, source)

    monkeypatch.setattr(Worker, "compile", counted)
    source = _CPP + f"  // {driver.jail.tier}"
    fenced = f"Thus:\n```cpp\n{source}\n```\n"
    for name in ("cpp", "c++"):
        assert grade(driver, name, fenced).outcome == "pass"
    assert len(compiled) == 1


@_needs_cpp
def test_a_compile_error_is_the_programs_and_is_quoted(driver: Any) -> None:
    result = run(driver, "#include <cstdio>\nint main() { return nothing; }", "cpp")
    assert result.ended is Ended.ERROR
    assert result.reason.startswith("does not compile: solution.cpp:2:")
    assert "nothing" in result.reason


@_needs_cpp
def test_a_binary_may_not_be_too_large(driver: Any) -> None:
    huge = "char a[12 << 20] = {1};\nint main() { return a[1]; }"
    assert run(driver, huge, "cpp").ended is Ended.FINISHED
    larger = huge.replace("12 <<", "17 <<")
    assert run(driver, larger, "cpp").ended is Ended.ERROR


@_needs_bash
def test_the_memory_of_a_tree_is_counted_in_sum(driver: Any) -> None:
    if driver.jail.tier != "namespaces":
        pytest.skip("there are no trees in the landlock tier")
    hog = "(x=$(head -c 50000000 /dev/zero | tr '\\0' x); sleep 20)"
    result = run(driver, f"for i in 1 2 3 4 5 6 7 8; do {hog} & done; wait", "bash")
    assert (result.ended, result.reason) == (Ended.ERROR, "used more than 256 MiB of memory")


@_needs_bash
def test_a_tree_ends_with_its_first_process(driver: Any) -> None:
    if driver.jail.tier != "namespaces":
        pytest.skip("there are no trees in the landlock tier")
    seconds = f"7{os.getpid()}"
    result = run(driver, f"setsid sleep {seconds} & sleep {seconds} & echo done", "bash")
    assert (result.ended, result.stdout) == (Ended.FINISHED, b"done\n")
    deadline = time.monotonic() + 30
    while _running(seconds) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _running(seconds)


def _running(word: str) -> bool:
    return any(word in _command(pid) for pid in os.listdir("/proc") if pid.isdigit())


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@_needs_bash
def test_bash_without_processes_names_what_it_lacks(driver: Any) -> None:
    builtin = 'read -r x; printf "%d\\n" $((x * 2))'
    assert grade(driver, "bash", builtin).outcome == "pass"
    for needing in ("seq 1 | cat", "x=$(echo 1)", "(exit 0)", "exec /bin/true", "true & wait"):
        result = run(driver, needing, "bash")
        if driver.jail.tier == "namespaces":
            assert result.ended is Ended.FINISHED, result
        else:
            assert result.ended is Ended.ERROR
            assert result.reason == "needs processes, which the landlock tier lacks (unsupported)"


@_needs_bash
def test_known_answers_in_bash_are_graded_where_builtins_suffice(
    driver: Any, tmp_path: Path
) -> None:
    tests = {"type": "stdio", "cases": _CASES}
    row = {"kind": "code", "prompt": "?", "reference": {"language": "bash", "tests": tests}}
    piped = "read -r x; echo $(seq 1 $x | awk '{ s += 2 } END { print s + 0 }')"
    answers = ["read -r x; echo $((x * 2))", piped]
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps(row | {"response": a}) + "\n" for a in answers))
    tier = driver.jail.tier
    keys = ["reward=code", f"input={rows}", f"output={out}", f"sandbox.isolation={tier}"]
    assert run_grade(keys) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found[0]["status"] == "pass"
    if tier == "namespaces":
        assert found[1]["status"] == "pass"
    else:
        assert found[1]["status"] == "error" and found[1]["score"] != 1
        assert "unsupported" in found[1]["reasons"][0]


def _train(tmp_path: Path, reference: dict[str, Any], *words: str) -> None:
    rows = tmp_path / "rows.jsonl"
    good = {"language": "python", "tests": {"type": "stdio", "cases": _CASES}}
    lines = [{"prompt": "even", "answer": good}, {"prompt": "odd", "answer": reference}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = ["tasks.math.weight=0", "tasks.instruction.weight=0", "tasks.open.weight=0"]
    build_tasks(load_config([f"tasks.code.path={rows}", "tasks.code.heldout=1", *kept, *words]))


@_needs_bash
def test_a_run_refuses_bash_that_its_tier_cannot_grade(driver: Any, tmp_path: Path) -> None:
    tier = f"sandbox.isolation={driver.jail.tier}"
    bash = {"language": "bash", "tests": {"type": "stdio", "cases": _CASES}}
    _train(tmp_path, bash | {"processes": False}, tier)
    if driver.jail.tier == "namespaces":
        _train(tmp_path, bash, tier)
        return
    with pytest.raises(ConjointError, match=r"rows.jsonl line 2: .*unsupported: bash programs"):
        _train(tmp_path, bash, tier)


def test_a_run_refuses_a_language_without_its_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "_PROGRAMS", str(tmp_path))
    cpp = {"language": "cpp", "tests": {"type": "stdio", "cases": _CASES}}
    with pytest.raises(ConjointError, match=r"line 2: .*unsupported: this machine has no g\+\+"):
        _train(tmp_path, cpp)


def test_a_missing_tool_is_the_machines_failure_and_never_a_score(
    driver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(languages, "_PROGRAMS", str(tmp_path))
    score = grade(driver, "cpp", _CPP)
    assert (score.value, score.outcome) == (None, "infra_error")
    assert "unsupported: this machine has no g++" in score.reasons[0]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"language": "rust"}, "expected one of python, cpp, c\\+\\+, bash"),
        ({"language": None}, "reference.language is None"),
        ({"language": "bash", "processes": "no"}, "reference.processes must be true or false"),
        (
            {"language": "cpp", "tests": {"type": "function", "entry": "f", "cases": []}},
            "in cpp only 'stdio'",
        ),
    ],
)
def test_references_that_make_no_sense_are_refused(reference: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        validate_reference({"tests": {"type": "stdio", "cases": _CASES}} | reference)


def test_programs_that_make_no_sense_are_refused(driver: Any) -> None:
    with pytest.raises(SandboxError, match="expected python, cpp, bash"):
        run(driver, "", "rust")
    with pytest.raises(SandboxError, match="in python, not in bash"):
        driver.loop.run(driver.jail.run(Program("", entry="f", language="bash")))


def test_both_modes_give_a_program_the_same_world(start: Any, driver: Any) -> None:
    look = (
        "import os, sys\nprint(__name__, sys.argv, sys.version, sys.flags.utf8_mode,"
        " sorted(set(os.environ) - {'PYTHONHOME', 'LD_LIBRARY_PATH'}), os.listdir('.'),"
        " hash('x'), callable(exit), sys.stdout.encoding, __builtins__ is not None)"
    )
    fresh = start(driver.jail.tier, mode="exec")
    assert fresh.script(look).stdout == driver.script(look).stdout != b""
    broken = "def f():\n    return 1 / 0\nf()"
    assert fresh.script(broken).stderr == driver.script(broken).stderr
    source, args = "def f(x, y):\n    return [x, {'k': y}]", (1, 2.5)
    assert fresh.call(source, *args).answers == driver.call(source, *args).answers
    modules = "import sys\ndef f(): return [n for n in sys.modules if n[:7] == 'rewards']"
    assert fresh.call(modules).answers[0].wire == ["list", []]
    fresh.close()


def test_a_signal_does_not_end_the_supervisor(start: Any) -> None:
    """On kernels before 6.12, whose Landlock knows no signals, nothing else keeps them away."""
    jail = start("namespaces", Layers(landlock=False), workers=1)
    if languages.missing("bash"):
        pytest.skip("this machine has no bash")
    result = run(jail, "for n in INT TERM HUP QUIT USR1 ALRM; do kill -$n 1; done; echo 41", "bash")
    assert (result.ended, result.stdout) == (Ended.FINISHED, b"41\n"), result
    assert jail.jail.restarts == 0
    source = "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\n"
    assert jail.script(source + "except KeyboardInterrupt: print(1)").stdout == b"1\n"
    jail.close()


def test_programs_know_that_they_are_judged(driver: Any) -> None:
    look = "import os\nprint(os.environ['ONLINE_JUDGE'])"
    assert driver.script(look).stdout == b"true\n"
    if not languages.missing("bash"):
        assert run(driver, "echo $ONLINE_JUDGE", "bash").stdout == b"true\n"
    if not languages.missing("cpp"):
        source = '#include <cstdio>\nint main(){\n#ifdef ONLINE_JUDGE\nputs("1");\n#endif\n}'
        assert run(driver, source, "cpp").stdout == b"1\n"


def test_a_jail_has_zygotes_of_both_kinds_in_as_many_places(start: Any, driver: Any) -> None:
    jail = start(driver.jail.tier, workers=1)
    assert jail.script("print(1)").stdout == b"1\n"
    if not languages.missing("bash"):
        for _ in range(2):
            assert run(jail, "echo 2", "bash").stdout == b"2\n"
            assert jail.script("print(1)").stdout == b"1\n"
        assert len(jail.jail.pids) == 2
    assert jail.jail.restarts == 0
    jail.close()


def test_a_program_is_not_executed_twice(start: Any, driver: Any) -> None:
    number = {"x86_64": 322, "aarch64": 281}[os.uname().machine]
    again = (
        "import ctypes, os\nprogram = os.open('/usr/bin/env', os.O_PATH)\n"
        "argv = (ctypes.c_char_p * 2)(b'env', None)\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"libc.syscall({number}, program, b'', argv, argv, 0x1000)\nprint(ctypes.get_errno())"
    )
    fresh = start(driver.jail.tier, mode="exec", workers=1)
    assert fresh.script(again).stdout == b"%d\n" % errno.EPERM
    fresh.close()


def test_the_one_exec_is_told_by_its_address() -> None:
    address = kernel.syscall_address()
    assert address > 1 << 32
    plain = seccomp.program("landlock", 77)
    once = seccomp.program("landlock", 77, seccomp.Filter(exec_from=address))
    other = seccomp.program("landlock", 77, seccomp.Filter(exec_from=address + 8))
    assert plain != once != other and len(plain) == len(once) == len(other)


def test_the_tier_is_found_out_before_a_run(driver: Any) -> None:
    assert tier_here(config(driver.jail.tier, workers=1)) == driver.jail.tier
