"""One episode: an environment and a policy take turns until one of them ends it."""

from dataclasses import dataclass

from envs.base import Env
from rl.types import Message, Sampler, Status, Trajectory, derive_seed
from rollouts.renderer import Renderer


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    budget: int
    """Sampled tokens over the whole episode."""
    max_model_len: int
    max_turns: int
    temperature: float


async def run_episode(
    env: Env, sampler: Sampler, renderer: Renderer, limits: EpisodeLimits, seed: int, session: str
) -> Trajectory:
    """Play one episode. The trajectory ends COMPLETED, or TRUNCATED when budget, context or turns
    run out; an exception from the environment or the engine is the caller's to mask."""
    trajectory = Trajectory(temperature=limits.temperature)
    try:
        messages = await env.start()
        trajectory.messages.extend(messages)
        trajectory.extend_context(renderer.prompt(messages))
        for turn in range(limits.max_turns):
            room = min(
                limits.budget - trajectory.num_sampled,
                limits.max_model_len - len(trajectory.tokens),
            )
            if room < 1:
                break
            completion = await sampler(
                trajectory.tokens,
                max_tokens=room,
                temperature=limits.temperature,
                seed=derive_seed(seed, turn),
                session=session,
            )
            trajectory.extend_sampled(completion)
            answer = Message(role="assistant", content=renderer.text(completion.tokens))
            trajectory.messages.append(answer)
            if completion.stop_reason != "stop":
                break
            messages = await env.reply(answer)
            if not messages:
                trajectory.status = Status.COMPLETED
                return trajectory
            trajectory.messages.extend(messages)
            trajectory.extend_context(renderer.next_turn(messages))
        trajectory.status = Status.TRUNCATED
        return trajectory
    finally:
        await env.close()
