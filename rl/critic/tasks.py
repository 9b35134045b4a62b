"""Closed-loop critic refinement: verifiable groups become judge tasks with a known right verdict.

A group in which one answer was proven right and another wrong gives a pair; the policy is asked
blind which is correct, in the judge's own template, and trained on the answer like on any task.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from conjoint.envs.types import ConjointError, Group, Status, Task, Trajectory, derive_seed
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.pairs import is_blank
from conjoint.rewards.judge.prompt import judge_messages
from conjoint.rewards.text.quoting import visible

KIND = "critic"

Pair = tuple[Task, str, str]
"""A verifiable task, a right answer to it and a wrong one."""


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """`refine` turns critic tasks on, `weight` is their share of the groups of a step beside
    tasks.KIND.weight. A step gives as many pairs as the mixture will ask for, at most
    `pairs_per_step` unless that is null; one group gives at most `pairs_per_group`."""

    refine: bool = True
    weight: float = 0.5
    pairs_per_step: int | None = None
    pairs_per_group: int = 1

    def validate(self) -> None:
        if not self.weight > 0:
            raise ConjointError(
                f"critic.weight must be above 0; got {self.weight} "
                "(to turn critic tasks off set critic.refine=false)"
            )
        for key in ("pairs_per_step", "pairs_per_group"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConjointError(
                    f"critic.{key} must be at least 1; got {value} "
                    "(to turn critic tasks off set critic.refine=false)"
                )


def critic_tasks(
    groups: Sequence[Group],
    config: CriticConfig,
    seed: int,
    *,
    judge: JudgeConfig,
    due: int,
    step: int,
) -> list[Task]:
    """Two blind judge tasks a pair, one in each order, so that no position ever pays by itself.

    `due` is the number of tasks that a step asks for; an odd one is rounded up to whole pairs. More
    would wait in the queue and grow old. Kinds of task take turns. `step` is that of the groups,
    by which the age of a task is known when it is trained on. The same arguments give the same
    tasks.
    """
    if not config.refine:
        return []
    rng = random.Random(derive_seed(seed, "critic"))
    pairs = [
        (group.task, right, wrong)
        for group in groups
        for right, wrong in answer_pairs(group, rng)[: config.pairs_per_group]
    ]
    rng.shuffle(pairs)
    wanted = (due + 1) // 2
    if config.pairs_per_step is not None:
        wanted = min(wanted, config.pairs_per_step)
    return [
        _judge_task(pair, position, judge, step)
        for pair in _kinds_in_turn(pairs)[:wanted]
        for position in rng.sample("AB", 2)
    ]


def critic_ages(groups: Sequence[Group], step: int) -> dict[str, float]:
    """How many steps before `step` the answers in its critic tasks were trained on; empty without
    critic tasks. Judging them teaches less, the more the policy has changed since."""
    made = [g.task.meta.get("step") for g in groups if g.task.kind == KIND]
    ages = [step - source for source in made if source is not None]  # None: by an older version
    if not ages:
        return {}
    return {"critic/age_mean": sum(ages) / len(ages), "critic/age_max": float(max(ages))}


def _kinds_in_turn(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs in an order in which no kind of task comes twice before each other had its turn."""
    by_kind: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair[0].kind, []).append(pair)
    return [pair for turn in zip_longest(*by_kind.values()) for pair in turn if pair is not None]


def answer_pairs(group: Group, rng: random.Random) -> list[tuple[str, str]]:
    """(right, wrong) answers of one group, no text used twice, in an order drawn from `rng`.

    Only finished answers with a complete grade count; a text graded both ways is left out.
    """
    if group.task.kind == KIND:
        return []
    right: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for trajectory in group.trajectories:
        value = verified(trajectory)
        if value in (0.0, 1.0) and not is_blank(trajectory.response):
            found = right if value == 1.0 else wrong
            found.setdefault(visible(trajectory.response).strip(), trajectory.response)
    both = right.keys() & wrong.keys()
    rights = [text for key, text in right.items() if key not in both]
    wrongs = [text for key, text in wrong.items() if key not in both]
    rng.shuffle(rights)
    rng.shuffle(wrongs)
    return list(zip(rights, wrongs, strict=False))


def verified(trajectory: Trajectory) -> float | None:
    """The lowest verifier score of a finished answer; None if truncated, failed or not verified.

    A judge's own score proves nothing and is not counted, nor is that of a stated confidence.
    """
    if trajectory.status is not Status.COMPLETED:
        return None
    values = [score.value for score in trajectory.checks if not score.judged]
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def _judge_task(pair: Pair, position: str, judge: JudgeConfig, step: int) -> Task:
    task, right, wrong = pair
    a, b = (right, wrong) if position == "A" else (wrong, right)
    meta: Mapping[str, Any] = {
        "template": judge.template,
        "source_kind": task.kind,
        "source_task": task.id,
        "step": step,
    }
    messages = judge_messages(
        task, a, b, (), judge.template, max_answer_chars=judge.max_answer_chars
    )
    return Task.make(KIND, messages, reference={"better": position}, meta=meta)
