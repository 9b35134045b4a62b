"""The reward of critic tasks: a judge prompt whose right verdict a verifier knows.

Here an unreadable verdict is a wrong answer and scores 0: the policy is the one being trained to
give readable verdicts, so a mask would let it skip the hard pairs.
"""

from rewards.base import RewardContext
from rewards.judge_prompt import parse_verdict
from rewards.pairs import grade
from rl.types import Group, Score, Status

SCORE_NAME = "critic"


async def critic_reward(group: Group, context: RewardContext) -> list[Score]:
    """1 for the right verdict, 0.5 for a tie, 0 for a wrong or unreadable one."""
    right, template = group.task.reference["better"], group.task.meta["template"]
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
