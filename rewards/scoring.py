"""Groups -> scores: routes each task kind to its rewards; their failures stay out of training."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from conjoint.envs.confidence import split
from conjoint.envs.types import Group, Status, Trajectory
from conjoint.rewards.base import RewardContext, RewardFn
from conjoint.rewards.calibration import calibration_score
from conjoint.rewards.code.reward import CodeRewardConfig
from conjoint.rewards.combine import guarded
from conjoint.rewards.instructions.reward import InstructionsConfig
from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS

DEFAULT_KINDS: dict[str, list[str]] = {
    "math": ["math"],
    "code": ["code"],
    "instruction": ["instructions"],
    "logic": ["logic"],
    "faithfulness": ["faithfulness"],
    "safety": ["safety"],
    "open": ["rubric"],
    "critic": ["critic"],
}


@dataclass(frozen=True, slots=True)
class RewardConfig:
    kinds: dict[str, list[str]] = field(default_factory=lambda: dict(DEFAULT_KINDS))
    """Task kind -> its rewards: math, code, instructions (or ifeval, the same), logic,
    faithfulness, safety, rubric, critic, or `module:function`."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of a reward where a kind has several; 1 where it is not named. `calibration` is that
    of stated confidences (`tasks.KIND.confidence`); 0 measures them without paying them."""
    rubrics: list[str] = field(default_factory=lambda: list(DEFAULT_RUBRICS))
    """Rubrics of the judge: shipped names or paths of YAML files. [] turns the rubric reward off,
    and kinds that have no other reward leave the mixture."""
    code: CodeRewardConfig = field(default_factory=CodeRewardConfig)
    safety_rubric: str = "safety"
    """The rubric of the safety reward: a shipped name or the path of a YAML file."""
    instructions: InstructionsConfig = field(default_factory=InstructionsConfig)
    logic_partial: bool = False
    """Pay the logic reward's partial scores too; otherwise only a score of 1 pays."""
    deadline_s: float = 10.0
    """Seconds that a reward of your own has for one call."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Function name of a reward of your own -> the numbers that mean worst and best; 0 and 1 where
    it is not named."""

    def only_rubric(self, kind: str) -> bool:
        return self.kinds.get(kind) == ["rubric"]


class Scorer:
    """Scores a group with every reward of its kind; one reward's failure masks its own scores."""

    def __init__(
        self,
        rewards: Mapping[str, Mapping[str, RewardFn]],
        context: RewardContext,
        confident: Collection[str] = (),
    ) -> None:
        """`confident` are the kinds whose answers were asked for a confidence."""
        self._rewards = rewards
        self._context = context
        self._confident = confident

    async def score(self, group: Group, seed: int) -> Group:
        """Fills `scores` of every trajectory that is not FAILED; returns the group."""
        alive = [t for t in group.trajectories if t.status is not Status.FAILED]
        asked = group.task.kind in self._confident
        for trajectory in alive if asked else ():
            _take_confidence(trajectory)
        if alive:
            part = replace(group, trajectories=alive)
            context = replace(self._context, seed=seed)
            for name, reward in self._rewards[group.task.kind].items():
                scores = await guarded(name, reward, part, context)
                for trajectory, score in zip(alive, scores, strict=True):
                    trajectory.scores.append(score)
        for trajectory in alive if asked else ():
            trajectory.scores.append(calibration_score(trajectory))
        return group


def _take_confidence(trajectory: Trajectory) -> None:
    """Before any reward looks at the answer. One that was cut off states none: the number may be
    cut as well."""
    trajectory.answer, stated = split(trajectory.last_message)
    trajectory.confidence = stated if trajectory.status is Status.COMPLETED else None
