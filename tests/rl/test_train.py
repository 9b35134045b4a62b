"""The loop with a fake engine and a fake learner: what happens in a step, and in which order."""

import asyncio
import json
import re
import signal
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from conjoint.envs.base import SingleTurn
from conjoint.envs.confidence import ASK
from conjoint.envs.types import Score, StopRun, Task
from conjoint.rewards.combine import each
from conjoint.rewards.judge.critic import critic_reward
from conjoint.rewards.judge.judge import Judge, rubric_reward
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rl.algo.ptx import PtxStream
from conjoint.rl.build import Judges, assemble
from conjoint.rl.config.compose import load_config
from conjoint.rl.critic.snapshot import CriticSnapshot
from conjoint.rl.parts import Learning, Record
from conjoint.rl.resume.replay import read_dump
from conjoint.rl.run.console import RunConsole, Stopwatch
from conjoint.rl.run.folder import RunFolder, read_jsonl
from conjoint.rl.run.metrics import Trackers
from conjoint.rl.system import System
from conjoint.rl.tasks import build_tasks, nano_ptx_rows
from conjoint.rl.train import train
from conjoint.rl.weight_sync import PausedSync
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.fakes import CharRenderer, FakeEngine, FakeLearner

SMALL = [
    "experiment=quickstart",
    "num_steps=3",
    "rollout.groups_per_step=8",
    "rollout.group_size=4",
    "rollout.max_tokens=40",
    "rollout.max_model_len=4000",
    "learner.tokens_per_microbatch=8000",
    "learner.updates_per_batch=1",
    "budget.tokens={}",
    "budget.default=30",
    "eval.tasks=4",
    "eval.judge_pairs=6",
    "eval.every=0",
    "ptx.rows_per_step=2",
    "judge.template=compact",
    "judge.pairs_per_answer=1",
    "checkpoint.every=2",
    "tracking.wandb=false",
]


def answer(prompt: str, seed: int) -> str:
    """A policy that is right, wrong or too long by turns, and judges by a coin."""
    if "Judge:" in prompt:
        return "AB"[seed % 2]
    return ("right", "wrong", "x" * 90)[seed % 3]


async def check(task: Task, response: str) -> Score:
    return Score.of("check", float(response == "right"), f"said {response[:8]}")


async def broken(task: Task, response: str) -> Score:
    raise OSError("the grader is down")


class NoSignal(SimpleNamespace):
    """An `Interrupt` that is told by the test when to stop."""

    stopped = False
    signal: int | None = None

    async def until_stopped(self, work):
        task = asyncio.ensure_future(work)
        if self.stopped:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return await task


def build(
    path: Path,
    *overrides: str,
    verifier=check,
    engine: FakeEngine | None = None,
    rows: int = 8,
    judging: FakeEngine | None = None,
) -> System:
    cfg = load_config([*SMALL, *overrides])
    plan = build_tasks(cfg)
    folder = RunFolder.create(path, "fake")
    folder.write_config(asdict(cfg))
    engine = engine or FakeEngine(answer)
    renderer = CharRenderer()
    judge = Judge(cfg.judge)
    rewards = {kind: {"check": each("check", verifier)} for kind in ("math", "code", "instruction")}
    rewards["open"] = {"rubric": rubric_reward(judge, load_rubrics(["clarity"]))}
    rewards["critic"] = {"critic": critic_reward}
    weight_sync = PausedSync(cfg.weight_sync, None, 100, 0)  # type: ignore[arg-type]
    snapshot = None
    if judging is not None:
        sender = SharedMemorySender(str(folder.path / "weights"))
        margin = cfg.judge.promotion_margin
        snapshot = CriticSnapshot(judging, folder.path, sender, margin, weight_sync.probe)
    ptx = PtxStream(nano_ptx_rows(rows), renderer, cfg.ptx, 0) if cfg.ptx.weight else None
    console = RunConsole(cfg.num_steps, Console(quiet=True))
    return assemble(
        cfg,
        plan,
        renderer,  # type: ignore[arg-type]
        engine,
        Learning(FakeLearner(), weight_sync, ptx),  # type: ignore[arg-type]
        Judges(judge, rewards, snapshot),
        Record(folder, Trackers.open(cfg.tracking, folder), console, Stopwatch()),
        NoSignal(),  # type: ignore[arg-type]
    )


def metrics(system: System) -> list[dict]:
    """One row a step; evaluations have rows of their own, from before the first step on."""
    return [row for row in read_jsonl(system.record.folder.metrics) if "groups" in row]


async def test_a_step_syncs_before_it_samples_and_after_it_trains(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    assert system.sampling.engine.loads == [0, 1, 2, 3]  # type: ignore[attr-defined]
    assert system.learning.learner.versions == [0, 1, 2]  # type: ignore[attr-defined]
    assert [row["step"] for row in metrics(system)] == [1, 2, 3]


async def test_every_trained_token_carries_the_version_that_sampled_it(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    for step in (1, 2, 3):
        for row in read_jsonl(system.record.folder.rollouts_of(step)):
            versions = {v for v, s in zip(row["versions"], row["sampled"], strict=True) if s}
            assert versions == {step - 1} and row["engine"] == "fake-0"


async def test_critic_tasks_come_from_verified_groups_of_the_step_before(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    kinds = [{r["kind"] for r in read_jsonl(system.record.folder.rollouts_of(s))} for s in (1, 2)]
    assert "critic" not in kinds[0] and "critic" in kinds[1]
    row = next(r for r in read_jsonl(system.record.folder.rollouts_of(2)) if r["kind"] == "critic")
    assert "right" in row["messages"][0]["content"] and "wrong" in row["messages"][0]["content"]


async def test_truncated_answers_get_the_penalty_and_are_counted(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    rows = [r for r in read_jsonl(system.record.folder.rollouts_of(1)) if r["kind"] == "math"]
    cut = [r for r in rows if r["status"] == "truncated"]
    assert cut and {r["reward"] for r in cut} == {system.cfg.budget.penalty}
    assert metrics(system)[0]["truncated/math"] == pytest.approx(len(cut) / len(rows))


async def test_a_scheduled_budget_cuts_answers_shorter_step_by_step(tmp_path: Path):
    keys = ("budget.tokens.math=30", "budget.schedule=linear", "budget.end_tokens={math: 10}")
    system = build(tmp_path / "run", *keys)
    await train(system)
    for step, cap in ((1, 30), (2, 20), (3, 10)):
        rows = [
            r for r in read_jsonl(system.record.folder.rollouts_of(step)) if r["kind"] == "math"
        ]
        cut = {r["num_tokens"] for r in rows if r["status"] == "truncated"}
        assert cut == {cap} == {r["budget"] for r in rows}
        assert metrics(system)[step - 1]["budget/math"] == cap
    start, end = (read_jsonl(system.record.folder.eval_of(tag)) for tag in ("start", "end"))
    assert [r["num_tokens"] for r in start] == [r["num_tokens"] for r in end], "the same caps"


TOGGLE = (
    "num_steps=6",
    "budget.toggle={every: 1, kinds: [math, code, instruction], estimate_steps: 2, min_score: 0.1}",
    "budget.default=100",
    "rollout.max_tokens=120",
    "rollout.groups_per_step=16",
    "eval.tasks=0",
    "eval.judge_pairs=0",
)


def wordy(prompt: str, seed: int) -> str:
    """Right, and by turns short or three times as long."""
    return "AB"[seed % 2] if "Judge:" in prompt else "right" + "!" * (seed % 3 * 9)


async def right_somewhere(task: Task, response: str) -> Score:
    return Score.of("check", float("right" in response))


async def test_toggle_takes_the_scores_of_long_answers_in_every_other_phase(tmp_path: Path):
    system = build(tmp_path / "run", *TOGGLE, verifier=right_somewhere, engine=FakeEngine(wordy))
    await train(system)
    rows = metrics(system)
    assert [row["toggle/phase"] for row in rows] == [1, 1, 0, 1, 0, 1]
    assert "toggle_limit/math" not in rows[0] and rows[2]["toggle_limit/math"] == 15
    assert {row["toggle_limit/math"] for row in rows[1:]} == {15}
    for step, row in enumerate(rows, 1):
        answers = [
            r for r in read_jsonl(system.record.folder.rollouts_of(step)) if r["kind"] == "math"
        ]
        long = {r["reward"] for r in answers if r["num_tokens"] > 15}
        assert long == ({0.0} if row["toggle/phase"] == 0 else {1.0})
        assert {r["reward"] for r in answers if r["num_tokens"] <= 15} == {1.0}
        assert (row.get("above_limit/math", 0) > 0) is (row["toggle/phase"] == 0)


async def test_a_resumed_run_toggles_as_if_it_had_never_stopped(tmp_path: Path):
    """Stopped while limits are still collected, and again when they are set."""
    keys = (*TOGGLE, "checkpoint.every=1", "checkpoint.keep=9")

    def system(name: str) -> System:
        engine = FakeEngine(wordy)
        return build(tmp_path / name, *keys, verifier=right_somewhere, engine=engine)

    whole = system("whole")
    await train(whole)
    for step in (1, 4):
        place = whole.record.folder.checkpoints / f"step-{step:06d}"
        state = json.loads((place / "state.json").read_text())
        resumed = system(f"from-{step}")
        resumed.load_state(step, state)
        resumed.sampling.engine.version = step
        await train(resumed)
        for later in range(step + 1, 7):
            ours, theirs = (
                read_jsonl(s.record.folder.rollouts_of(later)) for s in (resumed, whole)
            )
            assert [r["reward"] for r in ours] == [r["reward"] for r in theirs]
        keys_of = [k for k in metrics(whole)[-1] if k.startswith("toggle")]
        assert [metrics(resumed)[-1][k] for k in keys_of] == [
            metrics(whole)[-1][k] for k in keys_of
        ]


async def test_the_nucleus_of_a_kind_reaches_the_engine_and_the_batch(tmp_path: Path):
    asked: dict[str, set[float]] = {}

    class Listening(FakeEngine):
        async def __call__(self, tokens, *, top_p: float = 1.0, **how):
            text = CharRenderer().text(tokens)
            asked.setdefault("judge" if "Judge:" in text else "policy", set()).add(top_p)
            return await super().__call__(tokens, top_p=top_p, **how)

    keys = ["rollout.top_p.math=0.75", "loss.old=learner"]
    system = build(tmp_path / "run", *keys, engine=Listening(answer))
    await train(system)
    assert asked == {"policy": {1.0, 0.75}, "judge": {1.0}}
    rows = read_jsonl(system.record.folder.rollouts_of(1))
    assert {(r["kind"], r["top_p"]) for r in rows if r["kind"] in ("math", "code")} == {
        ("math", 0.75),
        ("code", 1.0),
    }
    for batch in system.learning.learner.batches:  # type: ignore[attr-defined]
        for micro in (m for u in batch.updates for shard in u.shards for m in shard):
            math = micro.kinds == batch.kinds.index("math")
            assert (micro.top_ps == [0.75 if m else 1.0 for m in math]).all()


async def test_ptx_rows_are_in_the_batch_of_the_policy(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    for batch in system.learning.learner.batches:  # type: ignore[attr-defined]
        assert batch.ptx_weight > 0
        assert all(u.num_ptx_tokens > 0 and u.num_tokens > 0 for u in batch.updates)


async def test_the_ptx_weight_follows_its_schedule(tmp_path: Path):
    keys = ("ptx.weight=1", "ptx.schedule=linear", "ptx.end_weight=0.4")
    system = build(tmp_path / "run", *keys)
    await train(system)
    used = [batch.ptx_weight for batch in system.learning.learner.batches]  # type: ignore[attr-defined]
    assert used == pytest.approx([1.0, 0.8, 0.6])
    assert [row["ptx/weight"] for row in metrics(system)] == used


async def test_held_out_ptx_loss_is_measured_before_between_and_after(tmp_path: Path):
    system = build(tmp_path / "run", "eval.every=2", rows=40)
    await train(system)
    rows = read_jsonl(system.record.folder.metrics)
    found = [(r["step"], r["ptx/heldout_loss"]) for r in rows if "ptx/heldout_loss" in r]
    assert found == [(0, 2.0), (2, 4.0), (3, 5.0)]
    system.write_summary()
    summary = json.loads(system.record.folder.summary.read_text())
    assert summary["ptx"] == {"start": 2.0, "end": 5.0, "diff": 3.0} and summary["steps"] == 3


async def test_the_best_checkpoint_stays(tmp_path: Path):
    keys = ("checkpoint.every=0", "checkpoint.keep=1", "checkpoint.keep_best=true", "eval.every=1")
    system = build(tmp_path / "run", "num_steps=4", *keys)

    def best_after_2(prompt: str, seed: int) -> str:
        return "right" if system.step == 2 or seed % 4 == 0 else "wrong"

    system.sampling.collector = Collector(FakeEngine(best_after_2), CharRenderer(), SingleTurn, 0)  # type: ignore[arg-type]
    system.evaluator._collector = system.sampling.collector
    await train(system)
    saved = sorted(p.name for p in system.record.folder.checkpoints.iterdir())
    assert saved == ["step-000002", "step-000004"] and system.best == (2, 1.0)


async def test_held_out_evaluation_at_start_and_end_asks_the_same(tmp_path: Path):
    system = build(tmp_path / "run")
    await train(system)
    start, end = (read_jsonl(system.record.folder.eval_of(tag)) for tag in ("start", "end"))
    assert [r["task_id"] for r in start] == [r["task_id"] for r in end] and len(start) == 12
    assert [r["response"] for r in start] == [r["response"] for r in end], "same sampling seeds"
    assert all(r["score"] == 0 for r in start if r["status"] == "truncated")
    assert read_jsonl(system.record.folder.eval_of("judge_end"))


# Ablations: one key each, visible in the metrics.


async def test_rubrics_off_leaves_the_open_kind_and_the_judge_out(tmp_path: Path):
    system = build(tmp_path / "run", "reward.rubrics=[]")
    await train(system)
    for row in metrics(system):
        assert row["judge/calls"] == 0 and "reward/open" not in row


async def test_ptx_weight_zero_leaves_ptx_out(tmp_path: Path):
    system = build(tmp_path / "run", "ptx.weight=0")
    await train(system)
    for batch in system.learning.learner.batches:  # type: ignore[attr-defined]
        assert all(u.num_ptx_tokens == 0 for u in batch.updates)


async def test_budgets_off_neither_cut_nor_penalise(tmp_path: Path):
    system = build(tmp_path / "run", "budget.enabled=false", "rollout.max_tokens=200")
    await train(system)
    for row in metrics(system):
        assert row["truncated/math"] == 0 and row["budget/math"] == 200


async def test_critic_refinement_off_makes_no_critic_tasks(tmp_path: Path):
    system = build(tmp_path / "run", "critic.refine=false")
    await train(system)
    for row in metrics(system):
        assert row["critic/tasks"] == 0 and "reward/critic" not in row


# Failures.


async def test_a_broken_grader_masks_and_then_stops_the_run_before_it_trains(tmp_path: Path):
    system = build(tmp_path / "run", verifier=broken)
    with pytest.raises(StopRun, match=r"graded|masked"):
        await train(system)
    assert not system.learning.learner.batches  # type: ignore[attr-defined]
    rows = [r for r in read_jsonl(system.record.folder.rollouts_of(1)) if r["kind"] == "math"]
    assert {r["reward"] for r in rows} == {None}
    assert "the grader is down" in rows[0]["scores"][0]["reasons"][0]


async def test_an_unreadable_judge_masks_its_own_kind_only(tmp_path: Path):
    engine = FakeEngine(lambda p, s: "no verdict" if "Judge:" in p else f"answer {s}")
    system = build(tmp_path / "run", "guard.max_masked_share=1", engine=engine)
    await train(system)
    first = metrics(system)[0]
    assert first["masked/open"] == 1.0 and first["masked/math"] == 0.0
    assert first["judge/unparsable_share"] == 1.0


async def test_verdicts_that_cannot_be_read_stop_the_run_above_a_share(tmp_path: Path):
    engine = FakeEngine(lambda p, s: "no verdict" if "Judge:" in p else f"answer {s}")
    system = build(tmp_path / "run", engine=engine)
    with pytest.raises(StopRun, match="100% of the open answers of this batch were masked"):
        await train(system)
    rows = [r for r in read_jsonl(system.record.folder.rollouts_of(1)) if r["kind"] == "open"]
    assert {r["reward"] for r in rows} == {None} and not system.learning.learner.batches  # type: ignore[attr-defined]


OPEN = ("tasks.open.weight=60", "critic.weight=1", "eval.tasks=0", "eval.judge_pairs=0")


def longer(prompt: str, seed: int) -> str:
    """Answers of several lengths, and a judge that only looks at them."""
    if "Judge:" not in prompt:
        return "so" + "o" * (seed % 20)
    a, b = prompt.partition("\nA: ")[2].removesuffix("<assistant>").split("\nB: ")
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


async def test_a_judge_of_length_stops_the_run_by_name(tmp_path: Path):
    keys = (*OPEN, "num_steps=12")
    system = build(tmp_path / "run", *keys, engine=FakeEngine(longer))
    with pytest.raises(StopRun, match=r"length bias: .* wins 100% .*guard\.max_longer_wins is 90%"):
        await train(system)
    rows = metrics(system)
    assert 2 < len(rows) < 12, "it needs enough groups before it fires"
    assert [row["judge/longer_wins_share"] for row in rows] == [1.0] * len(rows)
    assert "judge/longer_wins_low" not in rows[0] and 0.8 < rows[-1]["judge/longer_wins_low"] <= 0.9
    allowed = build(tmp_path / "b", *keys, "guard.max_longer_wins=1", engine=FakeEngine(longer))
    await train(allowed)
    assert len(metrics(allowed)) == 12


async def test_a_judge_that_always_says_a_gives_ties_and_no_advantage(tmp_path: Path):
    def first(prompt: str, seed: int) -> str:
        return "A" if "Judge:" in prompt else longer(prompt, seed)

    system = build(tmp_path / "run", "tasks.open.weight=20", engine=FakeEngine(first))
    await train(system)
    for step, row in enumerate(metrics(system), 1):
        assert row["judge/tie_share"] == 1.0 and row["judge/swap_consistency"] == 0.0
        answers = [
            r for r in read_jsonl(system.record.folder.rollouts_of(step)) if r["kind"] == "open"
        ]
        assert answers and {r["advantage"] for r in answers} == {0.0}
        assert {r["scores"][0]["value"] for r in answers} == {0.5}


async def test_steps_that_are_not_finite_stop_the_run_and_keep_the_batch(tmp_path: Path):
    system = build(tmp_path / "run", "guard.max_nonfinite_steps=2")

    async def skipped(batch, version):
        system.learning.learner.batches.append(batch)  # type: ignore[attr-defined]
        return {"updates": 0.0, "nonfinite": 1.0, "gap/mean": 0.0}

    system.learning.learner.step = skipped  # type: ignore[method-assign]
    place = system.record.folder.dump_of(2)
    with pytest.raises(StopRun, match=rf"for 2 steps in a row .*conjoint train replay={place}"):
        await train(system)
    dump = read_dump(place)
    assert (dump.facts["step"], dump.facts["version"]) == (2, 1)
    trained = system.learning.learner.batches[-1].updates[0].shards[0][0]  # type: ignore[attr-defined]
    assert dump.batch.updates[0].shards[0][0].tokens.tolist() == trained.tokens.tolist()
    assert (dump.model / "config.json").is_file()
    assert [row["nonfinite"] for row in metrics(system)] == [1.0]


async def test_a_step_asked_for_is_kept_before_it_is_trained(tmp_path: Path):
    system = build(tmp_path / "run", "guard.dump_steps=[2]")
    await train(system)
    assert [p.name for p in system.record.folder.dumps.iterdir()] == ["step-000002"]
    batch = system.learning.learner.batches[1]  # type: ignore[attr-defined]
    assert read_dump(system.record.folder.dump_of(2)).batch.kinds == batch.kinds
    assert system.learning.learner.saved[0].parts[-2:] == (".partial-step-000002", "learner")  # type: ignore[attr-defined]


async def test_a_signal_drops_the_step_in_flight_and_saves_a_checkpoint(tmp_path: Path):
    class Stopping(FakeEngine):
        async def __call__(self, *args, **kwargs):
            if system.step == 1:
                system.interrupt.stopped = True  # type: ignore[misc]
                system.interrupt.signal = signal.SIGTERM
            return await super().__call__(*args, **kwargs)

    system = build(tmp_path / "run", "checkpoint.every=0", engine=Stopping(answer))
    await train(system)
    saved = sorted(p.name for p in system.record.folder.checkpoints.iterdir())
    assert len(saved) == 1 and re.fullmatch(r"step-00000\d", saved[0])
    state = json.loads((system.record.folder.checkpoints / saved[0] / "state.json").read_text())
    assert state["mixture"]["draws"] == int(saved[0][-1])
    assert not system.record.folder.eval_of("end").exists()


def confident(prompt: str, seed: int) -> str:
    """Sure when right and unsure when wrong; without the question it states nothing."""
    if "Judge:" in prompt:
        assert "onfidence" not in prompt, "neither the task nor the answers of a critic pair"
        return "AB"[seed % 2]
    said = ("right", 0.9) if seed % 2 else ("wrong", 0.2)
    return f"{said[0]}\nConfidence: {said[1]}" if ASK in prompt else said[0]


ROOM = (
    "tasks.math.confidence=true",
    "budget.default=300",
    "rollout.max_tokens=300",
    "rollout.groups_per_step=16",
)


async def test_confidences_are_asked_for_paid_and_reported_for_their_kind_alone(tmp_path: Path):
    system = build(tmp_path / "run", *ROOM, engine=FakeEngine(confident))
    await train(system)
    system.write_summary()
    rows = [r for s in (1, 2, 3) for r in read_jsonl(system.record.folder.rollouts_of(s))]
    asked = [r for r in rows if "confidence" in r]
    assert {r["kind"] for r in asked} == {"math"} == {r["kind"] for r in rows if ASK in str(r)}
    paid = {r["response"]: r["reward"] for r in asked}
    assert paid == {"right": pytest.approx((1 + 0.99) / 2), "wrong": pytest.approx(0.96 / 2)}
    assert {r["kind"] for r in rows} == {"math", "code", "instruction", "open", "critic"}
    before = next(r for r in read_jsonl(system.record.folder.metrics) if "heldout_brier/math" in r)
    step = metrics(system)[0]
    assert before["step"] == 0 and before["heldout_brier/math"] < 0.05
    assert step["auroc/math"] == 1.0 and step["confidence_missing/math"] == 0.0
    assert "auroc/code" not in step and step["score/math"] < 1
    start = [r for r in read_jsonl(system.record.folder.eval_of("start")) if "confidence" in r]
    assert len(start) == 4 and all(r["correct"] == r["score"] for r in start)
    found = json.loads(system.record.folder.summary.read_text())["calibration"]
    assert set(found) == {"math"} and found["math"]["start"]["n"] == 4


async def test_weight_0_changes_no_reward_and_the_confidences_are_still_measured(tmp_path: Path):
    system = build(
        tmp_path / "run", *ROOM, "reward.weights.calibration=0", engine=FakeEngine(confident)
    )
    await train(system)
    asked = [r for r in read_jsonl(system.record.folder.rollouts_of(1)) if "confidence" in r]
    assert {(r["response"], r["reward"]) for r in asked} == {("right", 1.0), ("wrong", 0.0)}
    assert metrics(system)[1]["auroc/math"] == 1.0
