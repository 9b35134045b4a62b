"""Groups -> scores: each task kind goes to its rewards.

A reward that fails masks its own scores (`infra_error`); such a score is never trained on.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from conjoint.envs.confidence import split
from conjoint.envs.types import Group, Status, Trajectory
from conjoint.rewards.base import RewardContext, RewardFn
from conjoint.rewards.calibration import calibration_score
from conjoint.rewards.combine import guarded
from conjoint.rewards.registry import always_judged


class Scorer:
    """Scores a group with every reward of its kind."""

    def __init__(
        self,
        rewards: Mapping[str, Mapping[str, RewardFn]],
        context: RewardContext,
        confident: Collection[str] = (),
    ) -> None:
        """`rewards` is the table of `rewards/registry.py`. `confident` names the kinds whose
        answers state a confidence."""
        self._rewards = rewards
        self._context = context
        self._confident = confident

    async def score(self, group: Group, seed: int, step: int = 0) -> Group:
        """Fill `scores` of every trajectory that is not FAILED, and return the group. `seed` is for
        the draws of rewards, such as the pairs of a judge; `step` counts the steps done."""
        alive = [t for t in group.trajectories if t.status is not Status.FAILED]
        asked = group.task.kind in self._confident
        for trajectory in alive if asked else ():
            _take_confidence(trajectory)
        if alive:
            part = replace(group, trajectories=alive)
            context = replace(self._context, seed=seed, step=step)
            for name, reward in self._rewards[group.task.kind].items():
                scores = await guarded(name, reward, part, context)
                if always_judged(name):
                    scores = [replace(score, judged=True) for score in scores]
                for trajectory, score in zip(alive, scores, strict=True):
                    trajectory.scores.append(score)
        for trajectory in alive if asked else ():
            trajectory.scores.append(calibration_score(trajectory))
        return group


def _take_confidence(trajectory: Trajectory) -> None:
    """Split the stated confidence from the answer, before a reward looks at it. A truncated answer
    states none: its number may be truncated too."""
    trajectory.answer, stated = split(trajectory.last_message)
    trajectory.confidence = stated if trajectory.status is Status.COMPLETED else None
