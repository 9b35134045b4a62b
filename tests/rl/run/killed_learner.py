"""A learner that is killed twice: `python -m tests.rl.run.killed_learner MODEL ROOT`.

A child trains a `LearnerRank` alone, with a checkpoint each second step, and sends itself SIGKILL
between steps 3 and 4; another goes on and does so in the middle of the save after step 4. Prints a
line of JSON for each: what ended it, and the files below ROOT. tests/rl/run/test_checkpoint_kill.py
runs it; children are forked, so that both share one import of torch and DeepSpeed.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

from conjoint.envs.types import Completion, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.run.checkpoint import finished_checkpoints, read_checkpoint, save_checkpoint

CONFIG = LearnerConfig(threads=1, zero_stage=1, updates_per_batch=2)
STEPS, EVERY = 6, 2


class Alone:
    """What the checkpoint asks of a learner, by a rank in this process."""

    def __init__(self, model: Path) -> None:
        optim = OptimConfig(lr=1e-2, schedule="cosine", warmup_updates=3)
        self.rank = LearnerRank(model, CONFIG, optim, LossConfig(), 2 * STEPS)

    async def save(self, folder: Path) -> None:
        self.rank.save(folder)


def batch(step: int) -> Batch:
    rng = random.Random(step)
    groups = []
    for index in range(4):
        members = []
        for member in range(2):
            t = Trajectory(status=Status.COMPLETED, advantage=member - 0.5)
            t.extend_context([1, rng.randrange(48)])
            answer = [rng.randrange(48) for _ in range(rng.randint(1, 6))]
            t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", step))
            members.append(t)
        groups.append(Group(Task.make("math", str(index)), members, index))
    return make_batch(groups, [PtxRow([5, 6, 7], [False, True, True])], CONFIG, 0.2)


async def train(model: Path, root: Path, fault: str = "") -> tuple[Alone, int, list[dict]]:
    """From the newest checkpoint, if there is one, to the end: learner, first step, metrics."""
    learner, first = Alone(model), 0
    if finished_checkpoints(root):
        place, first, _ = read_checkpoint(root)
        learner.rank.load(place)
    metrics = []
    for step in range(first, STEPS):
        if fault == "between" and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        metrics.append(learner.rank.step(batch(step), step))
        if (step + 1) % EVERY == 0:
            if fault == "save" and step == 3:
                kill_before_the_weights(learner)
            await save_checkpoint(root, step + 1, learner, {})  # type: ignore[arg-type]
    return learner, first, metrics


def kill_before_the_weights(learner: Alone) -> None:
    """Optimizer state is written, then the process dies instead of writing the HF folder."""
    learner.rank.module.save_pretrained = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def main(model: Path, root: Path) -> None:
    import deepspeed  # noqa: F401

    for fault in ("between", "save"):
        child = os.fork()
        if not child:
            asyncio.run(train(model, root, fault))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        files = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
        print(json.dumps([os.waitstatus_to_exitcode(status), files]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
