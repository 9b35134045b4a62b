"""The killable pool: deadlines, deaths and start failures each have their own word."""

import asyncio
import math
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from conjoint.rewards.killable import (
    DeadlinePassed,
    FunctionRaised,
    PoolUnavailable,
    WorkerDied,
    WorkerPool,
)


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool("test", deadline_s=1.0)
    yield pool
    pool.close()


def test_it_starts_on_the_first_call_only(pool: WorkerPool) -> None:
    assert not pool.started
    assert pool.call_blocking(math.sqrt, 4.0) == 2.0
    assert pool.started


def test_a_loop_in_c_is_killed_at_its_deadline(pool: WorkerPool) -> None:
    pool.call_blocking(math.sqrt, 4.0)
    began = time.monotonic()
    with pytest.raises(DeadlinePassed, match="longer than 1 s"):
        pool.call_blocking(operator.pow, 10, 10**9)
    assert time.monotonic() - began < 5
    assert pool.call_blocking(math.sqrt, 9.0) == 3.0


def test_what_the_function_raises_is_text_and_no_deadline(pool: WorkerPool) -> None:
    for source, says in (
        ("raise TimeoutError('mine')", "TimeoutError: mine"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("bytearray(2**40)", "MemoryError"),
    ):
        with pytest.raises(FunctionRaised, match=says):
            pool.call_blocking(exec, source)


def test_a_worker_that_dies_is_reported_and_replaced(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDied, match="code 3"):
        pool.call_blocking(os._exit, 3)
    assert pool.call_blocking(math.sqrt, 9.0) == 3.0


def test_a_worker_killed_while_idle_costs_nothing(pool: WorkerPool) -> None:
    os.kill(pool.call_blocking(os.getpid), signal.SIGKILL)
    time.sleep(0.5)
    assert pool.call_blocking(math.sqrt, 9.0) == 3.0


def test_calls_beyond_the_workers_wait_their_turn(pool: WorkerPool) -> None:
    async def many() -> list[float]:
        return await asyncio.gather(*(pool.call(math.sqrt, float(i * i)) for i in range(20)))

    assert asyncio.run(many()) == [float(i) for i in range(20)]


def test_a_pool_that_cannot_start_says_so() -> None:
    pool = WorkerPool("broken", deadline_s=1.0, warm=os.abort)
    with pytest.raises(PoolUnavailable, match="broken worker pool did not start"):
        pool.call_blocking(math.sqrt, 4.0)
    pool.close()


def test_no_worker_outlives_a_killed_parent() -> None:
    program = (
        "import math, os, signal, sys, time\n"
        "from conjoint.rewards.killable import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool('test', deadline_s=60.0)\n"
        "    print(pool.call_blocking(os.getpid), flush=True)\n"
        "    pool._schedule(time.sleep, (60,), 60.0)\n"
        "    time.sleep(0.5)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=os.getcwd()
    )
    worker = int(result.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by 5 s")
