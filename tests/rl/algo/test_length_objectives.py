"""Every objective under every budget rule: rewards change, and advantages and gradient with them.
The rules act on rewards, before any objective sees them, so none may need one of its own."""

import math

import pytest
import torch

from conjoint.envs.types import Completion, Group, Score, Status, Task, Trajectory
from conjoint.rewards.assign import assign_rewards
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.algo.losses import LOSSES, LossInputs
from conjoint.rl.config.compose import config_groups, load_config
from conjoint.rl.config.tree import Config

RULES = {
    "schedule": ["budget.schedule=linear", "budget.end_tokens={math: 8}"],
    "toggle": ["budget.toggle.every=1", "budget.toggle.kinds=[math]"],
    "length": ["budget.length.weight.math=0.3"],
    "soft": ["budget.soft_share=0.5"],
}
LONG = [4, 6, 12, 20]
LAST = 9  # step of ten, from 0


def groups(cfg: Config, step: int) -> list[Group]:
    """Answers as the budget of this step would cut them; the group's mean score is above a half."""
    cap, made = cfg.budget_of("math", step), []
    for index in range(3):
        members = []
        for k, length in enumerate(LONG):
            cut = length > cap
            t = Trajectory(status=Status.TRUNCATED if cut else Status.COMPLETED, budget=cap)
            n = min(length, cap)
            t.extend_sampled(Completion([1] * n, [-1.0] * n, "length" if cut else "stop", 0))
            t.scores = [Score.of("math", float(k != index)), Score.of("style", 1.0 - k / 8)]
            members.append(t)
        made.append(Group(Task.make("math", str(index)), members, index))
    return made


def trained(cfg: Config) -> tuple[list[float], list[float], torch.Tensor]:
    """Rewards, advantages and the gradient on the log-probs, of one batch in the last step."""
    made = groups(cfg, LAST)
    limits = {"math": 10} if cfg.budget.toggle.every else {}
    assign_rewards(made, cfg.budget, cfg.reward.weights, LAST, limits)
    assign_advantages(made, cfg.advantage, 0, cfg.reward.weights)
    members = [t for group in made for t in group.trajectories]
    sequence = torch.tensor([i for i, t in enumerate(members) for _ in range(t.num_sampled)])
    advantages = [t.advantage or 0.0 for t in members]
    logprobs = (torch.arange(len(sequence)) % 7 * -0.1 - 1).requires_grad_()
    inputs = LossInputs(
        logprobs,
        logprobs.detach(),
        torch.ones(len(sequence)),
        torch.tensor(advantages)[sequence],
        sequence,
        len(members),
        len(members),
        len(sequence),
    )
    loss, _ = LOSSES[cfg.loss.name](inputs, cfg.loss)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return [t.reward if t.reward is not None else math.nan for t in members], advantages, gradient


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss", config_groups()["loss"])
def test_rules_on_length_reach_every_objective(loss: str, rule: str):
    base = ["num_steps=10", "budget.default=24", f"loss={loss}"]
    plain, ruled = (load_config([*base, *keys]) for keys in ([], RULES[rule]))
    before, after = trained(plain), trained(ruled)
    assert plain.loss.name == loss and set(LOSSES) == set(config_groups()["loss"])
    assert before[0] != after[0] and before[1] != after[1]
    assert all(map(math.isfinite, after[0] + after[1])) and any(after[1])
    assert torch.isfinite(after[2]).all() and after[2].any()
    assert before[2].shape != after[2].shape or not torch.equal(before[2], after[2])
