"""Held-out evaluation: the verifier alone, the same tasks and sampling seeds every time.

A truncated answer scores 0 here, with budgets on or off, so that runs can be compared; an answer
that could not be graded has no score and is counted.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rewards.base import RewardContext
from rewards.judge import Judge, judge_accuracy
from rl.calibration import stated_fields
from rl.metrics import answer_score
from rl.scoring import Scorer
from rl.types import ConjointError, Group, Task
from rollouts.collector import Collector
from rollouts.episode import EpisodeLimits

if TYPE_CHECKING:
    from rl.tasks import TaskSets

TASKS_A_SESSION = 64
"""Evaluation has no groups, so this many tasks travel to an engine together."""


@dataclass(frozen=True, slots=True)
class EvalConfig:
    tasks: int = 1024
    """Held-out tasks of each verifiable kind; 0 turns evaluation off."""
    seed: int = 1
    """Draws the held-out tasks and the judge's pairs, whatever the seed of the run: the same in
    every run unless this key changes. Choose settings with one value, report with another."""
    temperature: float = 1.0
    """Fixed over the run, whatever the training schedule does."""
    greedy: bool = True
    """Evaluate at temperature 0 too."""
    judge_pairs: int = 512
    """Fixed (correct, incorrect) pairs that the judge is tested on, both orders; 0 turns it off."""
    every: int = 0
    """Steps between evaluations besides start and end; 0: only those two."""

    def validate(self) -> None:
        if min(self.tasks, self.judge_pairs, self.every) < 0:
            raise ConjointError("eval.tasks, eval.judge_pairs and eval.every must be 0 or more")
        if self.temperature <= 0:
            raise ConjointError(
                f"eval.temperature={self.temperature} must be above 0; "
                "eval.greedy adds temperature 0"
            )


class Evaluator:
    """Knows the held-out tasks and the judge's fixed pairs; measures the policy as it is."""

    def __init__(
        self,
        cfg: EvalConfig,
        tasks: "TaskSets",
        collector: Collector,
        scorer: Scorer,
        judge: Judge,
        context: RewardContext,
        limits: Callable[[Task], EpisodeLimits],
    ) -> None:
        self._cfg = cfg
        self._tasks = [task for kind in tasks.heldout.values() for task in kind]
        self._pairs = tasks.judge_pairs
        self._collector = collector
        self._scorer = scorer
        self._judge = judge
        self._context = context
        self._limits = limits

    async def evaluate(self, tag: str) -> dict[str, list[dict[str, Any]]]:
        """{tag: rows, tag_greedy: rows, judge_tag: rows} of the current policy."""
        results: dict[str, list[dict[str, Any]]] = {}
        if self._tasks:
            results[tag] = await self._measure(self._cfg.temperature)
            if self._cfg.greedy:
                results[f"{tag}_greedy"] = await self._measure(0.0)
        if self._pairs:
            results[f"judge_{tag}"] = await self._measure_judge()
        return results

    async def _measure(self, temperature: float) -> list[dict[str, Any]]:
        def limits(task: Task) -> EpisodeLimits:
            return replace(self._limits(task), temperature=temperature)

        scoring = [
            asyncio.create_task(self._scorer.score(group, 0))
            async for group in self._collector.stream(
                self._tasks, 1, limits, tag="eval", tasks_a_session=TASKS_A_SESSION
            )
        ]
        groups = await asyncio.gather(*scoring)
        return [_row(group) for group in sorted(groups, key=lambda g: g.index)]

    async def _measure_judge(self) -> list[dict[str, Any]]:
        scores = await judge_accuracy(self._judge, self._pairs, self._context)
        return [
            {"task_id": task.id, "kind": "judge", "source": task.kind, "score": score}
            for (task, _, _), score in zip(self._pairs, scores, strict=True)
        ]


def heldout_mean(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean score of each kind, averaged over kinds; None if nothing was graded."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["kind"], []).append(row["score"])
    return fmean(map(fmean, scores.values())) if scores else None


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
