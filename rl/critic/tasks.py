"""Closed-loop critic refinement: verifiable groups become judge tasks with a known right verdict.

A group in which one answer was proven right and another wrong gives a pair; the policy is asked
blind which is correct, in the judge's own template, and trained on the answer like on any task.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conjoint.envs.types import ConjointError, Group, Status, Task, Trajectory, derive_seed
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.pairs import is_blank
from conjoint.rewards.judge.prompt import judge_messages
from conjoint.rewards.text.quoting import visible

KIND = "critic"


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """`refine` turns critic tasks on, `weight` is their share of the groups of a step beside
    tasks.KIND.weight. A step gives at most `pairs_per_step` pairs, one group `pairs_per_group`."""

    refine: bool = True
    weight: float = 0.5
    pairs_per_step: int = 4
    pairs_per_group: int = 1

    def validate(self) -> None:
        if not self.weight > 0:
            raise ConjointError(
                f"critic.weight must be above 0; got {self.weight} "
                "(to turn critic tasks off set critic.refine=false)"
            )
        for key in ("pairs_per_step", "pairs_per_group"):
            if getattr(self, key) < 1:
                raise ConjointError(
                    f"critic.{key} must be at least 1; got {getattr(self, key)} "
                    "(to turn critic tasks off set critic.refine=false)"
                )


def critic_tasks(
    groups: Sequence[Group], config: CriticConfig, seed: int, *, judge: JudgeConfig
) -> list[Task]:
    """Two blind judge tasks a pair, one in each order, so that no position ever pays by itself.

    The same groups and seed give the same tasks.
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
    return [
        _judge_task(*pair, position, judge)
        for pair in pairs[: config.pairs_per_step]
        for position in rng.sample("AB", 2)
    ]


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


def _judge_task(task: Task, right: str, wrong: str, position: str, judge: JudgeConfig) -> Task:
    a, b = (right, wrong) if position == "A" else (wrong, right)
    meta: Mapping[str, str] = {
        "template": judge.template,
        "source_kind": task.kind,
        "source_task": task.id,
    }
    messages = judge_messages(
        task, a, b, (), judge.template, max_answer_chars=judge.max_answer_chars
    )
    return Task.make(KIND, messages, reference={"better": position}, meta=meta)
