"""Reward names of the config -> reward functions, by task kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from conjoint.envs.types import CALIBRATION, ConjointError
from conjoint.rewards.base import Example, RewardFn
from conjoint.rewards.code import reward as code
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.combine import each
from conjoint.rewards.instructions import reward as instructions
from conjoint.rewards.instructions.reward import instructions_reward
from conjoint.rewards.judge import critic, faithfulness, judge, safety
from conjoint.rewards.judge.critic import critic_reward
from conjoint.rewards.judge.faithfulness import faithfulness_reward
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.judge.pointwise import REWARDS as RUBRIC_REWARDS
from conjoint.rewards.judge.safety import safety_reward
from conjoint.rewards.logic import reward as logic
from conjoint.rewards.logic.reward import LogicVerifier, close_logic
from conjoint.rewards.math import reward as math
from conjoint.rewards.math.reward import close_math, math_verifier
from conjoint.rewards.plugins import PluginConfig, PluginReward, load_plugin
from conjoint.rewards.probes.cheats import stock_examples
from conjoint.rewards.rubrics.find import Rubric, load_rubrics
from conjoint.rewards.sandbox.base import Sandbox
from conjoint.rewards.scoring import RewardConfig

BUILT_IN = (
    "math",
    "code",
    "instructions",
    "ifeval",
    "logic",
    "faithfulness",
    "safety",
    "rubric",
    "critic",
)

_MODULES = {
    "math": math,
    "code": code,
    "instructions": instructions,
    "ifeval": instructions,
    "logic": logic,
    "faithfulness": faithfulness,
    "safety": safety,
    "rubric": judge,
    "critic": critic,
}

RewardTable = Mapping[str, Mapping[str, RewardFn]]
"""Task kind -> score name -> reward."""


@dataclass(slots=True)
class Plugins:
    """Rewards of the user's own, by the name that the config gives them."""

    by_name: dict[str, PluginReward]

    async def close(self) -> None:
        for plugin in self.by_name.values():
            plugin.close()
        close_math()
        close_logic()


def load_plugins(cfg: RewardConfig) -> Plugins:
    """Import every `module:function` once, in a worker. Raises ConjointError naming the key."""
    found: dict[str, PluginReward] = {}
    for kind, names in cfg.kinds.items():
        for name in names:
            if name in BUILT_IN or name in found:
                continue
            if ":" not in name:
                raise ConjointError(
                    f"reward.kinds.{kind} names {name!r}; known are {', '.join(BUILT_IN)}, and "
                    "module:function or path/to/file.py:function for one of your own"
                )
            if name.rpartition(":")[2] == CALIBRATION:
                raise ConjointError(
                    f"reward.kinds.{kind}: {name!r} has the name of the score that pays stated "
                    "confidences; call the function something else"
                )
            found[name] = load_own(cfg, name, f"reward.kinds.{kind}")
    return Plugins(found)


def load_own(cfg: RewardConfig, name: str, key: str) -> PluginReward:
    """A reward of the user's own with its settings. Raises ConjointError naming the key."""
    low, high = cfg.ranges.get(name.rpartition(":")[2], (0.0, 1.0))
    return load_plugin(PluginConfig(name, deadline_s=cfg.deadline_s, low=low, high=high), key)


def examples_of(name: str) -> list[Example]:
    """The examples of a shipped reward: what its probes are made from."""
    return getattr(_MODULES[name], "examples", stock_examples)()


def reward_table(
    cfg: RewardConfig,
    sandbox: Sandbox,
    judge: Judge,
    rubrics: list[Rubric],
    plugins: Plugins,
    isolation: str = "auto",
) -> RewardTable:
    """The rewards of every kind; `rubric` is left out where no rubric is chosen. `isolation` is the
    tier of the jails that verifiers run in (`SandboxConfig.isolation`)."""
    built_in: dict[str, Callable[[], RewardFn]] = {
        "math": lambda: each("math", math_verifier(isolation)),
        "code": lambda: CodeReward(sandbox, cfg.code),
        "instructions": lambda: instructions_reward(judge, cfg.instructions),
        "ifeval": lambda: instructions_reward(judge, cfg.instructions, "ifeval"),
        "logic": lambda: each("logic", LogicVerifier(cfg.logic_partial, isolation)),
        "faithfulness": lambda: faithfulness_reward(judge),
        "safety": lambda: safety_reward(judge, *load_rubrics([cfg.safety_rubric])),
        "rubric": lambda: RUBRIC_REWARDS[judge.config.mode](judge, rubrics),
        "critic": lambda: critic_reward,
    }
    table: dict[str, dict[str, RewardFn]] = {}
    for kind, names in cfg.kinds.items():
        table[kind] = {}
        for name in names:
            if name in built_in:
                if name != "rubric" or rubrics:
                    table[kind][name] = built_in[name]()
            else:
                plugin = plugins.by_name[name]
                table[kind][plugin.name] = plugin
    return table
