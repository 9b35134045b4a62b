"""The pool: choice of tier, broken jails, clean ends, and the settings."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rewards.sandbox.base import (
    Ended,
    Program,
    SandboxConfig,
    SandboxError,
    SandboxUnavailable,
)
from conjoint.rewards.sandbox.inside import scratch
from conjoint.rewards.sandbox.local import probe, worker
from conjoint.rewards.sandbox.local.jail import LocalJail

_REPOSITORY = Path(__file__).parents[3]
_SLEEP = Program("import time\ntime.sleep(1.5)\nprint(1)")


def _until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    found += [int(name), *_children(int(name))]
        except OSError:
            continue
    return found


def test_a_killed_zygote_costs_a_retry_and_no_verdict(driver: Any) -> None:
    jail: LocalJail = driver.jail

    async def kill_once() -> Any:
        job = asyncio.create_task(jail.run(_SLEEP))
        await asyncio.sleep(0.5)
        idle = [w for slot in jail._idle._queue for w in slot.values()]  # type: ignore[attr-defined]
        victim = next(w for w in jail._workers if w not in idle)
        os.kill(victim.process.pid, signal.SIGKILL)
        return await job

    before = jail.restarts
    result = driver.loop.run(kill_once())
    assert (result.ended, result.stdout) == (Ended.FINISHED, b"1\n")
    assert jail.restarts == before + 1


def test_a_caller_who_gives_up_leaves_no_job_behind(driver: Any) -> None:
    async def give_up() -> None:
        async with asyncio.timeout(0.4):
            await driver.jail.run(Program("while True: pass"))

    with pytest.raises(TimeoutError):
        driver.loop.run(give_up())
    assert [r.stdout for r in driver.scripts(["print(1)"] * 4)] == [b"1\n"] * 4
    assert len(driver.jail._workers) <= driver.jail.config.workers


def test_two_broken_jails_are_an_infra_error_and_never_a_failure(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, program: Program, how: str, compiled: bytes = b"") -> Any:
        raise worker.WorkerBroken("the jail's zygote ended")

    monkeypatch.setattr(worker.Worker, "run", broken)
    result = driver.script("print(1)")
    assert result.ended is Ended.INFRA_ERROR
    tests = {"type": "stdio", "cases": [{"input": "", "output": "1"}]}
    score = driver.grade(tests, "print(1)")
    assert (score.value, score.outcome) == (None, "infra_error")
    monkeypatch.undo()
    assert driver.script("print(1)").stdout == b"1\n"


def test_a_refused_step_of_set_up_runs_nothing(start: Any) -> None:
    """Only this job's jail is broken, from inside: the program must not have run at all."""
    jail = start("namespaces", workers=1)
    ours = next(iter(jail.jail._workers))
    jail.loop.run(jail.jail._retire(ours))
    jail.jail._idle.get_nowait()
    jail.jail._idle.put_nowait({})
    # The kernel refuses to mount a scratch directory of this size.
    object.__setattr__(jail.jail.config, "scratch_mb", "nonsense")
    result = jail.script("print('ran')")
    jail.close()
    assert result.ended is Ended.INFRA_ERROR
    assert "mount" in result.reason
    assert result.stdout == b""


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_close_leaves_no_process_and_no_directory(start: Any, tier: str) -> None:
    jail = start(tier)
    directory = jail.jail._directory
    zygotes = [w.process.pid for w in jail.jail._workers]

    async def close_under_way() -> Any:
        job = asyncio.create_task(jail.jail.run(_SLEEP))
        await asyncio.sleep(0.3)
        running = [pid for zygote in zygotes for pid in _children(zygote)]
        await jail.jail.close()
        return running, await job

    running, result = jail.loop.run(close_under_way())
    assert running
    assert result.ended is Ended.INFRA_ERROR
    assert _until(lambda: not any(map(_alive, [*zygotes, *running])))
    assert not os.path.exists(directory)
    with pytest.raises(SandboxError, match="closed"):
        jail.script("print(1)")
    jail.close()


_PARENT = textwrap.dedent("""
    import asyncio, sys, types
    sys.modules["conjoint"] = types.ModuleType("conjoint")  # another Python, with no conjoint
    sys.modules["conjoint"].__path__ = [sys.argv[1]]
    from conjoint.rewards.sandbox.base import Program, SandboxConfig
    from conjoint.rewards.sandbox.local.jail import LocalJail
    async def main():
        jail = LocalJail(SandboxConfig(isolation=sys.argv[2], workers=2))
        await jail.start()
        print(jail._directory, flush=True)
        await asyncio.gather(*(jail.run(Program("import time; time.sleep(9)")) for _ in range(2)))
        await jail.close()
    asyncio.run(main())
""")


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_nothing_outlives_a_killed_parent(driver: Any, tier: str) -> None:
    if driver.jail.tier != tier:
        pytest.skip("the other tier's turn")
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(_REPOSITORY), tier], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    directory = parent.stdout.readline().strip()
    assert _until(lambda: len(_children(parent.pid)) >= 6)
    tree = _children(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _until(lambda: not any(map(_alive, tree)))
    # What the dead pool left on disk goes with the next pool that starts.
    next_pool = LocalJail(SandboxConfig(isolation=tier, workers=1))
    with asyncio.Runner() as loop:
        loop.run(next_pool.start())
        loop.run(next_pool.close())
    assert not os.path.exists(directory)


def test_unprivileged_users_get_a_jail_too(driver: Any) -> None:
    python = shutil.which("python3", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to become somebody else, and a Python that all may read")
    code = _PARENT.replace("time.sleep(9)", "print(0)").replace(
        "print(jail._directory", "print(jail.tier"
    )
    ran = subprocess.run(
        [python, "-B", "-c", code, str(_REPOSITORY), driver.jail.tier],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if "SyntaxError" in ran.stderr or "cannot import" in ran.stderr:
        pytest.skip(f"{python} is too old for conjoint")
    assert ran.stdout.strip() == driver.jail.tier, ran.stderr


def test_an_open_door_at_start_refuses_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "EXPECTED", b"what no jail says\n")
    jail = LocalJail(SandboxConfig())
    with asyncio.Runner() as loop, pytest.raises(SandboxUnavailable) as caught:
        loop.run(jail.start())
    assert set(caught.value.probes) == {"namespaces", "landlock"}
    assert "attacks tried at start" in str(caught.value)
    assert caught.value.hint in str(caught.value)
    assert isinstance(caught.value, ConjointError)
    assert jail.tier == ""


def test_auto_takes_namespaces_first_and_landlock_next(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = worker.Worker.start
    refused = driver.jail.tier == "landlock"

    async def no_namespaces(spec: Any) -> Any:
        if refused and spec.tier == "namespaces":
            raise worker.WorkerBroken("unshare(0x10000000): Operation not permitted")
        return await begin(spec)

    monkeypatch.setattr(worker.Worker, "start", staticmethod(no_namespaces))
    jail = LocalJail(SandboxConfig(workers=1))
    with asyncio.Runner() as loop:
        loop.run(jail.start())
        assert jail.tier == driver.jail.tier
        loop.run(jail.close())


def test_a_machine_without_landlock_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(spec: Any) -> Any:
        raise worker.WorkerBroken(f"{spec.tier} refused")

    monkeypatch.setattr(worker.Worker, "start", staticmethod(refuse))
    with asyncio.Runner() as loop, pytest.raises(SandboxUnavailable, match="landlock refused"):
        loop.run(LocalJail(SandboxConfig(isolation="landlock")).run(Program("")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("isolation", "none"),
        ("mode", "spawn"),
        ("wall_s", 0.0),
        ("wall_s", float("nan")),
        ("cpu_s", 0),
        ("memory_mb", 1),
        ("scratch_mb", 0),
        ("output_kb", 0),
        ("workers", -1),
    ],
)
def test_wrong_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConjointError, match=f"sandbox.{key}"):
        SandboxConfig(**{key: value}).validate()


def test_a_jail_of_no_known_tier_is_not_made() -> None:
    with pytest.raises(ConjointError, match=r"sandbox\.isolation is .none."):
        LocalJail(SandboxConfig(isolation="none"))


_SETTINGS: dict[str, tuple[Any, str, bytes]] = {
    # key: (a value, a script, what it prints under that value and not under the default)
    "wall_s": (0.3, "import time\ntime.sleep(0.8)\nprint(1)", b""),
    "cpu_s": (1, "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])", b"1\n"),
    "memory_mb": (128, "import mmap\nmmap.mmap(-1, 110 << 20)\nprint(1)", b""),
    "scratch_mb": (1, "open('x', 'wb').write(bytes(3 << 20))\nprint(1)", b""),
    "output_kb": (1, "print('x' * 2000)", b"x" * 1024),
    # A fresh Python has imported nothing that the program did not ask for.
    "mode": ("exec", "import sys\nprint('sqlite3' in sys.modules)", b"False\n"),
}


def test_every_setting_does_something() -> None:
    others = {"isolation", "workers", "backend", "remote", "e2b", "http"}  # see test_backends
    assert {f.name for f in fields(SandboxConfig)} == set(_SETTINGS) | others


@pytest.mark.parametrize("key", _SETTINGS)
def test_setting_changes_what_a_program_may_do(start: Any, driver: Any, key: str) -> None:
    value, source, wanted = _SETTINGS[key]
    limits = {"wall_s": 10.0, "cpu_s": 5, "workers": 1, key: value}
    changed = start(driver.jail.tier, **limits)
    assert changed.script(source).stdout == wanted
    changed.close()
    if key != "cpu_s":
        assert driver.script(source).stdout != wanted


def test_workers_is_how_many_run_at_once(start: Any) -> None:
    jail = start("namespaces", workers=1)
    jail.scripts(["print(1)"] * 4)
    assert len(jail.jail._workers) == 1
    jail.close()
    jail = start("namespaces", workers=3)
    jail.scripts(["import time\ntime.sleep(0.3)"] * 3)
    assert len(jail.jail._workers) == 3
    jail.close()


def test_scratch_is_emptied_whatever_lies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    room = tmp_path / "room"
    room.mkdir()
    (room / "moved-2").write_text("in the way")
    (room / "link").symlink_to(outside)
    before = os.getcwd()
    os.chdir(room)
    for _ in range(60):
        os.mkdir("d" * 100)
        os.symlink(outside, "l")
        os.chdir("d" * 100)
    os.mkdir("closed", 0)
    os.chdir(before)
    with pytest.raises(OSError, match="too long"):
        scratch.used_bytes(str(room))
    monkeypatch.setattr(scratch, "MAX_INODES", 50)
    with pytest.raises(OSError, match="more than 50 files"):
        scratch.used_bytes(str(room))
    scratch.empty(str(room))
    assert os.listdir(room) == []
    assert (outside / "keep").exists()
    scratch.remove(str(room))
    scratch.remove(str(room))
    assert not room.exists()
