"""The whole method in one file and one process: the place to start reading.

    .venv/bin/python -m conjoint.scripts.minimal_loop

It does what `conjoint quickstart` does, with the same parts, but a plain transformers model samples
and torch's AdamW trains. In a real run `rl/train.py` is this loop, `rl/build.py` starts engines
(vLLM) and learner ranks (DeepSpeed) as processes of Ray, and `rl/weight_sync.py` moves the weights.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Completion, Group, Task, derive_seed
from conjoint.rewards.assign import assign_rewards
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.registry import OwnRewards, Parts, reward_table
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rewards.sandbox.backend import make_sandbox
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.algo.losses import LOSSES, LossInputs
from conjoint.rl.algo.ptx import PtxStream
from conjoint.rl.config.compose import load_config
from conjoint.rl.config.tree import Config
from conjoint.rl.critic.tasks import critic_tasks
from conjoint.rl.learner.batch import Batch, MicroBatch, make_batch
from conjoint.rl.learner.forward.head import TokenHead
from conjoint.rl.learner.forward.model import load_model
from conjoint.rl.learner.forward.packed import PackedModel
from conjoint.rl.nano.start_policy import policy_folder
from conjoint.rl.run.metrics import answer_score, step_metrics
from conjoint.rl.stats.intervals import mean_interval, paired_difference
from conjoint.rl.tasks import build_tasks, nano_ptx_rows
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.engine.decoding import Decoder
from conjoint.rollouts.engine.vllm_worker import SampleRequest
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.renderer import Renderer

KINDS = ("math", "instruction", "open")  # `code` needs the jail: its answers are programs.


async def train(cfg: Config) -> Any:
    """Measure, train, measure again. Returns the trained transformers model."""
    folder, sampling = await policy_folder(cfg.model, cfg.nano), cfg.rollout
    torch.set_num_threads(1)  # Nano is so small that a second thread gains nothing.
    renderer, decoder = Renderer.load(folder), Decoder(str(folder), sampling)
    decoder.stop_ids = frozenset(renderer.stop_ids)
    learner = Learner(load_model(folder, cfg.learner, torch.device("cpu")), cfg)
    tasks = build_tasks(cfg)
    ptx = PtxStream(nano_ptx_rows(), renderer, cfg.ptx, cfg.seed)
    sampler = PlainSampler(decoder)
    collector = Collector(sampler, renderer, SingleTurn, cfg.seed)
    # The judge among the rewards asks the policy itself. The sandbox is never started here.
    sandbox, rubrics = make_sandbox(cfg.sandbox), load_rubrics(cfg.reward.rubrics)
    rewards = reward_table(Parts(cfg.reward, sandbox, Judge(cfg.judge), rubrics), OwnRewards({}))
    scorer = Scorer(rewards, RewardContext(sampler, renderer, cfg.seed))

    def limits(task: Task) -> EpisodeLimits:
        tokens, temperature = cfg.budget_of(task.kind), sampling.temperature.start
        return EpisodeLimits(tokens, sampling.max_model_len, sampling.max_turns, temperature)

    async def rollout(asked: Sequence[Task], answers: int, tag: object, seed: int) -> list[Group]:
        """A group of scored answers to each task. The same tag draws the same random numbers."""
        stream = collector.stream(asked, answers, limits, tag)
        groups = sorted([group async for group in stream], key=lambda group: group.index)
        return await asyncio.gather(*(scorer.score(group, seed) for group in groups))

    heldout = [task for of_kind in tasks.heldout.values() for task in of_kind]
    before = await rollout(heldout, 1, "heldout", 0)
    for step in range(cfg.num_steps):
        seed, drawn = derive_seed(cfg.seed, step), tasks.mixture.next(sampling.groups_per_step)
        groups = await rollout(drawn, sampling.group_size, step, seed)
        # Scores become rewards: an answer cut off at its token budget gets a penalty instead.
        assign_rewards(groups, cfg.budget, cfg.reward.weights)
        # Rewards become advantages: each answer is compared with the others of its group.
        assign_advantages(groups, cfg.advantage, seed)
        # Answers and curated text (PTX) are trained on together, in the same optimizer step.
        ptx_loss = learner.step(make_batch(groups, ptx.next(), cfg.learner, cfg.ptx.weight))
        # The weight sync: the copy that samples gets the weights of the copy that is trained.
        decoder.model.load_state_dict(learner.model.state_dict())
        decoder.version = step + 1
        # A right and a wrong answer make a judge task: the policy learns to tell them apart.
        due = tasks.mixture.critic_due(sampling.groups_per_step)
        critic = critic_tasks(groups, cfg.critic, seed, judge=cfg.judge, due=due, step=step)
        tasks.mixture.feed(critic)
        scores = [f"{k} {v:.3f}" for k, v in step_metrics(groups).items() if "score/" in k]
        print(f"step {step + 1}:", *scores, f"ptx loss {ptx_loss:.3f}", flush=True)
    compare(before, await rollout(heldout, 1, "heldout", 0))
    return learner.model


class PlainSampler:
    """The policy as an async function: tokens in, a `Completion` out.

    The collector and the judge call it once for each answer. Calls made in the same tick of the
    event loop are decoded as one batch, so all answers of a step are sampled side by side.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._requests: list[SampleRequest] = []
        self._batch: asyncio.Task[list[Completion]] | None = None

    async def __call__(self, tokens: Sequence[int], session: str = "", **how: Any) -> Completion:
        """`how` holds max_tokens, temperature, top_p and seed (`Sampler` in envs/types.py)."""
        if self._batch is None or not self._requests:
            # The new task runs in the next tick. Every call made until then joins its batch.
            self._batch = asyncio.create_task(self._decode())
        batch, place = self._batch, len(self._requests)
        self._requests.append(SampleRequest([*tokens], **how))
        return (await batch)[place]

    async def _decode(self) -> list[Completion]:
        batch, self._requests = self._decoder.batch(self._requests), []
        while batch.running:
            batch.step()
        version = self._decoder.version
        return [Completion(r.tokens, r.logprobs, r.stop_reason, version) for r in batch.rows]


class Learner:
    """The copy of the policy that is trained, and its optimizer (rl/learner/rank.py)."""

    def __init__(self, model: Any, cfg: Config) -> None:
        self.model, self.cfg, optim = model, cfg, cfg.optim
        head, attention = TokenHead(model, cfg.learner.logits_bytes), cfg.learner.attention
        self._packed = PackedModel(model, head, attention, torch.float32, torch.device("cpu"))
        betas, decay = (optim.beta1, optim.beta2), optim.weight_decay
        self._adamw = torch.optim.AdamW(model.parameters(), optim.lr, betas, optim.eps, decay)

    def step(self, batch: Batch) -> float:
        """One backward pass for both losses and one optimizer step. Returns the PTX loss."""
        (update,), total = batch.updates, 0.0
        for micro in update.shards[0]:
            policy, ptx = self._logprobs(micro)
            inputs = LossInputs(
                logprobs=policy,
                # The old policy is the one that sampled, as K2 has it (loss.old).
                old_logprobs=torch.from_numpy(micro.behavior_logprobs),
                # No correction: unlike vLLM, this sampler agrees with the learner (mismatch.py).
                weights=torch.ones_like(policy),
                advantages=torch.from_numpy(micro.advantages),
                sequence=torch.from_numpy(micro.policy_sequence),
                local_sequences=len(micro.lengths),
                # The means are over the whole update, so the losses of micro-batches add up.
                num_sequences=update.num_sequences,
                num_tokens=update.num_tokens,
            )
            policy_loss, _ = LOSSES[self.cfg.loss.name](inputs, self.cfg.loss)
            ptx_loss = -ptx.sum() / max(update.num_ptx_tokens, 1)
            (policy_loss + batch.ptx_weight * ptx_loss).backward()
            total += ptx_loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.learner.gradient_clipping)
        self._adamw.step()
        self._adamw.zero_grad()
        return total

    def _logprobs(self, micro: MicroBatch) -> tuple[torch.Tensor, ...]:
        """Log-probs of the policy tokens [P] and of the PTX tokens [Q], from one forward pass."""
        policy, ptx = micro.policy_targets, micro.ptx_targets
        targets = np.concatenate([policy, ptx])
        places = np.concatenate([micro.policy_places, ptx - 1])
        # A policy token is scored at the temperature it was sampled at.
        temperatures = np.concatenate([micro.temperatures, np.ones(len(ptx), np.float32)])
        logprobs, _ = self._packed.logprobs(micro, targets, places, temperatures)
        return logprobs.split([len(policy), len(ptx)])


def compare(before: Sequence[Group], after: Sequence[Group]) -> None:
    """Print the mean scores of each kind before and after, and their paired difference."""
    for kind in sorted({group.task.kind for group in before}):
        start, end = (
            [answer_score(g.trajectories[0]) or 0.0 for g in groups if g.task.kind == kind]
            for groups in (before, after)
        )
        found = (mean_interval(start), mean_interval(end), paired_difference(start, end))
        for name, i in zip(("before", "after", "difference"), found, strict=True):
            print(f"held-out {kind}, {name}: {i.mean:.3f} [{i.lo:.3f}, {i.hi:.3f}], {i.n} tasks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The joint loop in one process.")
    parser.add_argument("--model", default="nano", help="nano, which is built once, or a folder")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    off = [f"tasks.{kind}.weight=0" for kind in ("code", *KINDS) if kind not in asked.tasks]
    keys = ["learner.updates_per_batch=1", "optim.lr=6e-4", "eval.tasks=512", "eval.judge_pairs=0"]
    config = load_config(["experiment=quickstart", *keys, *off])
    asyncio.run(train(replace(config, model=asked.model, num_steps=asked.steps, seed=asked.seed)))
