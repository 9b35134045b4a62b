"""One run as the loop sees it: verbs such as sync, evaluate and save, each over several parts.

The parts themselves stand in `rl/parts.py`; `rl/build.py` puts them together.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError, Group, StopRun, Task, derive_seed
from conjoint.rewards.assign import assign_rewards
from conjoint.rewards.lengths import Toggle
from conjoint.rl.algo.staleness import staleness_metrics
from conjoint.rl.config.tree import Config
from conjoint.rl.evaluate import Evaluation, Evaluator, heldout_mean
from conjoint.rl.learner.batch import Batch
from conjoint.rl.parts import Learning, Progress, Record, Sampling, Scoring
from conjoint.rl.report.load import task_scores
from conjoint.rl.report.summary import outcome, write_summary
from conjoint.rl.resume.replay import write_dump
from conjoint.rl.run.checkpoint import checkpoint_step, finished_checkpoints, prune, save_checkpoint
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.run.guard import Guard, NonfiniteStop
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rl.run.metrics import is_flat, plain_words, step_metrics
from conjoint.rl.stats.calibration import calibration_metrics, calibration_words, from_rows
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.scheduler import Hooks, Scheduler


@dataclass(slots=True)
class System:
    """One run: its parts, how far it is, and the verbs of the loop that concern several parts."""

    cfg: Config
    sampling: Sampling
    scoring: Scoring
    learning: Learning
    evaluator: Evaluator
    guard: Guard
    record: Record
    interrupt: Interrupt
    toggle: Toggle
    """The length limits of `budget.toggle`."""
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)
    """Monotonic time at which this sitting began, or at which the last checkpoint was saved."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Further parts that must end with the run: the jail, plug-ins, the weight buffer."""
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        hooks = Hooks(self.sampling.mixture.next, self.limits, self._score, self._is_flat)
        engine, collector = self.sampling.engine, self.sampling.collector
        self.scheduler = Scheduler(self.cfg.rollout, engine, collector, hooks)

    @property
    def step(self) -> int:
        """Steps done; also the version of the weights."""
        return self.progress.step

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
        return await self.scoring.scorer.score(group, derive_seed(self.cfg.seed, step), step)

    def _is_flat(self, group: Group) -> bool:
        """Whether every answer has a reward and all rewards are equal: such a group teaches
        nothing. A group with an ungraded answer is not flat, so that the stop rules see it."""
        cfg = self.cfg
        limits = self.toggle.limits_at(self.step)
        assign_rewards([group], cfg.budget, cfg.reward.weights, self.step, limits)
        rewards = [t.reward for t in group.trajectories]
        return None not in rewards and is_flat(group)

    async def sync(self, version: int) -> None:
        """Send the learner's weights to the engines. Unfinished answers go on with them."""
        await self.learning.weight_sync(
            self.learning.learner, self.sampling.engine, version=version
        )
        self.scheduler.advance(version)

    async def pause_unless_overlapping(self) -> None:
        """Pause the engines during the update, unless `rollout.overlap` lets them sample on. The
        weight sync resumes them."""
        if not self.cfg.rollout.overlap:
            await self.sampling.engine.pause(drain=not self.cfg.rollout.partial)

    @property
    def ptx_weight(self) -> float:
        return self.cfg.ptx.weight_at(self.step, self.cfg.num_steps)

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, held-out mean) of the best checkpoint; None without `checkpoint.keep_best`."""
        steps = map(checkpoint_step, finished_checkpoints(self.record.folder.checkpoints))
        scored = [
            (self.progress.scores[step], step) for step in steps if step in self.progress.scores
        ]
        if not (self.cfg.checkpoint.keep_best and scored):
            return None
        mean, step = max(scored)
        return step, mean

    def check_batch(self, groups: Sequence[Group]) -> dict[str, float]:
        """Apply the stop rules to the scored groups. Returns the judge's length bias and the ages
        of the tokens. Raises StopRun.

        The rollouts are stored first: they hold the reasons of a stop.
        """
        self.record.folder.write_rollouts(self.step + 1, groups)
        self.guard.check_batch(step_metrics(groups))
        bias = self.guard.check_judge(self.scoring.judge.drain_longer_wins())
        return bias | staleness_metrics(groups, self.step, self.cfg.rollout.max_staleness)

    def batch(self, groups: Sequence[Group]) -> Batch:
        """The batch of this step."""
        return self.learning.batch(self.cfg, groups, self.ptx_weight)

    async def check_update(self, metrics: dict[str, float], batch: Batch) -> None:
        """Apply the stop rules to the update. A batch with a number that is not finite is stored
        for `conjoint train replay=`. Raises StopRun."""
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
            self.record.console.message(f"batch stored in {await self._dump(batch, 0)}")

    async def _dump(self, batch: Batch, updates_applied: int) -> Path:
        step = self.step + 1
        return await write_dump(
            self.record.folder.dump_of(step),
            batch,
            self.learning.learner,
            self.cfg,
            step=step,
            updates_applied=updates_applied,
        )

    def log_step(self, groups: Sequence[Group], metrics: dict[str, float]) -> None:
        """Log the metrics of the step that has just ended, to trackers and console."""
        split = self.record.clock.split()
        for phase, seconds in split.items():
            self.progress.time_split[phase] = self.progress.time_split.get(phase, 0.0) + seconds
        sampled = sum(t.num_sampled for g in groups for t in g.trajectories)
        figures = {
            **step_metrics(groups),
            **self.toggle.metrics(self.step - 1),
            **metrics,
            **self.scoring.drain_metrics(),
            **self.sampling.mixture.metrics(),
            **self.scheduler.drain_metrics(),
            **self.sampling.engine.drain_metrics(),
            **{f"time/{phase}": seconds for phase, seconds in split.items()},
            "tokens_per_s": sampled / max(sum(split.values()), 1e-9),
            "temperature": groups[0].trajectories[0].temperature,
            "version": float(self.step),
            "probe_gap": self.learning.weight_sync.last_probe_gap,
        }
        self.record.trackers.log(self.step, figures)
        self.record.console.step(self.step, figures, plain_words(groups))

    async def evaluate(self, tag: str) -> Evaluation:
        self.record.console.message(f"evaluating on held-out tasks ({tag}) ...")
        with self.record.clock.phase("evaluate"):
            start = read_jsonl(self.record.folder.eval_of("start"))
            found = await self.evaluator.evaluate(tag, start)
            for name, rows in found.rows.items():
                self.record.folder.write_eval(name, rows)
            self._show_calibration(found.rows.get(tag, []))
            if (mean := heldout_mean(found.rows.get(tag, []))) is not None:
                self.progress.scores[self.step] = mean
            if figures := found.figures | await self.learning.heldout_ptx_loss(self.cfg.learner):
                self.record.trackers.log(self.step, figures)
        self.record.clock.split()
        return found

    def _show_calibration(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show and log the calibration of stated confidences, for each kind that states them."""
        for kind in sorted({row["kind"] for row in rows if "confidence" in row}):
            stated = from_rows(row for row in rows if row["kind"] == kind)
            self.record.console.message(f"{kind}: {calibration_words(stated)}")
            figures = calibration_metrics(stated) if stated else {"confidence_missing": 1.0}
            self.record.trackers.log(
                self.step, {f"heldout_{k}/{kind}": figures[k] for k in figures}
            )

    async def mind_critic(self, found: Evaluation, tag: str) -> None:
        """Act on an evaluation of the critic: stop the run if it got worse, or promote the live
        critic to the judge. Raises StopRun."""
        live = found.rows.get(f"judge_{tag}", [])
        start = read_jsonl(self.record.folder.eval_of("judge_start"))
        self.guard.check_critic(task_scores(start), task_scores(live))
        held = found.rows.get(f"judge_snapshot_{tag}", [])
        if self.scoring.snapshot and held:
            said = await self.scoring.snapshot.promote_if_better(
                self.learning.learner, self.step, live, held
            )
            self.record.console.message(said)

    async def evaluate_at_start(self) -> None:
        self.record.clock.split()
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
        """Evaluate for the last time; after an early end by a signal, save a checkpoint."""
        if self.step == self.cfg.num_steps and not self.interrupt.stopped:
            await self.interrupt.until_stopped(self.evaluate("end"))
            prune(self.record.folder.checkpoints, self.cfg.checkpoint, self.progress.scores)
        if self.interrupt.stopped:
            await self.save()

    async def save(self) -> None:
        self.progress.wall_s += time.monotonic() - self.started
        self.started = time.monotonic()
        root = self.record.folder.checkpoints
        await self.scheduler.take_out()
        await save_checkpoint(
            root, self.step, self.learning.learner, self.state(), self.scoring.snapshot
        )
        self.scheduler.go_on()
        prune(root, self.cfg.checkpoint, self.progress.scores)
        self.record.clock.split()

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs, apart from the learner's own."""
        return {
            "mixture": self.sampling.mixture.state(),
            "scheduler": self.scheduler.state(),
            "ptx": self.learning.ptx.state() if self.learning.ptx else None,
            "guard": self.guard.state(),
            "toggle": self.toggle.state(),
            "snapshot": self.scoring.snapshot.state() if self.scoring.snapshot else None,
            "scores": self.progress.scores,
            "time_split": self.progress.time_split,
            "wall_s": self.progress.wall_s,
        }

    def load_state(self, step: int, state: dict[str, Any]) -> None:
        self.progress.step = step
        self.sampling.mixture.load_state(state["mixture"])
        self.scheduler.load_state(state["scheduler"])
        if self.learning.ptx:
            self.learning.ptx.load_state(state["ptx"])
        self.guard.load_state(state["guard"])
        self.toggle.load_state(state["toggle"])
        self.progress.scores = {int(step): mean for step, mean in state["scores"].items()}
        self.progress.time_split = dict(state["time_split"])
        self.progress.wall_s = state["wall_s"]

    def write_summary(self) -> None:
        rollout, learner = self.cfg.rollout, self.cfg.learner
        summary = write_summary(
            self.record.folder,
            engine=rollout.in_words(),
            learner=f"{learner.ranks} DeepSpeed rank(s), ZeRO {learner.zero_stage}, "
            f"{learner.dtype}",
            wall_s=self.progress.wall_s + time.monotonic() - self.started,
            best=self.best,
        )
        self.record.trackers.summarise(outcome(summary))

    async def close(self) -> None:
        """End every part. No process that the run started outlives it."""
        self.record.trackers.finish()
        await self.scheduler.close()
        await asyncio.gather(self.sampling.engine.close(), self.learning.learner.close())
        for close in self.closers:
            await close()
