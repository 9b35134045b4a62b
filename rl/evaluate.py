"""Evaluation on held-out tasks, graded by verifiers alone.

All evaluations of a run have the same tasks and sampling seeds. A truncated answer scores 0, with
budgets on or off, so that runs can be compared. An answer that could not be graded has no score and
is counted.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from conjoint.envs.types import ConjointError, Group, Message, Status, Task, derive_seed
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.judge.pairs import same
from conjoint.rewards.judge.prompt import judge_messages
from conjoint.rewards.judge.quality import AskedPair, ask_pairs, quality
from conjoint.rewards.scoring import Scorer
from conjoint.rl.run.metrics import answer_score
from conjoint.rl.stats.calibration import stated_fields
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.episode import EpisodeLimits

if TYPE_CHECKING:
    from conjoint.envs.mixture import TaskSets

TASKS_A_SESSION = 64
"""Tasks that share a session. Evaluation samples one answer to each task, so without this each call
would travel to an engine alone."""


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Tasks, sampling and schedule of evaluations."""

    tasks: int = 1024
    """Held-out tasks of each verifiable kind; 0 turns their evaluation off."""
    seed: int = 1
    """Seed of the held-out tasks and of the judge's pairs. It does not depend on the seed of the
    run, so that runs share them. Choose settings with one value and report with another."""
    temperature: float = 1.0
    """Sampling temperature. The training schedule does not change it."""
    greedy: bool = True
    """Evaluate at temperature 0 as well."""
    open_tasks: int = 0
    """Held-out tasks of each kind that only a judge grades. The answers are stored ungraded in
    eval/open_TAG.jsonl, for `conjoint compare`."""
    judge_pairs: int = 512
    """Fixed pairs of a correct and an incorrect answer, on which the judge is tested in both
    orders. Also the largest number of pairs for its self-preference. 0 turns both tests off."""
    pairs: str = ""
    """A file of such pairs (prompt, chosen, rejected), as written by `conjoint
    data pairs`. "" generates pairs from the built-in sources of the run's kinds."""
    every: int = 0
    """Steps between evaluations, beside those at start and end; 0 makes only these two."""

    def validate(self) -> None:
        for key in ("tasks", "open_tasks", "judge_pairs", "every"):
            if getattr(self, key) < 0:
                raise ConjointError(f"eval.{key}={getattr(self, key)} must be 0 or more")
        if self.pairs and not self.judge_pairs:
            raise ConjointError("eval.pairs has no effect with eval.judge_pairs=0; raise it")
        if self.temperature <= 0:
            raise ConjointError(
                f"eval.temperature={self.temperature} must be above 0; "
                "eval.greedy adds temperature 0"
            )


def check_pairs(
    pairs: Sequence[tuple[Task, str, str]],
    judge: JudgeConfig,
    tokens: Callable[[Sequence[Message]], Sequence[int]],
    context: int,
) -> None:
    """Check that each judge prompt with its verdict fits into `context` tokens.

    `tokens` turns messages into token ids. Raises ConjointError for the first pair that is too
    long.
    """
    for number, (task, a, b) in enumerate(pairs, 1):
        prompt = judge_messages(
            task, a, b, (), judge.template, max_answer_chars=judge.max_answer_chars
        )
        if (needed := len(tokens(prompt)) + judge.max_tokens) > context:
            raise ConjointError(
                f"eval.pairs: pair {number} needs {needed} tokens as the judge is asked, and "
                f"rollout.max_model_len is {context}; raise it, lower judge.max_answer_chars or "
                "leave the pair out"
            )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of one evaluation."""

    rows: dict[str, list[dict[str, Any]]]
    """Name of a file in eval/ -> its rows, one for each answer or pair."""
    figures: dict[str, float]
    """Metrics of the policy as a judge."""


class Evaluator:
    """Measures the current policy on the held-out tasks and on the judge's fixed pairs."""

    def __init__(
        self,
        cfg: EvalConfig,
        tasks: "TaskSets",
        collector: Collector,
        scorer: Scorer,
        judge: Judge,
        context: RewardContext,
        limits: Callable[[Task], EpisodeLimits],
        snapshot: RewardContext | None = None,
    ) -> None:
        """`limits` gives the token budget of a task. `context` asks the current policy. `snapshot`,
        if given, asks the snapshot that judges, to compare it with the policy."""
        self._cfg = cfg
        self._tasks = [task for kind in tasks.heldout.values() for task in kind]
        self._open = tasks.open
        self._pairs = tasks.judge_pairs
        self._collector = collector
        self._scorer = scorer
        self._judge = judge
        self._context = context
        self._limits = limits
        self._snapshot = snapshot

    async def evaluate(self, tag: str, start: Sequence[Mapping[str, Any]] = ()) -> Evaluation:
        """Answer the held-out tasks, and test the policy as a judge.

        Answers are in the files TAG, TAG_greedy and open_TAG. Verdicts are in judge_TAG (fixed
        pairs), judge_self_TAG (pairs of the policy's own answers and those of the start) and
        judge_snapshot_TAG (fixed pairs, judged by the snapshot). `start` holds the rows of the
        evaluation at the start of the run.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        if self._tasks:
            found[tag] = await self._measure(self._cfg.temperature)
            if self._cfg.greedy:
                found[f"{tag}_greedy"] = await self._measure(0.0)
        if self._open:
            groups = [group async for group in self._answered(self._open, self._cfg.temperature)]
            found[f"open_{tag}"] = _rows(groups)
        if not self._pairs:
            return Evaluation(found, {})
        proven = await ask_pairs(self._judge, self._pairs, self._context)
        equal = await ask_pairs(
            self._judge, self._equal_pairs(found.get(tag, []), start), self._context
        )
        found[f"judge_{tag}"] = [_judge_row(pair, "judge") for pair in proven]
        if equal:
            found[f"judge_self_{tag}"] = [_judge_row(pair, "self") for pair in equal]
        figures = quality(proven, equal)
        if self._snapshot is not None:
            held = await ask_pairs(self._judge, self._pairs, self._snapshot)
            found[f"judge_snapshot_{tag}"] = [_judge_row(pair, "judge") for pair in held]
            figures["snapshot_accuracy"] = quality(held)["accuracy"]
        return Evaluation(found, {f"judge_eval/{name}": value for name, value in figures.items()})

    def _equal_pairs(
        self, now: Sequence[Mapping[str, Any]], start: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Task, str, str]]:
        """(task, answer of `now`, answer of `start`), to measure the judge's self-preference.

        Only held-out tasks whose two answers are complete, differ, and have the same score from the
        verifier, so that neither answer deserves to win.
        """
        tasks = {task.id: task for task in self._tasks}
        before = {row["task_id"]: row for row in start if row["task_id"] in tasks}
        pairs = [
            (tasks[row["task_id"]], row["response"], other["response"])
            for row in now
            if (other := before.get(row["task_id"])) is not None
            and row["status"] == other["status"] == Status.COMPLETED
            and row["score"] is not None
            and row["score"] == other["score"]
            and not same(row["response"], other["response"])
        ]
        draw = random.Random(derive_seed(self._cfg.seed, "self-preference"))
        return draw.sample(pairs, min(len(pairs), self._cfg.judge_pairs))

    async def _measure(self, temperature: float) -> list[dict[str, Any]]:
        """Answer and grade the held-out tasks; returns one row for each."""
        # A task's answer is graded while the engines still sample the others.
        scoring = [
            asyncio.create_task(self._scorer.score(group, 0))
            async for group in self._answered(self._tasks, temperature)
        ]
        return _rows(await asyncio.gather(*scoring))

    def _answered(self, tasks: Sequence[Task], temperature: float) -> AsyncIterator[Group]:
        def limits(task: Task) -> EpisodeLimits:
            return replace(self._limits(task), temperature=temperature)

        return self._collector.stream(tasks, 1, limits, tag="eval", tasks_a_session=TASKS_A_SESSION)


def _judge_row(pair: AskedPair, kind: str) -> dict[str, Any]:
    return {
        "task_id": pair.task.id,
        "kind": kind,
        "source": pair.task.kind,
        "a": pair.a,
        "b": pair.b,
        "score": pair.score,
        "said": pair.said,
    }


def heldout_mean(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean score within each kind, averaged over kinds; None if nothing was graded."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["kind"], []).append(row["score"])
    return fmean(map(fmean, scores.values())) if scores else None


def _rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [_row(group) for group in sorted(groups, key=lambda g: g.index)]


def _row(group: Group) -> dict[str, Any]:
    answer = group.trajectories[0]
    return {
        "task_id": group.task.id,
        "kind": group.task.kind,
        "prompt": group.task.prompt,
        "score": answer_score(answer),
        "status": answer.status,
        "response": answer.response,
        "num_tokens": answer.num_sampled,
        "reasons": [reason for score in answer.scores for reason in score.reasons],
        **stated_fields(answer),
    }
