"""The reward of critic tasks: a judge prompt whose right verdict a verifier knows.

Here an unreadable verdict is a wrong answer and scores 0: the policy is the one being trained to
give readable verdicts, so a mask would let it skip the hard pairs.
"""

from collections.abc import Mapping
from typing import Any

from conjoint.envs.types import ConjointError, Group, Score, Status, Task
from conjoint.rewards.base import Example, RewardContext
from conjoint.rewards.judge.pairs import grade
from conjoint.rewards.judge.prompt import judge_messages, parse_verdict, verdict_text

SCORE_NAME = "critic"


def validate_reference(reference: Any) -> None:
    """`{"better": "A"}` or `{"better": "B"}`; raises ConjointError for anything else."""
    if not isinstance(reference, Mapping) or reference.get("better") not in ("A", "B"):
        raise ConjointError('expected {"better": "A" or "B"}, the answer that is right')


async def critic_reward(group: Group, context: RewardContext) -> list[Score]:
    """1 for the right verdict, 0.5 for a tie, 0 for a wrong or unreadable one."""
    right, template = group.task.reference["better"], group.task.meta.get("template", "full")
    scores = []
    for trajectory in group.trajectories:
        if trajectory.status not in (Status.COMPLETED, Status.TRUNCATED):
            scores.append(Score.infra_error(SCORE_NAME, "the verdict was not finished"))
            continue
        verdict = parse_verdict(trajectory.response, template)
        said = "an unreadable verdict" if verdict is None else verdict.winner
        scores.append(
            Score.of(SCORE_NAME, grade(verdict, right), f"said {said}; the right one is {right}")
        )
    return scores


def examples() -> list[Example]:
    """A judge prompt, its right verdict, and replies that could be read as two or as none."""
    question = Task.make("math", "What is 7 times 8?", "56")
    task = Task.make(
        SCORE_NAME,
        judge_messages(question, "7 times 8 is 56.", "7 times 8 is 54.", (), "full"),
        {"better": "A"},
        {"template": "full"},
    )
    right, wrong = verdict_text("A", "full"), verdict_text("B", "full")
    cheats = {
        "the other answer": wrong,
        "both verdicts": f"{right}\n{wrong}",
        "one object with both": '{"better": "A", "better": "B"}',
        "the verdict in a sentence": f"My verdict is {right}, without doubt.",
        "the verdict in thoughts": f"<think>\n{right}\n</think>",
    }
    return [Example(task, right, cheats)]
