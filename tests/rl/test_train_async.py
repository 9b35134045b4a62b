"""The loop when it samples ahead, on a fake engine: what is trained, masked, stopped and kept."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import Completion, Group, StopRun, Task, Trajectory
from conjoint.rl.algo.staleness import newest_only, staleness_metrics
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.train import train
from tests.fakes import FakeEngine
from tests.rl.test_train import answer, broken, build, metrics

AHEAD = ["rollout.max_staleness=2", "num_steps=4"]


class Patient(FakeEngine):
    """Calls that come while it is paused wait, as the contract says; each takes a few turns."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.pauses: list[bool] = []
        self._open = asyncio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Completion:
        await asyncio.sleep(0.001)
        await self._open.wait()
        return await super().__call__(*args, **kwargs)

    async def pause(self, *, drain: bool = True) -> None:
        self.pauses.append(drain)
        self._open.clear()
        await super().pause(drain=drain)

    async def resume(self) -> None:
        await super().resume()
        self._open.set()


def drawn(*versions: int) -> Trajectory:
    t = Trajectory()
    t.extend_context([5])
    n = len(versions)
    t.extend_sampled(Completion([6] * n, [-1.0] * n, "stop", versions[-1], "e", list(versions)))
    return t


async def test_steps_have_their_groups_and_no_token_is_older_than_the_bound(tmp_path: Path):
    system = build(tmp_path / "run", *AHEAD, engine=Patient())
    await train(system)
    assert [row["step"] for row in metrics(system)] == [1, 2, 3, 4]
    assert [row["groups"] for row in metrics(system)] == [8.0] * 4
    ages = [row["staleness/max"] for row in metrics(system)]
    assert max(ages) == 2 and all(age <= step for step, age in enumerate(ages))
    for row in metrics(system):
        assert sum(row[f"staleness/share_{age}"] for age in range(3)) == pytest.approx(1.0)


async def test_a_synchronous_run_has_no_old_tokens(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    assert {row["staleness/max"] for row in metrics(system)} == {0.0}


@pytest.mark.parametrize(
    ("overrides", "pauses"),
    [
        (["rollout.overlap=true"], [False] * 5),
        (["rollout.partial=false"], [True] * 5),
        (["rollout.overlap=false"], [False] * 9),
    ],
)
async def test_overlap_and_partial_decide_when_engines_pause_and_what_is_frozen(
    tmp_path: Path, overrides: list[str], pauses: list[bool]
):
    engine = Patient()
    system = build(tmp_path / "run", *AHEAD, *overrides, engine=engine)
    system.learning.weight_sync._drain = not system.cfg.rollout.partial
    await train(system)
    assert engine.pauses == pauses


def test_a_token_older_than_the_bound_stops_the_run():
    group = Group(Task.make("math", "1"), [drawn(1, 2)])
    assert staleness_metrics([group], 2, 1) == {
        "staleness/mean": 0.5,
        "staleness/max": 1.0,
        "staleness/mixed": 1.0,
        "staleness/share_0": 0.5,
        "staleness/share_1": 0.5,
    }
    with pytest.raises(StopRun, match="2 versions ago"):
        staleness_metrics([group], 3, 1)


def test_only_the_newest_segment_is_left_to_train():
    old, whole = drawn(1, 1, 2), drawn(1, 1)
    first, second = newest_only([Group(Task.make("math", "1"), [old, whole])])[0].trajectories
    assert first.sampled == [False, False, False, True]
    assert second.sampled == [False, True, True]
    assert old.sampled == [False, True, True, True], "the record stays as it was"


async def test_mask_stale_decides_what_the_learner_gets(tmp_path: Path):
    def trained(system: Any) -> int:
        return sum(u.num_tokens for batch in system.learning.learner.batches for u in batch.updates)

    class Mixed(Patient):
        """An answer sampled ahead has its last token from the next weights."""

        async def __call__(self, *args: Any, **kwargs: Any) -> Completion:
            c = await super().__call__(*args, **kwargs)
            ahead = kwargs["session"].split("/")[0] > str(c.version)
            c.versions.extend([c.version] * (len(c.tokens) - 1) + [c.version + ahead])
            return c

    counts = []
    for mask in ("false", "true"):
        system = build(
            tmp_path / mask, "rollout.max_staleness=2", f"rollout.mask_stale={mask}", engine=Mixed()
        )
        await train(system)
        counts.append(trained(system))
    assert counts[1] < counts[0]


async def test_flat_groups_are_replaced(tmp_path: Path):
    engine = FakeEngine(lambda prompt, seed: "AB"[seed % 2] if "Judge:" in prompt else "right")
    system = build(tmp_path / "run", "rollout.replace_flat=2", "num_steps=1", engine=engine)
    await train(system)
    (row,) = metrics(system)
    assert row["rollout/replaced"] > 0
    rows = read_jsonl(system.record.folder.rollouts_of(1))
    assert len({r["group"] for r in rows}) == 8


async def test_groups_that_could_not_be_graded_are_not_replaced(tmp_path: Path):
    """They stay in sight of the stop rules."""
    # Open groups are graded, by the judge, and may well be flat.
    keys = ("rollout.replace_flat=2", "num_steps=1", "tasks.open.weight=0", "critic.refine=false")
    system = build(tmp_path / "run", *keys, verifier=broken)
    with pytest.raises(StopRun, match=r"graded|masked"):
        await train(system)
    assert system.scheduler.drain_metrics()["rollout/replaced"] == 0


async def test_a_checkpoint_keeps_the_waves_under_way(tmp_path: Path):
    system = build(
        tmp_path / "run", *AHEAD, "checkpoint.every=1", "checkpoint.keep=9", engine=Patient()
    )
    await train(system)
    waves = {}
    for folder in sorted(system.record.folder.checkpoints.iterdir()):
        state = json.loads((folder / "state.json").read_text())
        waves[folder.name] = {w: len(slots) for w, slots in state["scheduler"]["waves"].items()}
    assert waves["step-000001"] == {"1": 8, "2": 8}
    assert waves["step-000004"] == {}
