"""The joint loop. One page: verifiable rewards, self-critique, budgets and PTX meet in one step."""

import asyncio

from rl.advantages import assign_advantages
from rl.batch import make_batch
from rl.critic import critic_tasks
from rl.system import System
from rl.types import Group, derive_seed
from rollouts.budget import assign_rewards


async def train(system: System) -> None:
    """Run every step that is left. A signal ends it early, at a step's boundary."""
    s, cfg = system, system.cfg
    await s.weight_sync(s.learner, s.engine, version=s.step)
    await s.evaluate_at_start()
    while s.step < cfg.num_steps and not s.interrupt.stopped:
        before = s.mixture.state()
        groups = await s.interrupt.until_stopped(rollout(s))
        if groups is None:  # a signal came: this step never happened
            s.mixture.load_state(before)
            break
        metrics = await learn(s, groups)
        s.step += 1
        s.record(groups, metrics)
        await s.evaluate_and_save_if_due()
    await s.finish()


async def rollout(s: System) -> list[Group]:
    """K answers to each task, scored while the engines run."""
    tasks = s.mixture.next(s.cfg.rollout.groups_per_step)
    with s.clock.phase("generate"):
        scoring = [
            asyncio.create_task(s.scorer.score(group, derive_seed(s.cfg.seed, s.step)))
            async for group in s.collector.stream(
                tasks, s.cfg.rollout.group_size, s.limits, tag=s.step
            )
        ]
    with s.clock.phase("score"):
        groups = await asyncio.gather(*scoring)
    return sorted(groups, key=lambda group: group.index)


async def learn(s: System, groups: list[Group]) -> dict[str, float]:
    """Advantages, policy loss + PTX in one update, weight sync, critic tasks."""
    cfg, seed = s.cfg, derive_seed(s.cfg.seed, s.step)
    assign_rewards(groups, cfg.budget, cfg.reward.weights, cfg.rollout.max_tokens)
    metrics = assign_advantages(groups, cfg.advantage, seed, cfg.reward.weights)
    s.check_batch(groups)
    with s.clock.phase("train"):
        batch = make_batch(groups, s.ptx_rows(), cfg.learner, s.ptx_weight, s.cost)
        await s.dump_if_asked(batch)
        metrics |= await s.learner.step(batch, version=s.step)
    await s.check_update(metrics, batch)
    with s.clock.phase("sync"):
        await s.weight_sync(s.learner, s.engine, version=s.step + 1)
    critic = critic_tasks(groups, cfg.critic, seed, judge=cfg.judge)
    s.mixture.feed(critic)
    return metrics | {"critic/tasks": float(len(critic)), "ptx/weight": batch.ptx_weight}
