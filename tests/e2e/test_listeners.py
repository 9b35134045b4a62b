"""No part of a run can be reached from another machine, whatever it starts and whenever."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from conjoint.rl.run.folder import read_jsonl
from conjoint.rollouts.engine.belongings import DRIVER_MARK, marked
from tests.e2e.conftest import COMMAND, SMALL
from tests.e2e.shared_engines import Rig
from tests.e2e.test_gateway import AGENT
from tests.listeners import listeners, watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.mark.asyncio(loop_scope="session")
async def test_engines_listen_on_loopback_alone(rig: Rig):
    names = {pid: psutil.Process(pid).name() for pid in marked(DRIVER_MARK)}
    found = listeners([os.getpid(), *names])
    assert any("VLLM" in names[listener.pid] for listener in found if listener.pid in names)
    assert not [listener for listener in found if listener.beyond_loopback]


@pytest.mark.proof
def test_at_no_moment_does_a_run_listen_beyond_loopback(runs: Path, tmp_path: Path):
    """Two learner ranks, vLLM for the policy and for a judge of its own, and an agent."""
    (tmp_path / "mine.py").write_text(AGENT)
    path = runs / "listeners"
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(COMMAND), "quickstart", *SMALL, f"run_dir={path}", "num_steps=2",
             "rollout.max_turns=3", "eval.tasks=0", "eval.judge_pairs=0", "learner.ranks=2",
             "judge.policy=frozen", f"tasks.math.agent.run={tmp_path}/mine.py:twice"],
            stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_ADDRESS": "192.0.2.1:6379"},
        )  # fmt: skip
        driver = psutil.Process(process.pid)

        def processes() -> list[int]:
            try:
                return [process.pid, *(p.pid for p in driver.children(recursive=True))]
            except psutil.NoSuchProcess:
                return []

        with watched(processes, 0.1) as found:
            process.wait(timeout=1500)
    assert process.returncode == 0, log.read_text()
    assert any(row["metrics"].get("agent/turns") for row in
               read_jsonl(path / "rollouts/step-000001.jsonl"))  # fmt: skip
    commands = " ".join(found.values())
    for part in ("conjoint", "gcs_server", "raylet", "ray::RankActor", "ray::EngineActor", "VLLM"):
        assert part in commands, (part, commands)
    assert process.pid in {listener.pid for listener in found}
    open_ones = {listener: words for listener, words in found.items() if listener.beyond_loopback}
    assert not open_ones
