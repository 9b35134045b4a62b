"""`conjoint bench joint`: what the judge costs. A step in which the policy judges the answers of a
quarter of the groups, beside the same step whose answers a verifier grades at no cost, and beside
one that compares all pairs. One engine and one learner do all three in turn."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ray

from conjoint.envs.types import ConjointError, Group, Task
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge, rubric_reward
from conjoint.rewards.judge.prompt import judge_messages
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rl.cluster.ray_start import start_ray
from conjoint.rollouts.renderer import Renderer
from conjoint.rollouts.weights.buffer import sweep_buffers
from conjoint.scripts.bench.config import BenchRun, Figures, against_targets
from conjoint.scripts.bench.rollout.measure import bench_model, check_cpu
from conjoint.scripts.bench.rollout.ours import Ours, forced
from conjoint.scripts.bench.rollout.parts import WARM_TOKENS, interleaved, ratio
from conjoint.scripts.bench.rollout.prefix import Recorder, shared_tokens
from conjoint.scripts.bench.rollout.questions import open_quarter


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes minutes."""
    _check(cfg)
    with tempfile.TemporaryDirectory(prefix="conjoint-bench-") as workdir:
        figures, setting = asyncio.run(_measure(cfg, Path(workdir)))
    return {
        "ratios": against_targets(figures, cfg.bench.targets),
        "setting": setting,
    }


def _check(cfg: BenchRun) -> None:
    check_cpu(cfg)
    if cfg.bench.prompts % 4:
        raise ConjointError(
            f"bench.prompts={cfg.bench.prompts}: a quarter of the groups is judged; give a "
            "multiple of 4"
        )
    if not cfg.judge.pairs_per_answer or cfg.judge.mode != "pairs" or cfg.judge.endpoint:
        raise ConjointError(
            "conjoint bench joint compares judge.pairs_per_answer=N of the policy's own verdicts "
            "with all pairs; set N to at least 1, judge.mode=pairs and no judge.endpoint"
        )
    if not cfg.reward.rubrics:
        raise ConjointError("conjoint bench joint judges by rubrics; name some in reward.rubrics")


@dataclass(slots=True)
class Asking:
    """The judge of the open groups of a step, and what it was asked in each."""

    cfg: BenchRun
    pairs_per_answer: int
    asked: list[list[list[int]]] = field(default_factory=list)
    """The prompts of each step."""
    cached: list[float] = field(default_factory=list)
    """Tokens of those that the engine found in its cache."""

    async def judge(self, ours: Ours, groups: Sequence[Group]) -> None:
        """Every verdict that a run asks for. Raises ConjointError where one could not be had: the
        time would count for work that was not done."""
        bench = self.cfg.bench
        judge = Judge(
            replace(
                self.cfg.judge,
                pairs_per_answer=self.pairs_per_answer,
                max_tokens=bench.reply_tokens,
            )
        )
        reward = rubric_reward(judge, load_rubrics(self.cfg.reward.rubrics))
        recorder = Recorder(ours.engine)
        context = RewardContext(recorder, ours.renderer, self.cfg.seed)
        ours.engine.drain_metrics()
        await asyncio.gather(*(reward(g, context) for g in groups if g.task.kind == "open"))
        self.cached.append(ours.engine.drain_metrics()["engine/cached_tokens"])
        self.asked.append(recorder.prompts)
        if judge.drain_metrics().get("judge/failed_share"):
            raise ConjointError(
                "the judge could not be asked about some pairs; look at rollout.max_model_len"
            )

    @property
    def shared(self) -> list[float]:
        """Tokens of each step's prompts before the first that an earlier one has not."""
        return [float(shared_tokens(prompts)) for prompts in self.asked]

    @property
    def words(self) -> str:
        total = sum(len(p) for prompts in self.asked for p in prompts)
        calls = sum(map(len, self.asked))
        return (
            f"{calls / len(self.asked):.0f} calls a step of {total / calls:.0f} tokens; "
            f"{sum(self.cached) / total:.1%} cached, {sum(self.shared) / total:.1%} shared with an "
            "earlier one"
        )


async def _measure(cfg: BenchRun, workdir: Path) -> tuple[Figures, dict[str, Any]]:
    bench = cfg.bench
    model, name = await bench_model(cfg)
    tasks = open_quarter(bench.prompts)
    tokens = longest(cfg, Renderer.load(model), tasks)
    check_context(model, tokens)
    rollout = forced(cfg.rollout, tokens, workdir)
    ours = None
    sweep_buffers()
    await asyncio.to_thread(start_ray, cfg.cluster)
    try:
        ours = await Ours.start(cfg, model, rollout, learner=True)
        figures, said = await arms(ours, tasks)
    finally:
        if ours is not None:
            await ours.close()
        await asyncio.to_thread(ray.shutdown)
    setting = {
        "model": name,
        "threads": cfg.learner.threads,
        "answers": f"{bench.prompts} x {bench.group_size} of {bench.answer_tokens} tokens",
        "judge": f"{cfg.judge.template}, pairs_per_answer {cfg.judge.pairs_per_answer}, both "
        f"orders, replies of {bench.reply_tokens} tokens, {bench.prompts // 4} of {bench.prompts} "
        "groups",
    }
    return figures, setting | said


def longest(cfg: BenchRun, renderer: Renderer, tasks: Sequence[Task]) -> int:
    """Tokens that the longest sequence may have. An answer quoted as text may have more tokens than
    it was sampled with; twice as many is more than was seen."""
    rubrics = load_rubrics(cfg.reward.rubrics)
    asked = (judge_messages(t, "", "", rubrics, cfg.judge.template) for t in tasks)
    quoted = max(len(renderer.prompt(messages)) for messages in asked)
    answer = cfg.bench.answer_tokens
    plain = max(len(renderer.prompt(task.messages)) for task in tasks)
    return max(plain + answer, quoted + 4 * answer + cfg.bench.reply_tokens)


def check_context(model: Path, tokens: int) -> None:
    """Raises ConjointError for a model whose context does not hold so many tokens."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    most = config.get("max_position_embeddings", tokens)
    if tokens > most:
        raise ConjointError(
            f"the judge's prompts may have {tokens} tokens, and the model's context holds {most}; "
            "set judge.template=compact or a smaller bench.answer_tokens"
        )


async def arms(ours: Ours, tasks: Sequence[Task]) -> tuple[Figures, dict[str, Any]]:
    """The three kinds of step, interleaved. All train on the same rewards of token ids: verdicts
    are asked for and not used, so that each arm trains as many tokens."""
    cfg, bench = ours.cfg, ours.cfg.bench
    asking: dict[str, Asking | None] = {
        "verifiable": None,
        "joint": Asking(cfg, cfg.judge.pairs_per_answer),
        "round robin": Asking(cfg, 0),
    }
    splits: dict[str, list[dict[str, float]]] = {name: [] for name in asking}
    trained: set[int] = set()

    def arm(name: str, judge: Asking | None) -> Any:
        asked = None if judge is None else partial(judge.judge, ours)

        async def seconds(_: int) -> float:
            split, tokens = await ours.step(tasks, bench.answer_tokens, asked)
            splits[name].append(split)
            trained.add(tokens)
            return sum(split.values())

        return seconds

    warm = Asking(cfg, cfg.judge.pairs_per_answer)
    await ours.step(tasks, WARM_TOKENS, partial(warm.judge, ours))
    runs = await interleaved({n: arm(n, judge) for n, judge in asking.items()}, bench.repeats)
    if len(trained) != 1:
        raise ConjointError(f"the steps differ in work: {sorted(trained)} tokens trained")
    joint, all_pairs = asking["joint"], asking["round robin"]
    assert joint is not None and all_pairs is not None
    hits = {"cached": joint.cached, "shared": joint.shared}
    shared = sum(hits["shared"])
    figures: Figures = {
        "judge_overhead": (
            ratio(runs, "joint", "verifiable"),
            {name: runs[name] for name in ("joint", "verifiable")},
        ),
        "judge_shared_hits": (sum(joint.cached) / shared if shared else 0.0, hits),
    }
    said = {
        "step, s": {
            name: {phase: round(median(s[phase] for s in some), 2) for phase in some[0]}
            for name, some in splits.items()
        },
        "judge prompts": joint.words,
        "round robin": {
            "over verifiable": round(ratio(runs, "round robin", "verifiable"), 2),
            "runs, s": [round(seconds, 2) for seconds in runs["round robin"]],
            "cached over shared": round(sum(all_pairs.cached) / sum(all_pairs.shared), 3),
            "prompts": all_pairs.words,
        },
    }
    return figures, said
