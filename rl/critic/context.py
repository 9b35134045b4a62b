"""Who judges instead of the live policy: a snapshot of it, or the endpoint of `judge.endpoint`."""

from dataclasses import replace

from conjoint.envs.types import ConjointError
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rl.critic.snapshot import CriticSnapshot
from conjoint.rollouts.endpoint import EndpointPolicy


def judge_endpoint(cfg: JudgeConfig) -> EndpointPolicy | None:
    """The configured judge, not reached yet; None if the policy judges."""
    return EndpointPolicy(cfg.endpoint_config()) if cfg.endpoint else None


async def check_judge(endpoint: EndpointPolicy) -> None:
    """Raises ConjointError naming the key if it cannot be reached."""
    try:
        await endpoint.check()
    except ConjointError as error:
        raise ConjointError(f"judge.{error}") from error


def judging_context(
    policy: RewardContext, snapshot: CriticSnapshot | None, endpoint: EndpointPolicy | None
) -> RewardContext:
    """What the judged rewards of a run are given; `policy` asks the live policy."""
    sampler = policy.sampler if snapshot is None else snapshot.engine
    return replace(policy, sampler=sampler, judge=endpoint)
