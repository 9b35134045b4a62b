"""The whole method in one file and one process: the place to start reading.

    .venv/bin/python -m conjoint.scripts.minimal_loop

It has the settings and the parts of `conjoint quickstart`, without Ray, vLLM and DeepSpeed: a plain
transformers model samples, torch's AdamW trains. In a real run `rl/train.py` is this loop,
`rl/build.py` starts engines and learner ranks as processes, `rl/weight_sync.py` moves the weights
between them, and `rollouts/scheduler.py` samples ahead of the learner.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from conjoint.rl.learner.batch import Batch, MicroBatch, Update, make_batch
from conjoint.rl.learner.forward.head import TokenHead
from conjoint.rl.learner.forward.model import add_in_order, load_model
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

KINDS = ("math", "instruction", "open")
"""Nano's kinds but `code`, whose answers are programs that only the jail may run. An answer to
`open` is judged by the policy itself."""


class PlainSampler:
    """The policy as an async function: tokens in, a `Completion` out.

    Collector and judge call it once an answer. All calls of one tick of the event loop are decoded
    as one batch, so the answers of a step are sampled side by side.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._requests: list[SampleRequest] = []
        self._batch: asyncio.Task[list[Completion]] | None = None

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion:
        if self._batch is None or not self._requests:
            # A new task runs in the next tick, so every call before that joins its batch.
            self._batch = asyncio.create_task(self._decode())
        batch, place = self._batch, len(self._requests)
        self._requests.append(SampleRequest([*tokens], max_tokens, temperature, seed, top_p))
        return (await batch)[place]

    async def _decode(self) -> list[Completion]:
        requests, self._requests = self._requests, []
        batch = self._decoder.batch(requests)
        while batch.running:
            batch.step()
        version, results = self._decoder.version, [row.result() for row in batch.rows]
        return [Completion(r.tokens, r.logprobs, r.stop_reason, version) for r in results]


class Rollout:
    """Tasks in, groups of scored answers out."""

    def __init__(self, cfg: Config, sampler: PlainSampler, renderer: Renderer) -> None:
        self._cfg = cfg
        self._collector = Collector(sampler, renderer, SingleTurn, cfg.seed)
        # The sandbox is never started: it is for answers that are programs.
        sandbox, rubrics = make_sandbox(cfg.sandbox), load_rubrics(cfg.reward.rubrics)
        parts = Parts(cfg.reward, sandbox, Judge(cfg.judge), rubrics)
        context = RewardContext(sampler, renderer, cfg.seed)
        self._scorer = Scorer(reward_table(parts, OwnRewards({})), context)

    async def __call__(self, tasks: Sequence[Task], answers: int, tag: object) -> list[Group]:
        """So many `answers` to each task. Equal tags give equal random draws."""
        stream = self._collector.stream(tasks, answers, self._limits, tag)
        groups = sorted([group async for group in stream], key=lambda group: group.index)
        seed = derive_seed(self._cfg.seed, tag)
        return await asyncio.gather(*(self._scorer.score(group, seed) for group in groups))

    def _limits(self, task: Task) -> EpisodeLimits:
        rollout, budget = self._cfg.rollout, self._cfg.budget_of(task.kind)
        return EpisodeLimits(budget, rollout.max_model_len, 1, rollout.temperature.start)


class Learner:
    """The copy of the policy that is trained, and its optimizer (rl/learner/rank.py)."""

    def __init__(self, folder: Path, cfg: Config) -> None:
        self._cfg, cpu = cfg, torch.device("cpu")
        self.model: Any = load_model(folder, cfg.learner, cpu)
        head = TokenHead(self.model, cfg.learner.logits_bytes)
        self._packed = PackedModel(self.model, head, cfg.learner.attention, torch.float32, cpu)
        betas = (cfg.optim.beta1, cfg.optim.beta2)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), cfg.optim.lr, betas, cfg.optim.eps, weight_decay=0.0
        )

    def step(self, batch: Batch) -> float:
        """One optimizer step for each update of the batch. Returns the mean PTX loss."""
        with torch.no_grad():  # For every update the old policy is the one before the first.
            old = [[self._logprobs(m)[0] for m in u.shards[0]] for u in batch.updates]
        total = 0.0
        for update, old_logprobs in zip(batch.updates, old, strict=True):
            for micro, old_policy in zip(update.shards[0], old_logprobs, strict=True):
                policy_loss, ptx_loss = self._losses(micro, update, old_policy)
                # One backward pass for both, so that neither moves the policy without the other.
                (policy_loss + batch.ptx_weight * ptx_loss).backward()
                total += ptx_loss.item()
            clipping = self._cfg.learner.gradient_clipping
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clipping)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return total / len(batch.updates)

    def _losses(self, micro: MicroBatch, update: Update, old: Tensor) -> tuple[Tensor, Tensor]:
        """Policy loss and PTX loss: this micro-batch's share of the means over the update."""
        policy, ptx = self._logprobs(micro)
        inputs = LossInputs(
            logprobs=policy,
            old_logprobs=old,
            # The sampler's weights are the learner's. With vLLM they differ: rl/algo/mismatch.py.
            weights=torch.ones_like(policy),
            advantages=torch.from_numpy(micro.advantages),
            sequence=torch.from_numpy(micro.policy_sequence),
            local_sequences=len(micro.lengths),
            num_sequences=update.num_sequences,
            num_tokens=update.num_tokens,
        )
        loss, _ = LOSSES[self._cfg.loss.name](inputs, self._cfg.loss)
        return loss, -ptx.sum() / max(update.num_ptx_tokens, 1)

    def _logprobs(self, micro: MicroBatch) -> tuple[Tensor, ...]:
        """Log-probs of the policy tokens [P] and of the PTX tokens [Q], from one forward pass."""
        policy, ptx = micro.policy_targets, micro.ptx_targets
        targets = np.concatenate([policy, ptx])
        places = np.concatenate([micro.policy_places, ptx - 1])
        # Policy tokens at the temperature they were sampled at: that is the policy which answered.
        temperatures = np.concatenate([micro.temperatures, np.ones(len(ptx), np.float32)])
        logprobs, _ = self._packed.logprobs(micro, targets, places, temperatures)
        return logprobs.split([len(policy), len(ptx)])


async def train(cfg: Config) -> Any:
    """Measure, train, measure again. Returns the trained transformers model."""
    folder = await policy_folder(cfg.model, cfg.nano)
    add_in_order()  # Equal seeds then give equal runs, to the bit.
    renderer = Renderer.load(folder)
    decoder, learner = Decoder(str(folder), cfg.rollout), Learner(folder, cfg)
    decoder.stop_ids = frozenset(renderer.stop_ids)
    rollout = Rollout(cfg, PlainSampler(decoder), renderer)
    tasks = build_tasks(cfg)
    ptx = PtxStream(nano_ptx_rows(), renderer, cfg.ptx, cfg.seed)

    before = await rollout(tasks.heldout["math"], 1, "eval")
    for step in range(cfg.num_steps):
        # K answers to each task, scored by verifiers and by the policy as judge.
        drawn = tasks.mixture.next(cfg.rollout.groups_per_step)
        groups = await rollout(drawn, cfg.rollout.group_size, step)
        # Scores become rewards: an answer cut off at its token budget gets a penalty instead.
        assign_rewards(groups, cfg.budget, cfg.reward.weights)
        # Rewards become advantages: an answer is compared with the others of its group.
        assign_advantages(groups, cfg.advantage, derive_seed(cfg.seed, step))
        # PTX rows, text worth remembering, join the answers in the same optimizer step.
        ptx_loss = learner.step(make_batch(groups, ptx.next(), cfg.learner, cfg.ptx.weight))
        # The weight sync: the copy that samples gets the weights of the copy that was trained.
        decoder.model.load_state_dict(learner.model.state_dict())
        decoder.version = step + 1
        # Pairs of a right and a wrong answer become tasks: the policy learns to judge from them.
        seed = derive_seed(cfg.seed, step)
        tasks.mixture.feed(critic_tasks(groups, cfg.critic, seed, judge=cfg.judge))
        scores = {k: v for k, v in step_metrics(groups).items() if k.startswith("score/")}
        print(f"{step=}", *(f"{k} {v:.3f}" for k, v in scores.items()), f"{ptx_loss=:.3f}")
    after = await rollout(tasks.heldout["math"], 1, "eval")
    scores = [[answer_score(g.trajectories[0]) or 0.0 for g in found] for found in (before, after)]
    for name, i in (
        ("before", mean_interval(scores[0])),
        ("after", mean_interval(scores[1])),
        ("difference", paired_difference(*scores)),
    ):
        print(f"held-out math, {name}: {i.mean:.3f} [{i.lo:.3f}, {i.hi:.3f}], {i.n} tasks")
    return learner.model


def main() -> None:
    parser = argparse.ArgumentParser(description="The joint loop in one process.")
    parser.add_argument("--model", default="nano", help="nano, or a folder")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    off = [f"tasks.{kind}.weight=0" for kind in ("code", *KINDS) if kind not in asked.tasks]
    cfg = load_config(["experiment=quickstart", "eval.tasks=512", "eval.judge_pairs=0", *off])
    asyncio.run(train(replace(cfg, model=asked.model, num_steps=asked.steps, seed=asked.seed)))


if __name__ == "__main__":
    main()
