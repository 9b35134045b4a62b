"""The parts of one run, and the verbs of the loop that concern several of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjoint.envs.mixture import Mixture
from conjoint.envs.types import ConjointError, Group, StopRun, Task, derive_seed
from conjoint.rewards.assign import assign_rewards
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.lengths import Toggle, ToggleConfig
from conjoint.rewards.sandbox.base import Sandbox
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.ptx import PtxRow, PtxStream
from conjoint.rl.algo.staleness import staleness_metrics
from conjoint.rl.config.tree import Config
from conjoint.rl.critic.snapshot import CriticSnapshot
from conjoint.rl.evaluate import Evaluation, Evaluator, heldout_mean
from conjoint.rl.learner.base import Learner
from conjoint.rl.learner.batch import Batch, heldout_batch
from conjoint.rl.models.shape import BY_TOKENS, TokenCost
from conjoint.rl.report.load import task_scores
from conjoint.rl.report.summary import outcome, write_summary
from conjoint.rl.resume.replay import write_dump
from conjoint.rl.run.checkpoint import checkpoint_step, finished_checkpoints, prune, save_checkpoint
from conjoint.rl.run.console import RunConsole, Stopwatch
from conjoint.rl.run.folder import RunFolder, read_jsonl
from conjoint.rl.run.guard import Guard, NonfiniteStop
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rl.run.metrics import Trackers, is_flat, plain_words, step_metrics
from conjoint.rl.stats.calibration import calibration_metrics, calibration_words, from_rows
from conjoint.rl.weight_sync import PausedSync
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.engine.base import RolloutEngine
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.scheduler import Hooks, Scheduler


@dataclass(slots=True)
class System:
    cfg: Config
    folder: RunFolder
    mixture: Mixture
    collector: Collector
    scorer: Scorer
    judge: Judge
    engine: RolloutEngine
    learner: Learner
    weight_sync: PausedSync
    ptx: PtxStream | None
    evaluator: Evaluator
    guard: Guard
    trackers: Trackers
    console: RunConsole
    clock: Stopwatch
    interrupt: Interrupt
    sandbox: Sandbox | None = None
    snapshot: CriticSnapshot | None = None
    """The weights that judge, where those are not the policy's own."""
    cost: TokenCost = BY_TOKENS
    """What micro-batches are balanced by."""
    toggle: Toggle = field(default_factory=lambda: Toggle(ToggleConfig()))
    """The length limits of `budget.toggle`."""
    step: int = 0
    """Steps done; also the version of the weights."""
    time_split: dict[str, float] = field(default_factory=dict)
    """Seconds by phase over the steps done."""
    scores: dict[int, float] = field(default_factory=dict)
    """Step -> held-out mean of its evaluation, for `checkpoint.keep_best`."""
    wall_s: float = 0.0
    """Seconds of earlier sittings of a resumed run."""
    started: float = field(default_factory=time.monotonic)
    """When this sitting, or the part of it that no checkpoint counts yet, began to start up."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What else must end with the run: the jail, plug-ins, the weight buffer."""
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        hooks = Hooks(self.mixture.next, self.limits, self._score, self._is_flat)
        self.scheduler = Scheduler(self.cfg.rollout, self.engine, self.collector, hooks)

    @property
    def temperature(self) -> float:
        return self.cfg.rollout.temperature.at(self.step, self.cfg.num_steps)

    def limits(self, task: Task) -> EpisodeLimits:
        rollout = self.cfg.rollout
        return EpisodeLimits(
            self.cfg.budget_of(task.kind, self.step),
            rollout.max_model_len,
            rollout.max_turns,
            self.temperature,
            rollout.top_p.get(task.kind, 1.0),
        )

    async def _score(self, group: Group, step: int) -> Group:
        return await self.scorer.score(group, derive_seed(self.cfg.seed, step))

    def _is_flat(self, group: Group) -> bool:
        """Whether every answer has a reward and all are equal. What could not be graded must stay
        in sight of the stop rules."""
        cfg = self.cfg
        limits = self.toggle.limits_at(self.step)
        assign_rewards([group], cfg.budget, cfg.reward.weights, self.step, limits)
        rewards = [t.reward for t in group.trajectories]
        return None not in rewards and is_flat(group)

    async def sync(self, version: int) -> None:
        """Give the engines the learner's weights; unfinished answers go on under them."""
        await self.weight_sync(self.learner, self.engine, version=version)
        self.scheduler.advance(version)

    async def pause_unless_overlapping(self) -> None:
        """Later waves leave the machine to the learner; the weight sync resumes them."""
        if not self.cfg.rollout.overlap:
            await self.engine.pause(drain=not self.cfg.rollout.partial)

    def ptx_rows(self) -> list[PtxRow]:
        return self.ptx.next() if self.ptx else []

    @property
    def ptx_weight(self) -> float:
        return self.cfg.ptx.weight_at(self.step, self.cfg.num_steps)

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, held-out mean) of the best checkpoint there is, None unless it is kept."""
        steps = map(checkpoint_step, finished_checkpoints(self.folder.checkpoints))
        scored = [(self.scores[step], step) for step in steps if step in self.scores]
        if not (self.cfg.checkpoint.keep_best and scored):
            return None
        mean, step = max(scored)
        return step, mean

    def check_batch(self, groups: Sequence[Group]) -> dict[str, float]:
        """Stop rules on what was graded, and how old it is. The rollouts are stored first: they
        hold the reasons."""
        self.folder.write_rollouts(self.step + 1, groups)
        self.guard.check_batch(step_metrics(groups))
        bias = self.guard.check_judge(self.judge.drain_longer_wins())
        return bias | staleness_metrics(groups, self.step, self.cfg.rollout.max_staleness)

    async def check_update(self, metrics: dict[str, float], batch: Batch) -> None:
        """Stop rules on the update just done; a batch that is not finite is stored."""
        try:
            self.guard.check_update(metrics)
        except NonfiniteStop as stop:
            try:
                place = await self._dump(batch, int(metrics.get("updates", 0)))
            except ConjointError as error:
                raise StopRun(f"{stop} The batch could not be kept: {error}") from stop
            raise StopRun(f"{stop} The batch is kept: conjoint train replay={place}") from stop

    async def dump_if_asked(self, batch: Batch) -> None:
        if self.step + 1 in self.cfg.guard.dump_steps:
            self.console.message(f"batch stored in {await self._dump(batch, 0)}")

    async def _dump(self, batch: Batch, updates_applied: int) -> Path:
        step = self.step + 1
        return await write_dump(
            self.folder.dump_of(step),
            batch,
            self.learner,
            self.cfg,
            step=step,
            updates_applied=updates_applied,
        )

    def record(self, groups: Sequence[Group], metrics: dict[str, float]) -> None:
        """Log the step just done."""
        split = self.clock.split()
        for phase, seconds in split.items():
            self.time_split[phase] = self.time_split.get(phase, 0.0) + seconds
        sampled = sum(t.num_sampled for g in groups for t in g.trajectories)
        figures = {
            **step_metrics(groups),
            **self.toggle.metrics(self.step - 1),
            **metrics,
            **self.judge.drain_metrics(),
            **(self.snapshot.drain_metrics() if self.snapshot else {}),
            **(self.sandbox.drain_metrics() if self.sandbox else {}),
            **self.mixture.metrics(),
            **self.scheduler.drain_metrics(),
            **self.engine.drain_metrics(),
            **{f"time/{phase}": seconds for phase, seconds in split.items()},
            "tokens_per_s": sampled / max(sum(split.values()), 1e-9),
            "temperature": groups[0].trajectories[0].temperature,
            "version": float(self.step),
            "probe_gap": self.weight_sync.last_probe_gap,
        }
        self.trackers.log(self.step, figures)
        self.console.step(self.step, figures, plain_words(groups))

    async def evaluate(self, tag: str) -> Evaluation:
        self.console.message(f"evaluating on held-out tasks ({tag}) ...")
        with self.clock.phase("evaluate"):
            start = read_jsonl(self.folder.eval_of("start"))
            found = await self.evaluator.evaluate(tag, start)
            for name, rows in found.rows.items():
                self.folder.write_eval(name, rows)
            self._show_calibration(found.rows.get(tag, []))
            if (mean := heldout_mean(found.rows.get(tag, []))) is not None:
                self.scores[self.step] = mean
            if figures := found.figures | await self.measure_ptx():
                self.trackers.log(self.step, figures)
        self.clock.split()
        return found

    def _show_calibration(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the confidences of held-out answers are worth, of the kinds that are asked."""
        for kind in sorted({row["kind"] for row in rows if "confidence" in row}):
            stated = from_rows(row for row in rows if row["kind"] == kind)
            self.console.message(f"{kind}: {calibration_words(stated)}")
            figures = calibration_metrics(stated) if stated else {"confidence_missing": 1.0}
            self.trackers.log(self.step, {f"heldout_{k}/{kind}": figures[k] for k in figures})

    async def measure_ptx(self) -> dict[str, float]:
        """Cross-entropy of the PTX rows that are never trained: what the policy forgets."""
        if not (self.ptx and self.ptx.heldout):
            return {}
        loss = await self.learner.ptx_loss(heldout_batch(self.ptx.heldout, self.cfg.learner))
        return {"ptx/heldout_loss": loss}

    async def mind_critic(self, found: Evaluation, tag: str) -> None:
        """What an evaluation of the critic leads to: a stop, or that it judges from now on."""
        live = found.rows.get(f"judge_{tag}", [])
        start = read_jsonl(self.folder.eval_of("judge_start"))
        self.guard.check_critic(task_scores(start), task_scores(live))
        held = found.rows.get(f"judge_snapshot_{tag}", [])
        if self.snapshot and held:
            said = await self.snapshot.promote_if_better(self.learner, self.step, live, held)
            self.console.message(said)

    async def evaluate_at_start(self) -> None:
        self.clock.split()
        if self.step == 0:
            await self.interrupt.until_stopped(self.evaluate("start"))

    async def evaluate_and_save_if_due(self) -> None:
        every, last = self.cfg.eval.every, self.cfg.num_steps
        evaluated = bool(every) and self.step % every == 0 and self.step < last
        if evaluated:
            tag = f"step-{self.step:06d}"
            found = await self.interrupt.until_stopped(self.evaluate(tag))
            if found is not None:
                await self.mind_critic(found, tag)
        if self.cfg.checkpoint.due(self.step, last, evaluated=evaluated):
            await self.save()

    async def finish(self) -> None:
        """The last evaluation or, when a signal ended the run early, a checkpoint."""
        if self.step == self.cfg.num_steps and not self.interrupt.stopped:
            await self.interrupt.until_stopped(self.evaluate("end"))
            prune(self.folder.checkpoints, self.cfg.checkpoint, self.scores)
        if self.interrupt.stopped:
            await self.save()

    async def save(self) -> None:
        self.wall_s += time.monotonic() - self.started
        self.started = time.monotonic()
        root = self.folder.checkpoints
        await self.scheduler.take_out()
        await save_checkpoint(root, self.step, self.learner, self.state(), self.snapshot)
        self.scheduler.go_on()
        prune(root, self.cfg.checkpoint, self.scores)
        self.clock.split()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs beside the learner's own state."""
        return {
            "mixture": self.mixture.state(),
            "scheduler": self.scheduler.state(),
            "ptx": self.ptx.state() if self.ptx else None,
            "guard": self.guard.state(),
            "toggle": self.toggle.state(),
            "snapshot": self.snapshot.state() if self.snapshot else None,
            "scores": self.scores,
            "time_split": self.time_split,
            "wall_s": self.wall_s,
        }

    def load_state(self, step: int, state: dict[str, Any]) -> None:
        self.step = step
        self.mixture.load_state(state["mixture"])
        self.scheduler.load_state(state["scheduler"])
        if self.ptx:
            self.ptx.load_state(state["ptx"])
        self.guard.load_state(state["guard"])
        self.toggle.load_state(state["toggle"])
        self.scores = {int(step): mean for step, mean in state["scores"].items()}
        self.time_split = dict(state["time_split"])
        self.wall_s = state["wall_s"]

    def write_summary(self) -> None:
        rollout, learner = self.cfg.rollout, self.cfg.learner
        summary = write_summary(
            self.folder,
            engine=rollout.in_words(),
            learner=f"{learner.ranks} DeepSpeed rank(s), ZeRO {learner.zero_stage}, "
            f"{learner.dtype}",
            wall_s=self.wall_s + time.monotonic() - self.started,
            best=self.best,
        )
        self.trackers.summarise(outcome(summary))

    async def close(self) -> None:
        """End every part; what the run started does not outlive it."""
        self.trackers.finish()
        await self.scheduler.close()
        await asyncio.gather(self.engine.close(), self.learner.close())
        for close in self.closers:
            await close()
