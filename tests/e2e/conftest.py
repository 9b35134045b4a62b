"""The installed command, run as a user runs it, with real Ray, vLLM and DeepSpeed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from conjoint.rollouts.engine.actor import ACTORS
from tests.e2e.shared_engines import Rig, tiny
from tests.e2e.watched_actor import WatchedActor

COMMAND = Path(sys.executable).with_name("conjoint")
NANO = [
    "sft.rows={math:700,code:200,instruction:500,open:60}",
    "sft.judge_rows=400",
    f"sft.seed={os.environ.get('NANO_SEED', 0)}",
]
"""An eighth of nano's SFT: it writes all kinds in their form, mostly wrongly. No test may depend on
what it says, which differs from machine to machine: `NANO_SEED=1 make check` makes another one."""
SMALL = [
    "num_steps=4",
    "rollout.groups_per_step=8",
    "rollout.group_size=4",
    "tasks.open.weight=8",
    "eval.tasks=16",
    "eval.judge_pairs=6",
    "checkpoint.every=2",
    "checkpoint.keep=4",
    "weight_sync.probe_every=2",
    "sandbox.wall_s=120",
    "sandbox.cpu_s=20",
    *NANO,
]
"""A quickstart in four steps, whose verdicts do not depend on how busy the machine is."""
PLAIN = ["rollout.backend=transformers"]
"""For runs that are about our own machinery: the plain engine starts in seconds, and keeps the same
contract as vLLM (tests/e2e/test_engine_contract.py)."""


@dataclass
class Ended:
    code: int
    output: str
    names: tuple[str, ...] = ()
    """Names of the processes that an interrupted command had at that moment."""


def conjoint(*args: str, timeout: float = 600, cwd: Path | None = None) -> Ended:
    """Run the command to its end."""
    done = subprocess.run(
        [str(COMMAND), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        cwd=cwd,
    )
    return Ended(done.returncode, done.stdout)


def interrupted(
    number: int, ready: Callable[[], bool], *args: str, timeout: float = 600
) -> tuple[Ended, list[psutil.Process]]:
    """Run the command and send it a signal once `ready`; also the processes it had at that time.

    The signal goes to the whole process group, as a terminal's Ctrl-C does.
    """
    process = subprocess.Popen(
        [str(COMMAND), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + timeout
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the moment to interrupt never came"
        time.sleep(0.2)
    started = psutil.Process(process.pid).children(recursive=True)
    names = tuple(filter(None, map(_name, started)))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    return Ended(process.returncode, output, names), started


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:  # a jailed program that has just ended
        return ""


def left_running(processes: list[psutil.Process]) -> list[str]:
    """Names of those that still live a moment later."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [" ".join(p.cmdline()) or p.name() for p in alive if p.status() != "zombie"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """vLLM keys by which no token ends an answer: neither ours nor the folder's."""
    from transformers import GenerationConfig

    folder = tmp_path_factory.mktemp("endless")
    GenerationConfig().save_pretrained(folder)
    return {"generation_config": str(folder)}


@pytest.fixture(scope="session")
def watched() -> Iterator[None]:
    """vLLM's actors are ones that a test can look into, those that replace them too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACTORS, "vllm", WatchedActor)
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig(
    ray_running: None,
    watched: None,
    endless: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Rig]:
    """The pair of engines of tests/e2e/shared_engines.py."""
    folder = tiny(tmp_path_factory.mktemp("models") / "tied", tied=True)
    switched = {"worker_extension_cls": "tests.e2e.faults.Switched"}
    made = Rig.launch(folder, 0.5, 256, 400, engines=2, **endless, **switched)
    try:
        await made.ready()
        yield made
    finally:
        await made.close()
