"""The joint loop. One page: verifiable rewards, self-critique, budgets and PTX meet in one step."""

from conjoint.envs.types import Group, derive_seed
from conjoint.rewards.assign import assign_rewards, correct_lengths
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.algo.staleness import newest_only
from conjoint.rl.critic.tasks import critic_tasks
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.system import System


async def train(system: System) -> None:
    """Run every step that is left. A signal ends it early, at a step's boundary."""
    s, cfg = system, system.cfg
    await s.sync(s.step)
    await s.evaluate_at_start()
    while s.step < cfg.num_steps and not s.interrupt.stopped:
        groups = await s.interrupt.until_stopped(rollout(s))
        if groups is None:  # a signal came: the checkpoint keeps what is under way
            break
        metrics = await learn(s, groups)
        s.step += 1
        s.record(groups, metrics)
        await s.evaluate_and_save_if_due()
    await s.finish()


async def rollout(s: System) -> list[Group]:
    """K answers to each task of this step, scored while the engines run."""
    with s.clock.phase("generate"):
        await s.scheduler.sampled(s.step, s.cfg.num_steps)
    with s.clock.phase("score"):
        return await s.scheduler.batch(s.step)


async def learn(s: System, groups: list[Group]) -> dict[str, float]:
    """Advantages, policy loss + PTX in one update, weight sync, critic tasks."""
    cfg, seed = s.cfg, derive_seed(s.cfg.seed, s.step)
    limits = s.toggle.limits_at(s.step)
    assign_rewards(groups, cfg.budget, cfg.reward.weights, s.step, limits)
    s.toggle.observe(correct_lengths(groups, cfg.budget, cfg.reward.weights), s.step)
    metrics = assign_advantages(groups, cfg.advantage, seed, cfg.reward.weights)
    metrics |= s.check_batch(groups)
    with s.clock.phase("train"):
        await s.pause_unless_overlapping()
        trained = newest_only(groups) if cfg.rollout.mask_stale else groups
        batch = make_batch(trained, s.ptx_rows(), cfg.learner, s.ptx_weight, s.cost)
        await s.dump_if_asked(batch)
        metrics |= await s.learner.step(batch, version=s.step)
    await s.check_update(metrics, batch)
    with s.clock.phase("sync"):
        await s.sync(s.step + 1)
    critic = critic_tasks(groups, cfg.critic, seed, judge=cfg.judge)
    s.mixture.feed(critic)
    return metrics | {"critic/tasks": float(len(critic)), "ptx/weight": batch.ptx_weight}
