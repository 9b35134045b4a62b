"""Real workers that are killed or stopped while they generate; a sender and a driver that are
killed. Every request is answered once, with the tokens of an undisturbed run, and nothing stays.

The workers are plain ones: what is tried is the driver's side, which is the same for all engines.
vLLM's own processes die in tests/e2e/test_in_flight.py, and one by one in `make proofs`.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from conjoint.envs.marks import DRIVER_MARK
from conjoint.envs.types import StopRun
from conjoint.rl.run.checkpoint import read_checkpoint
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.weight_sync import PausedSync, WeightSyncConfig
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.belongings import marked
from conjoint.rollouts.engine.worker_set import EngineWorker
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.e2e.conftest import COMMAND, PLAIN, SMALL
from tests.e2e.shared_engines import LocalLearner
from tests.fakes import tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
on_one_loop = pytest.mark.asyncio(loop_scope="session")

REQUESTS, TOKENS = 12, 400
ACTOR = "ray::PlainActor"
VLLM_ROLES = ("ray::", "VLLM::EngineCore", "VLLM::Worker")  # Ray's actor, and what it starts
MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "eos_token_id": None,  # every answer is TOKENS long
}


def segments_here() -> set[str]:
    """Shared memory of engines and weights that no living process maps: other tests may have
    theirs. The jail sweeps its folders when it next starts."""
    names = {path.name for path in Path("/dev/shm").iterdir()}
    found = {n for n in names if re.match(r"psm_|conjoint-\d", n)}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            text = maps.read_text(encoding="utf-8", errors="replace")
            found -= {n for n in found if f"/dev/shm/{n}" in text}
    return found


def until(what: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@dataclass
class Bench:
    """Two workers that hold other weights than their folder's, and what they answer undisturbed."""

    engine: Any
    sync: Callable[[int], Awaitable[None]]
    """Sends the same weights as some version."""
    reference: list[list[int]]

    def ask(self) -> "list[asyncio.Task[Any]]":
        return [
            asyncio.ensure_future(
                self.engine(
                    [7, i + 1, 9], max_tokens=TOKENS, temperature=0.7, seed=i, session=f"s{i}"
                )
            )
            for i in range(REQUESTS)
        ]

    async def worker(self, slot: int) -> EngineWorker:
        """The one in this slot, once it is up."""
        async with asyncio.timeout(400):
            while not self.engine._set.slots[slot].up:
                await asyncio.sleep(0.1)
        return self.engine._set.slots[slot]


def config(backend: str) -> RolloutConfig:
    return RolloutConfig(
        backend=backend, engines=2, threads=1, max_tokens=TOKENS, max_model_len=2048,
        heartbeat_s=1.0, hang_timeout_s=20.0, start_timeout_s=400.0,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def two_workers(folder: Path, backend: str) -> AsyncIterator[Bench]:
    from conjoint.rollouts.engine.driver import VllmEngine

    before, others = segments_here(), set(marked(DRIVER_MARK))
    engine = VllmEngine.launch(str(tiny_llama(folder, **MODEL)), config(backend), 0, "shm")
    path = buffer_path("faults")
    learner = LocalLearner(folder)
    learner.disturb()
    sync = PausedSync(WeightSyncConfig(), SharedMemorySender(path), 256, 0)
    try:
        await engine.ready([], 600)
        made = Bench(engine, lambda version: sync(learner, engine, version), [])  # type: ignore[arg-type]
        await made.sync(1)
        made.reference = [c.tokens for c in await asyncio.gather(*made.ask())]
        assert [len(tokens) for tokens in made.reference] == [TOKENS] * REQUESTS
        assert len({tuple(tokens) for tokens in made.reference}) == REQUESTS
        yield made
    finally:
        await engine.close()
        os.unlink(path)
    assert until(lambda: set(marked(DRIVER_MARK)) <= others, 30), marked(DRIVER_MARK)
    assert until(lambda: segments_here() <= before, 30), segments_here() - before


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench(
    ray_running: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    async with two_workers(tmp_path_factory.mktemp("model") / "tiny", "transformers") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vllm_bench(
    ray_running: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    async with two_workers(tmp_path_factory.mktemp("model") / "tiny", "vllm") as made:
        yield made


@pytest.mark.parametrize(("slot", "number"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
@on_one_loop
async def test_no_answer_is_lost_or_doubled_when_a_worker_is_lost(
    bench: Bench, slot: int, number: int
):
    await lose(bench, slot, number, ACTOR)


CASES = [(number, role) for number in (signal.SIGKILL, signal.SIGSTOP) for role in VLLM_ROLES]


@pytest.mark.proof
@pytest.mark.parametrize(("case", "number", "role"), [(i, *c) for i, c in enumerate(CASES)])
@on_one_loop
async def test_no_answer_is_lost_or_doubled_when_a_process_of_vllm_is_lost(
    vllm_bench: Bench, case: int, number: int, role: str
):
    """Alternately on both workers, so that the other of the two may still be starting."""
    await lose(vllm_bench, case % 2, number, role)


async def lose(bench: Bench, slot: int, number: int, role: str) -> None:
    """Send a signal to a worker's process while it generates."""
    worker = await bench.worker(slot)
    bench.engine.drain_metrics()
    owned = worker.belongings.note()
    (pid,) = (p for p in owned if " ".join(psutil.Process(p).cmdline()).startswith(role))
    asked = bench.ask()
    # The moment when it holds answers, none of which has ended.
    async with asyncio.timeout(60):
        while not worker.load:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert worker.load and not any(task.done() for task in asked)
    held = worker.load
    os.kill(pid, number)

    answers = await asyncio.wait_for(asyncio.gather(*asked), 500)
    assert [answer.tokens for answer in answers] == bench.reference
    assert {answer.version for answer in answers} == {1}
    metrics = bench.engine.drain_metrics()
    assert metrics["engine/deaths"] == 1.0 and metrics["engine/requeued"] == held
    # A process that is being taken down loses its mark before it is gone.
    gone = await asyncio.to_thread(until, lambda: not worker.belongings.processes(), 30)
    assert gone and await asyncio.to_thread(until, lambda: not alive(owned), 30)
    assert not any(os.path.exists(path) for path in worker.belongings.segments)


def alive(pids: list[int]) -> list[int]:
    """Those that have not ended; a zombie has."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


@on_one_loop
async def test_half_written_weights_are_refused_and_never_sampled(bench: Bench):
    await bench.worker(0)
    await bench.worker(1)
    engine = bench.engine
    await engine.pause()
    sent = engine._sent
    with open(sent.path, "r+b") as buffer:
        buffer.write(b"\1" * (sent.nbytes // 2))
    with pytest.raises(StopRun, match=r"did not load weights: .*arrived damaged"):
        await engine.load_weights(sent, 1)
    await engine.resume()
    with pytest.raises(StopRun, match="must not sample"):
        await engine([7], max_tokens=1, temperature=1.0, seed=0)
    await bench.sync(2)  # whole ones mend it
    answers = await asyncio.gather(*bench.ask())
    assert [answer.tokens for answer in answers] == bench.reference
    assert {answer.version for answer in answers} == {2}


@on_one_loop
async def test_a_fourth_death_in_a_row_ends_the_run(bench: Bench):
    """The last test of these workers. Each dies as its actor begins: a process that dies before is
    none to Ray, which starts another for the same actor a minute later."""
    workers, engine = [], bench.engine
    row = engine._set._in_a_row[1]  # an earlier case may have begun it
    async with asyncio.timeout(300):
        while engine._set._stop is None:
            worker = engine._set.slots[1]
            for pid in await asyncio.to_thread(worker.belongings.processes):
                with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                    if " ".join(psutil.Process(pid).cmdline()).startswith(ACTOR):
                        workers.append(worker)
                        os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
    with pytest.raises(StopRun, match=r"\S+-1 died 4 times in a row.*rollout.max_deaths=3"):
        await engine.pause()
    assert len(set(workers)) == 4 - row


@on_one_loop
async def test_a_worker_that_cannot_start_is_told_with_its_traceback(
    tmp_path: Path, ray_running: None
):
    from conjoint.rollouts.engine.driver import VllmEngine

    cfg = RolloutConfig(backend="transformers")  # a folder without a model
    engine = VllmEngine.launch(str(tmp_path), cfg, 0, "shm")
    with pytest.raises(StopRun, match=r"-0 did not start(.|\n)*config.json"):
        await engine.ready([], 300)
    assert not engine._set.slots[0].belongings.processes()


# -- the whole command --------------------------------------------------------------------------

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def half(runs: Path) -> tuple[Path, set[str], str]:
    """A run whose learner is killed in the middle of a send: its folder, the segments before it,
    and what it said."""
    path, before = runs / "half", segments_here()
    words = [
        *SMALL,
        *PLAIN,
        f"run_dir={path}",
        "eval.tasks=0",
        "eval.judge_pairs=0",
        "checkpoint.every=1",
        "num_steps=100",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.half_sender", "quickstart", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout
    return path, before, done.stdout


def test_a_sender_killed_half_way_ends_the_run_and_leaves_its_checkpoint(half):
    path, before, said = half
    assert re.search(r"^stopped: a learner rank died in stage 'send_weights'", said, re.M)
    assert read_checkpoint(path / "checkpoints")[1] == 2
    assert until(lambda: segments_here() <= before, 30), segments_here() - before


def test_a_killed_driver_leaves_nothing(half):
    path, before, _ = half
    driver = subprocess.Popen(
        [str(COMMAND), "train", f"resume={path}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    steps = path / "metrics.jsonl"
    resumed = until(lambda: sum("loss/policy" in r for r in read_jsonl(steps)) >= 3, 600)
    started = psutil.Process(driver.pid).children(recursive=True)
    assert resumed and len(started) > 5
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert until(lambda: segments_here() <= before, 20), segments_here() - before
    read_checkpoint(path / "checkpoints")
