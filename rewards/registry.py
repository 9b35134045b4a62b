"""The one table of rewards. A run, `conjoint grade`, the probes and the report all read it.

To add a reward, write a module with a function that makes a `RewardFn` (rewards/base.py), and enter
one `Reward` in `REWARDS` below. Nothing else names it: the kinds that it pays by default, what it
asks of a reference, its examples for the probes, whether it asks a judge and its place in reports
all stand in that entry. A reward of the user's own, `module:function`, goes through the same table.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from conjoint.envs.types import CALIBRATION, ConjointError, Task
from conjoint.rewards.base import Example, RewardFn
from conjoint.rewards.code import reward as code
from conjoint.rewards.code.reward import CodeRewardConfig
from conjoint.rewards.combine import each
from conjoint.rewards.instructions import reward as instructions
from conjoint.rewards.instructions.reward import InstructionsConfig
from conjoint.rewards.judge import critic, faithfulness, judge, pointwise, safety
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.logic import reward as logic
from conjoint.rewards.math import reward as mathematics
from conjoint.rewards.plugins import PluginConfig, PluginReward, load_plugin
from conjoint.rewards.probes.cheats import stock_examples
from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS, Rubric, load_rubrics
from conjoint.rewards.sandbox.base import Sandbox, SandboxConfig

ReferenceCheck = Callable[[Any], None]
"""Raises ConjointError or ValueError for a reference that no answer can be graded by."""


@dataclass(frozen=True, slots=True)
class RewardConfig:
    kinds: dict[str, list[str]] = field(default_factory=lambda: default_kinds())
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


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run that a reward may be made from."""

    config: RewardConfig
    sandbox: Sandbox
    judge: Judge
    rubrics: Sequence[Rubric]
    isolation: str = "auto"
    """The tier of the jails that verifiers run in (`SandboxConfig.isolation`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One entry of the table."""

    name: str
    """The name in the config, and that of its scores."""
    make: Callable[[Parts], RewardFn | None]
    """Makes the reward of one run; None where the config gives it nothing to score by."""
    kinds: tuple[str, ...] = ()
    """Task kinds that it pays unless the config says otherwise."""
    validate_reference: ReferenceCheck | None = None
    """The check of a task's reference; None if the reward needs no reference."""
    fits_sandbox: Callable[[SandboxConfig, bool], ReferenceCheck] | None = None
    """For a reward that runs programs: (sandbox, whether answers are known) -> the check that this
    sandbox can do what a reference asks for."""
    examples: Callable[[], list[Example]] = stock_examples
    """Tasks with right answers and cheats: what its probes are made from."""
    asks_judge: Literal["never", "may", "always"] = "never"
    """Whether a judge is asked. The scorer marks every score of a reward that always asks one as an
    opinion (`Score.judged`); a reward that only may ask one marks them itself."""
    close: Callable[[], None] | None = None
    """Ends the processes that its verifiers share."""


_SHIPPED = (
    Reward(
        name="math",
        kinds=("math",),
        make=lambda parts: each("math", mathematics.math_verifier(parts.isolation)),
        validate_reference=mathematics.validate_reference,
        close=mathematics.close_math,
    ),
    Reward(
        name="code",
        kinds=("code",),
        make=lambda parts: code.CodeReward(parts.sandbox, parts.config.code),
        validate_reference=code.validate_reference,
        fits_sandbox=code.fits_sandbox,
        examples=code.examples,
    ),
    Reward(
        name="instructions",
        kinds=("instruction",),
        make=lambda parts: instructions.instructions_reward(parts.judge, parts.config.instructions),
        validate_reference=instructions.validate_reference,
        examples=instructions.examples,
        asks_judge="may",
    ),
    Reward(
        name="ifeval",
        make=lambda parts: instructions.instructions_reward(
            parts.judge, parts.config.instructions, "ifeval"
        ),
        validate_reference=instructions.validate_reference,
        examples=instructions.examples,
        asks_judge="may",
    ),
    Reward(
        name="logic",
        kinds=("logic",),
        make=lambda parts: each(
            "logic", logic.LogicVerifier(parts.config.logic_partial, parts.isolation)
        ),
        validate_reference=logic.validate_reference,
        examples=logic.examples,
        close=logic.close_logic,
    ),
    Reward(
        name="faithfulness",
        kinds=("faithfulness",),
        make=lambda parts: faithfulness.faithfulness_reward(parts.judge),
        validate_reference=faithfulness.validate_reference,
        examples=faithfulness.examples,
        asks_judge="always",
    ),
    Reward(
        name="safety",
        kinds=("safety",),
        make=lambda parts: safety.safety_reward(
            parts.judge, *load_rubrics([parts.config.safety_rubric])
        ),
        validate_reference=safety.validate_reference,
        examples=safety.examples,
        asks_judge="always",
    ),
    Reward(
        name="rubric",
        kinds=("open",),
        make=lambda parts: (
            pointwise.REWARDS[parts.judge.config.mode](parts.judge, parts.rubrics)
            if parts.rubrics
            else None
        ),
        examples=judge.examples,
        asks_judge="always",
    ),
    Reward(
        name="critic",
        kinds=("critic",),
        make=lambda parts: critic.critic_reward,
        validate_reference=critic.validate_reference,
        examples=critic.examples,
    ),
)

REWARDS: dict[str, Reward] = {reward.name: reward for reward in _SHIPPED}
"""Name in the config -> the reward. The order is that of reports."""

RewardTable = Mapping[str, Mapping[str, RewardFn]]
"""Task kind -> score name -> reward."""


def default_kinds() -> dict[str, list[str]]:
    """Task kind -> its rewards, where the config names none."""
    found: dict[str, list[str]] = {}
    for reward in REWARDS.values():
        for kind in reward.kinds:
            found.setdefault(kind, []).append(reward.name)
    return found


def always_judged(name: str) -> bool:
    """Whether every score of this reward is a judge's opinion, which proves nothing."""
    return name in REWARDS and REWARDS[name].asks_judge == "always"


def may_ask_judge(name: str) -> bool:
    return name in REWARDS and REWARDS[name].asks_judge != "never"


def reference_check(
    rewards: Iterable[str], sandbox: SandboxConfig | None = None, *, answers_known: bool = False
) -> ReferenceCheck | None:
    """The check of a reference by all of these rewards together; None if they need no reference.

    It raises ConjointError or ValueError for a reference that no answer can be graded by. With
    `sandbox`, also for one that this sandbox cannot grade: for some answers or, where the answers
    are known already, for all.
    """
    checks: list[ReferenceCheck] = []
    for reward in (REWARDS[name] for name in rewards if name in REWARDS):
        if reward.validate_reference is not None:
            checks.append(reward.validate_reference)
        if reward.fits_sandbox is not None and sandbox is not None:
            checks.append(reward.fits_sandbox(sandbox, answers_known))

    def check(reference: Any) -> None:
        for one in checks:
            one(reference)

    return check if checks else None


@dataclass(slots=True)
class OwnRewards:
    """Rewards of the user's own, by the name that the config gives them."""

    by_name: dict[str, PluginReward]

    def fit(
        self, names: Iterable[str], tasks: Iterable[Task], where: str, *, tokens: bool = True
    ) -> None:
        """Tell the named rewards which tasks they are asked about, and whether the answers have
        tokens. Raises ConjointError for a column that one of them asks for and none of the tasks
        has."""
        own = [self.by_name[name] for name in names if name in self.by_name]
        listed = list(tasks) if own else []
        for plugin in own:
            plugin.fit(listed, where, tokens=tokens)

    async def close(self) -> None:
        """End their workers, and those that shipped verifiers share."""
        for plugin in self.by_name.values():
            plugin.close()
        for reward in REWARDS.values():
            if reward.close is not None:
                reward.close()


def load_own_rewards(cfg: RewardConfig) -> OwnRewards:
    """Import every `module:function` once, in a worker. Raises ConjointError naming the key."""
    found: dict[str, PluginReward] = {}
    for kind, names in cfg.kinds.items():
        check_names(names, f"reward.kinds.{kind}")
        for name in names:
            if name in REWARDS or name in found:
                continue
            if ":" not in name:
                raise ConjointError(
                    f"reward.kinds.{kind} names {name!r}; known are {', '.join(REWARDS)}, and "
                    "module:function or path/to/file.py:function for one of your own"
                )
            if score_name(name) == CALIBRATION:
                raise ConjointError(
                    f"reward.kinds.{kind}: {name!r} has the name of the score that pays stated "
                    "confidences; call the function something else"
                )
            found[name] = load_own_reward(cfg, name, f"reward.kinds.{kind}")
    return OwnRewards(found)


def score_name(name: str) -> str:
    """The name of a reward's scores, and of its weight: that of a reward, or of its function."""
    return name.rpartition(":")[2]


def check_names(names: Sequence[str], key: str) -> None:
    """Raises ConjointError for two rewards whose scores would have one name."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(score_name(name), name)) != name or names.count(name) > 1:
            raise ConjointError(
                f"{key}: {other!r} and {name!r} both give a score named {score_name(name)!r}; "
                "leave one out, or call the function something else"
            )


def check_weights(weights: Mapping[str, float], names: Sequence[str], key: str) -> None:
    """Raises ConjointError unless the rewards `names` of `key` have weights of 0 or more that are
    not all 0."""
    own = {name: weights.get(score_name(name), 1.0) for name in names}
    for name, weight in own.items():
        if not 0 <= weight < math.inf:
            raise ConjointError(f"reward.weights.{score_name(name)}={weight} must be 0 or more")
    if own and not any(own.values()):
        raise ConjointError(
            f"{key}: all its rewards weigh 0, so nothing pays its answers; give one of them a "
            "weight above 0 in reward.weights"
        )


def load_own_reward(cfg: RewardConfig, name: str, key: str) -> PluginReward:
    """A reward of the user's own with its settings. Raises ConjointError naming the key."""
    low, high = cfg.ranges.get(score_name(name), (0.0, 1.0))
    return load_plugin(PluginConfig(name, deadline_s=cfg.deadline_s, low=low, high=high), key)


def reward_table(parts: Parts, own: OwnRewards) -> RewardTable:
    """The rewards of every kind of `parts.config`, made from the parts of the run."""
    entries = REWARDS | {
        name: Reward(name=plugin.name, make=functools.partial(_given, plugin))
        for name, plugin in own.by_name.items()
    }
    table: dict[str, dict[str, RewardFn]] = {}
    for kind, names in parts.config.kinds.items():
        table[kind] = {}
        for entry in (entries[name] for name in names):
            fn = entry.make(parts)
            if fn is not None:
                table[kind][entry.name] = fn
    return table


def _given(plugin: PluginReward, parts: Parts) -> RewardFn:
    return plugin
