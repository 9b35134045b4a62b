"""The joint training loop: sample, score, update, sync the weights, make critic tasks.

One optimizer step joins verifiable rewards, self-critique, token budgets and the PTX loss. Steps
count from 0. The weights before step n have version n.
"""

from conjoint.envs.types import Group, derive_seed
from conjoint.rewards.assign import assign_rewards, correct_lengths
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.critic.tasks import critic_ages, critic_tasks
from conjoint.rl.system import System


async def train(system: System) -> None:
    """Run the remaining steps of a run. A signal ends the run early, between two steps.

    Raises StopRun when a guard stops the run.
    """
    s, cfg = system, system.cfg
    # A resumed run starts here as well: its engines have not got the learner's weights yet.
    await s.sync(s.step)
    await s.evaluate_at_start()
    while s.step < cfg.num_steps and not s.interrupt.stopped:
        groups = await s.interrupt.until_stopped(rollout(s))
        if groups is None:  # a signal came: `finish` stores unfinished answers in a checkpoint
            break
        metrics = await learn(s, groups)
        s.progress.step += 1
        s.log_step(groups, metrics)
        await s.evaluate_and_save_if_due()
    await s.finish()


async def rollout(s: System) -> list[Group]:
    """Sample K trajectories for each task of this step and score them.

    Each group is scored as soon as its answers end, while the engines sample the others.
    """
    with s.record.clock.phase("generate"):
        await s.scheduler.sampled(s.step, s.cfg.num_steps)
    with s.record.clock.phase("score"):
        return await s.scheduler.batch(s.step)


async def learn(s: System, groups: list[Group]) -> dict[str, float]:
    """Train on the scored groups, send the new weights to the engines, queue critic tasks.

    Policy and PTX losses share each update. Returns the metrics of the step.
    """
    cfg, seed = s.cfg, derive_seed(s.cfg.seed, s.step)
    limits = s.toggle.limits_at(s.step)
    assign_rewards(groups, cfg.budget, cfg.reward.weights, s.step, limits)
    # `limits` is taken already: lengths seen in this step can only bind later steps.
    s.toggle.observe(correct_lengths(groups, cfg.budget, cfg.reward.weights), s.step)
    metrics = assign_advantages(groups, cfg.advantage, seed, cfg.reward.weights)
    metrics |= s.check_batch(groups)
    with s.record.clock.phase("train"):
        await s.pause_unless_overlapping()
        batch = s.batch(groups)
        await s.dump_if_asked(batch)
        metrics |= await s.learning.learner.step(batch, version=s.step)
    await s.check_update(metrics, batch)
    with s.record.clock.phase("sync"):
        await s.sync(s.step + 1)
    # Verified answers become judge tasks, which the mixture draws in later steps.
    due = s.sampling.mixture.critic_due(cfg.rollout.groups_per_step)
    critic = critic_tasks(groups, cfg.critic, seed, judge=cfg.judge, due=due, step=s.step)
    s.sampling.mixture.feed(critic)
    metrics |= critic_ages(groups, s.step)
    return metrics | {"critic/tasks": float(len(critic)), "ptx/weight": batch.ptx_weight}
