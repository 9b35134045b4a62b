"""Attacks that need more than a verdict to be seen through, in both tiers; the others are rows of
`attacks.py`, `forgeries.py` and `native.py`, which test_matrix.py runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conjoint.rewards.sandbox.base import Ended

SOAK = "conjoint.scripts.bench.rewards.soak"


def test_an_end_says_why_and_its_stderr_is_capped(driver: Any) -> None:
    flood = "import os\nfor _ in range(999): os.write(2, b'x' * 9999)\nraise SystemExit(4)"
    result = driver.script(flood)
    assert (result.ended, result.reason[:27]) == (Ended.ERROR, "ended with exit status 4: x")
    assert len(result.stderr) <= (64 << 10) + 1


def test_waiting_without_cpu_is_stopped_by_the_clock(driver: Any, start: Any) -> None:
    quick = start(driver.jail.tier, wall_s=1.0)
    sleepers = [
        "import time\ntime.sleep(60)",
        "import threading\nthreading.Thread(target=threading.Event().wait).start()",
    ]
    for result in quick.scripts(sleepers):
        assert (result.ended, result.reason) == (Ended.TIMEOUT, "ran longer than 1 s")
    quick.close()


def test_x32_abi_is_killed(driver: Any, blocked: Any) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an ABI of x86_64")
    result = driver.script(blocked("libc.syscall(0x40000000 + 39)"))
    assert result.ended is Ended.ERROR
    assert "SIGSYS" in result.reason


def test_thread_bomb_is_bounded(driver: Any) -> None:
    source = (
        "import threading, time\nthreading.stack_size(32768)\nn = 0\ntry:\n"
        "    for n in range(6000):\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "except RuntimeError: pass\nprint(n, flush=True)\nimport os; os._exit(0)"
    )
    result = driver.script(source)
    assert result.ended in (Ended.FINISHED, Ended.TIMEOUT, Ended.ERROR)
    if driver.jail.tier == "namespaces" or os.geteuid() == 0:
        assert int(result.stdout) < 64


def test_nothing_is_left_for_the_next_program(driver: Any) -> None:
    litter = (
        "import os\nopen('a', 'w').write('x')\nos.symlink('/etc', 'etc')\nos.mkfifo('p')\n"
        "os.mkdir('moved-1')\nos.mkdir('closed', 0)\nleft = 'TRACE-' + 'a77'\n"
        "for _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    )
    look = (
        "import gc, os\nprint(os.listdir('.'))\nmark = 'TRACE-' + 'a77'\n"
        "print([o for o in gc.get_objects() if isinstance(o, dict) and mark in o.values()"
        " and o.get('mark') != mark])"
    )
    for _ in range(driver.jail.config.workers):
        driver.script(litter)
    for result in driver.scripts([look] * 4):
        assert result.stdout == b"[]\n[]\n", result


@pytest.mark.parametrize("mode", ["fork", "exec"])
def test_many_jobs_leave_nothing_behind(driver: Any, mode: str) -> None:
    """The small version of `conjoint bench rewards bench.soak=10000`."""
    if (driver.jail.tier, mode) == ("landlock", "exec"):
        pytest.skip("what is exec'd leaves nothing else there than in the other tier")
    done = subprocess.run(
        [sys.executable, "-m", SOAK, driver.jail.tier, mode, "100"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("growth_mb") < 5, result["resident_mb"]
    del result["resident_mb"]
    assert set(result) == {"processes", "files", "segments", "descriptors", "restarts"}
    assert not any(result.values()), result


def test_stdin_arrives_whole_and_ends(driver: Any) -> None:
    text = b"line\n" * 100_000
    result = driver.script("import sys\nprint(len(sys.stdin.read()))\nprint(input())", text)
    assert result.stdout == b"500000\n"
    assert "EOFError" in result.reason


def test_the_same_program_gives_the_same_output(driver: Any) -> None:
    source = "import random\nprint(random.random(), {'a', 'b', 'c', 'd'}, hash('x'))"
    assert len({result.stdout for result in driver.scripts([source] * 6)}) == 1


def test_result_names_the_tier(driver: Any) -> None:
    assert driver.script("").tier == driver.jail.tier in ("namespaces", "landlock")
