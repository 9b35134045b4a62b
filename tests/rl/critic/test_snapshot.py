"""Whose weights judge: switching changes the rewards, a worse critic is not promoted, a resumed run
judges as before. The judge's engine is a fake that obeys the weights it is really sent."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.config.compose import load_config
from conjoint.rl.critic.snapshot import is_promoted
from conjoint.rl.plan import plan_words
from conjoint.rl.run.checkpoint import read_checkpoint
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.system import System
from conjoint.rl.tasks import build_tasks
from conjoint.rl.train import train
from conjoint.rollouts.weights.buffer import Receiver
from conjoint.rollouts.weights.manifest import Manifest
from tests.fakes import FakeEngine
from tests.rl.test_train import SMALL, build, metrics

KEYS = ("num_steps=4", "tasks.open.weight=20", "eval.tasks=0", "checkpoint.every=1")
PROMOTED = (*KEYS, "judge.policy=promoted", "eval.every=1", "checkpoint.keep=9")
RIGHT = {right for _, right, _ in build_tasks(load_config(SMALL)).judge_pairs}

Critic = Callable[[float], str]
"""Updates that its weights have had -> right, wrong or tie: what it says of proven pairs."""


def judge(prompt: str, updates: float, critic: Critic) -> str:
    """Before the first update it prefers the longer of two open answers, then the shorter."""
    asked, _, answers = prompt.partition("\nA: ")
    a, b = (x.replace("\n ", "\n") for x in answers.removesuffix("<assistant>").split("\nB: "))
    if "Judge: correct" in asked:
        knows = critic(updates)
        if knows == "tie" or (a in RIGHT) == (b in RIGHT):
            return "tie"
        return "A" if (a in RIGHT) == (knows == "right") else "B"
    if len(a) == len(b):
        return "tie"
    return "A" if (len(a) > len(b)) == (updates < 1) else "B"


class Judging(FakeEngine):
    """Judges by the one number that its weights hold."""

    def __init__(self, critic: Critic) -> None:
        super().__init__(lambda prompt, _: judge(prompt, self.updates, critic), loaded=False)
        self.updates = -1.0

    async def load_weights(self, sent: Any, version: int) -> str:
        assert isinstance(sent, Manifest)
        (weights,) = Receiver().receive(sent)
        self.updates = float(weights[1])
        return await super().load_weights(sent, version)


class Policy(FakeEngine):
    """Answers open tasks at several lengths; its version is the number of its updates."""

    def __init__(self, critic: Critic) -> None:
        super().__init__(lambda prompt, seed: self.say(prompt, seed, critic))

    def say(self, prompt: str, seed: int, critic: Critic) -> str:
        if "Judge:" in prompt:
            return judge(prompt, self.version, critic)
        return "so" + "o" * (seed % 20)


def knows(_: float) -> str:
    return "right"


async def started(path: Path, *keys: str, critic: Critic = knows) -> System:
    own = "judge.policy" in " ".join(keys)
    judging = Judging(critic) if own else None
    system = build(path, *keys, engine=Policy(critic), judging=judging)
    if system.scoring.snapshot:
        await system.scoring.snapshot.take(system.learning.learner, 0)
    return system


def longest_wins(system: System, step: int) -> bool:
    """Whether the longer answers of open tasks were paid more in this step."""
    rows = [r for r in read_jsonl(system.record.folder.rollouts_of(step)) if r["kind"] == "open"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["task_id"], []).append(row)
    paid = {
        max(group, key=lambda r: len(r["response"]))["scores"][0]["value"]
        for group in groups.values()
        if len({len(r["response"]) for r in group}) == len(group)
    }
    assert len(paid) == 1, "some group has four lengths, and all are paid alike"
    return paid == {1.0}


async def test_a_frozen_judge_pays_as_at_the_start_and_a_live_one_as_it_learned(tmp_path: Path):
    live = await started(tmp_path / "live", *KEYS)
    frozen = await started(tmp_path / "frozen", *KEYS, "judge.policy=frozen")
    await train(live)
    await train(frozen)
    steps = range(1, 5)
    assert [longest_wins(live, step) for step in steps] == [True, False, False, False]
    assert [longest_wins(frozen, step) for step in steps] == [True] * 4
    assert {row["judge/snapshot_version"] for row in metrics(frozen)} == {0}
    assert frozen.scoring.snapshot and frozen.scoring.snapshot.engine.loads == [0]  # type: ignore[attr-defined]
    assert "judge/snapshot_version" not in metrics(live)[0]


async def test_a_better_critic_is_promoted_and_pays_from_then_on(tmp_path: Path):
    better = await started(
        tmp_path / "run", *PROMOTED, critic=lambda updates: "right" if updates else "tie"
    )
    await train(better)
    assert [longest_wins(better, step) for step in range(1, 5)] == [True, False, False, False]
    rows = metrics(better)
    assert [row["judge/snapshot_version"] for row in rows] == [0, 1, 2, 3], "equal is not lower"
    assert [row["judge/promotions"] for row in rows] == [0, 1, 2, 3]
    held = read_jsonl(better.record.folder.eval_of("judge_snapshot_step-000001"))
    live = read_jsonl(better.record.folder.eval_of("judge_step-000001"))
    assert {r["score"] for r in held} == {0.5} and {r["score"] for r in live} == {1.0}


async def test_a_worse_critic_is_refused_and_the_snapshot_goes_on_paying(tmp_path: Path):
    worse = await started(
        tmp_path / "run", *PROMOTED, critic=lambda updates: "wrong" if updates else "right"
    )
    await train(worse)
    assert [longest_wins(worse, step) for step in range(1, 5)] == [True] * 4
    rows = metrics(worse)
    assert [row["judge/snapshot_version"] for row in rows] == [0] * 4
    assert [row["judge/promotions_refused"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["judge/promotions"] == 0
    found = [r for r in read_jsonl(worse.record.folder.metrics) if "judge_eval/accuracy" in r]
    assert [r["judge_eval/accuracy"] for r in found] == [1, 0, 0, 0, 0]
    assert {r["judge_eval/snapshot_accuracy"] for r in found} == {1.0}


async def test_the_margin_asks_for_more_than_equal(tmp_path: Path):
    asked = await started(
        tmp_path / "run",
        *PROMOTED,
        "judge.promotion_margin=0.6",
        critic=lambda updates: "right" if updates else "tie",
    )
    await train(asked)
    assert metrics(asked)[-1]["judge/promotions"] == 0
    assert is_promoted(0.75, 0.65, 0.1) and not is_promoted(0.74, 0.65, 0.1)
    assert is_promoted(0.5, 0.5, 0.0) and not is_promoted(0.499, 0.5, 0.0)


async def test_a_resumed_run_judges_with_the_snapshot_that_its_checkpoint_holds(tmp_path: Path):
    """Promoted after step 1 and never again; stopped after each step."""

    def critic(updates: float) -> str:
        return "right" if updates == 1 else "tie"

    whole = await started(tmp_path / "whole", *PROMOTED, critic=critic)
    await train(whole)
    assert [row["judge/snapshot_version"] for row in metrics(whole)] == [0, 1, 1, 1]
    files = {}
    for step in (1, 2, 3):
        place, _, state = read_checkpoint(whole.record.folder.checkpoints, f"step-{step:06d}")
        files[step] = (place / "judge" / "model.safetensors").read_bytes()
        assert state["snapshot"] == {"version": 1, "promotions": 1, "refusals": step - 1}
        resumed = build(
            tmp_path / f"from-{step}", *PROMOTED, engine=Policy(critic), judging=Judging(critic)
        )
        resumed.load_state(step, state)
        resumed.sampling.engine.version = step
        assert resumed.scoring.snapshot
        await resumed.scoring.snapshot.restore(place, state["snapshot"])
        assert resumed.scoring.snapshot.engine.updates == 1.0  # type: ignore[attr-defined]
        await train(resumed)
        for later in range(step + 1, 5):
            ours, theirs = (
                read_jsonl(s.record.folder.rollouts_of(later)) for s in (resumed, whole)
            )
            assert [r["reward"] for r in ours] == [r["reward"] for r in theirs]
        assert metrics(resumed)[-1]["judge/promotions_refused"] == 2
        kept = (resumed.record.folder.path / "judge" / "model.safetensors").read_bytes()
        assert kept == files[step]
    assert len(set(files.values())) == 1


async def test_a_promotion_leaves_the_snapshots_of_earlier_checkpoints_as_they_are(tmp_path: Path):
    system = await started(tmp_path / "run", *PROMOTED)
    await train(system)
    root = system.record.folder.checkpoints
    stored = [(root / f"step-{n:06d}/judge/model.safetensors").read_bytes() for n in (1, 2, 3)]
    assert len(set(stored)) == 3
    manifest = json.loads((root / "step-000002" / "manifest.json").read_text())
    assert "judge/model.safetensors" in manifest["sha256"]
    (root / "step-000002/judge/model.safetensors").write_bytes(b"other")
    with pytest.raises(ConjointError, match=r"judge/model\.safetensors is damaged"):
        read_checkpoint(root, "step-000002")


async def test_an_engine_that_does_not_use_what_it_was_sent_never_judges(tmp_path: Path):
    class Deaf(Judging):
        async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
            return [-1.5] * (len(tokens) - 1)

    system = build(tmp_path / "run", *KEYS, "judge.policy=frozen", judging=Deaf(knows))
    assert system.scoring.snapshot
    with pytest.raises(StopRun, match=r"differ from the learner's by 0\.5"):
        await system.scoring.snapshot.take(system.learning.learner, 0)


async def test_a_run_cannot_become_frozen_where_no_snapshot_was_kept(tmp_path: Path):
    live = await started(tmp_path / "live", *KEYS)
    await train(live)
    frozen = await started(tmp_path / "frozen", *KEYS, "judge.policy=frozen")
    assert frozen.scoring.snapshot
    place, _, state = read_checkpoint(live.record.folder.checkpoints)
    assert state["snapshot"] is None and not (place / "judge").exists()
    with pytest.raises(ConjointError, match=r"holds no snapshot of a judge"):
        await frozen.scoring.snapshot.restore(place, state["snapshot"])


async def test_a_critic_that_falls_below_its_start_stops_the_run_at_an_evaluation(tmp_path: Path):
    keys = (*KEYS, "eval.every=2", "guard.max_judge_drop=0.3")
    system = await started(
        tmp_path / "run", *keys, critic=lambda updates: "wrong" if updates else "right"
    )
    with pytest.raises(StopRun, match=r"right on 100\.0% fewer of the 6 held-out pairs"):
        await train(system)
    assert system.step == 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["judge.policy=cold"], "judge.policy must be one of live, frozen, promoted; got 'cold'"),
        (["judge.promotion_margin=0.1"], "no effect with judge.policy=live"),
        (["judge.policy=frozen", "judge.promotion_margin=0.1"], "with judge.policy=frozen"),
        (["judge.policy=promoted", "judge.promotion_margin=-0.1"], "from 0 (not lower)"),
        (["judge.policy=promoted"], "judge.policy=promoted looks at evaluations of the critic"),
        (["judge.policy=promoted", "eval.every=40"], "eval.every above 0 and below num_steps"),
        (["judge.policy=promoted", "eval.every=5", "eval.judge_pairs=0"], "eval.judge_pairs above"),
        (["guard.max_judge_drop=0.1"], "guard.max_judge_drop=0.1 looks at evaluations"),
        (
            ["judge.policy=frozen", "reward.rubrics=[]", "tasks.instruction.weight=0"],
            "no task kind has a reward that asks a",
        ),
        (
            ["judge.policy=frozen", "judge.endpoint=http://h/v1", "judge.endpoint_model=m"],
            "judge.policy=frozen has no effect with judge.endpoint",
        ),
        (
            ["judge.policy=frozen", "rollout=gpu", "learner=gpu", "weight_sync.backend=nccl"],
            "needs weight_sync.backend=shm and rollout.sleep=false",
        ),
    ],
)
def test_what_could_do_nothing_is_refused(keys: list[str], words: str):
    with pytest.raises(ConjointError) as refused:
        load_config(keys)
    assert words in str(refused.value)


def test_the_plan_says_whose_weights_judge_and_that_promotion_needs_pairs(tmp_path: Path):
    from conjoint.rl.plan import prepare
    from conjoint.scripts.rubric.shared.config import ProbeConfig, load_as

    assert not any("The judge has" in words for words in plan_words(load_config([])))
    assert any(
        "weights of the start" in w for w in plan_words(load_config(["judge.policy=frozen"]))
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1 + 1?", "reference": "2"}) + "\n")
    keys = [f"tasks.math.path={rows}", "tasks.code.weight=0", "tasks.instruction.weight=0"]
    cfg = load_config([*keys, "judge.policy=promoted", "eval.every=5"])
    with pytest.raises(ConjointError, match=r"compares critics on held-out verifiable pairs, and"):
        prepare(cfg)
    with pytest.raises(ConjointError, match=r"judge\.policy=frozen has no effect outside a"):
        load_as(ProbeConfig, ["judge.policy=frozen", "model=nano"])
