"""Who judges instead of the policy: the endpoint of `judge.endpoint`, made and reached."""

from rewards.judge import JudgeConfig
from rl.types import ConjointError
from rollouts.endpoint import EndpointPolicy


def judge_endpoint(cfg: JudgeConfig) -> EndpointPolicy | None:
    """The configured judge, not reached yet; None if the policy judges."""
    return EndpointPolicy(cfg.endpoint_config()) if cfg.endpoint else None


async def check_judge(endpoint: EndpointPolicy) -> None:
    """Raises ConjointError naming the key if it cannot be reached."""
    try:
        await endpoint.check()
    except ConjointError as error:
        raise ConjointError(f"judge.{error}") from error
