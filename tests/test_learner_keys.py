"""Every documented key of the learner does something: it changes the update, or is refused, or
changes what it documents.

The keys are read off the dataclasses (nested ones too), so a new key without an entry in `EFFECTS`
fails `test_every_key_has_an_entry`. An entry is one line:

    "optim.lr": effect(3e-3)                               the weights after two steps change
    "loss.band_low": effect(0.01, loss__name="k2_5")       the same, both with loss.name=k2_5
    "learner.offload": effect(True, refused="off a GPU")   refused, with these words
    "learner.threads": effect(2, lambda p: p.threads)      what the function finds changes

The first argument is another value than the key has otherwise. The function gets a `Probe`, whose
parts are made when they are asked for: a key that only places things need not train.
"""

import asyncio
import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch

from conjoint.envs.types import Completion, ConjointError, Group, Status, StopRun, Task, Trajectory
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.algo.ptx import PtxStream
from conjoint.rl.config.compose import compose, from_dict
from conjoint.rl.config.overrides import dataclass_in, is_dict
from conjoint.rl.config.tree import Config
from conjoint.rl.learner import group as learner_group
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.deepspeed_config import deepspeed_config
from conjoint.rl.learner.group import LearnerGroup, RankArguments
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.plan import read_ptx
from tests.fakes import CharRenderer, tiny_llama

GROUPS = ("advantage", "checkpoint", "learner", "loss", "mismatch", "optim", "ptx")
STEPS = 2
BASE = [
    f"num_steps={STEPS}", "eval.every=2", "eval.tasks=1", "eval.judge_pairs=0",
    "learner.threads=1", "learner.updates_per_batch=2", "learner.tokens_per_microbatch=256",
    "optim.lr=1e-2", "optim.eps=1e-6", "ptx.rows_per_step=4", "ptx.max_tokens=32",
    "rollout.groups_per_step=8", "rollout.max_tokens=8", "rollout.max_model_len=32",
    "budget.default=8",
]  # fmt: skip


class Probe:
    """One configuration, and what comes of it on a tiny random model."""

    def __init__(self, config: Config, model: Path) -> None:
        self.config = config
        self._model = model

    @cached_property
    def ptx(self) -> PtxStream:
        rows = read_ptx(self.config)
        return PtxStream(rows, CharRenderer(), self.config.ptx, self.config.seed)

    @cached_property
    def batches(self) -> list[Batch]:
        return [self._batch(step) for step in range(STEPS)]

    def _batch(self, step: int) -> Batch:
        cfg, made = self.config, groups(step)
        assign_advantages(made, cfg.advantage, seed=step)
        weight = cfg.ptx.weight_at(step, cfg.num_steps)
        return make_batch(made, self.ptx.next(), cfg.learner, weight)

    @property
    def microbatches(self) -> list[list[int]]:
        """Micro-batches of each rank, for each update of the first step."""
        return [[len(shard) for shard in update.shards] for update in self.batches[0].updates]

    @property
    def microbatch_tokens(self) -> list[int]:
        """Tokens of each micro-batch of rank 0 in the first update of the first step."""
        return [len(micro.tokens) for micro in self.batches[0].updates[0].shards[0]]

    @cached_property
    def rank(self) -> LearnerRank:
        cfg = self.config
        arguments = self._model, cfg.learner, cfg.optim, cfg.loss, 2 * STEPS
        return LearnerRank(*arguments, mismatch=cfg.mismatch)

    @cached_property
    def threads(self) -> int:
        """CPU threads that the rank, just built, has set."""
        assert self.rank
        return torch.get_num_threads()

    @cached_property
    def weights(self) -> str:
        """A hash of all weights after the steps."""
        for step, batch in enumerate(self.batches):
            self.rank.step(batch, step)
        digest = hashlib.sha256()
        for name, tensor in self.rank.named_weights():
            digest.update(name.encode() + tensor.float().numpy().tobytes())
        return digest.hexdigest()

    @property
    def deepspeed(self) -> dict[str, Any]:
        return deepspeed_config(self.config.learner, self.config.optim)

    @property
    def saved(self) -> list[int]:
        """Steps of twelve that end with a checkpoint; each third is evaluated."""
        checkpoint = self.config.checkpoint
        return [s for s in range(1, 13) if checkpoint.due(s, 12, evaluated=s % 3 == 0)]

    @property
    def kept(self) -> set[int]:
        """Steps that stay, of checkpoints of all twelve steps, where step 2 scored best."""
        return self.config.checkpoint.kept(range(1, 13), {2: 0.9, 8: 0.1})

    def expiry(self, call: str) -> str:
        """What the group says when ranks never answer; expiry comes at once."""
        cfg = self.config

        async def ask() -> None:
            if call == "start":
                await LearnerGroup.start(
                    RankArguments(self._model, cfg.learner, cfg.optim, cfg.loss, 1)
                )
            await LearnerGroup([_silent()], cfg.learner).logprobs([1, 2])

        async def expired(_: Any, seconds: float) -> None:
            raise TimeoutError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learner_group, "_actor", lambda *_: _silent())
            patch.setattr(learner_group.ray, "kill", lambda _: None)
            patch.setattr(learner_group.asyncio, "wait_for", expired)
            with pytest.raises(StopRun) as stop:
                asyncio.run(ask())
        return str(stop.value)


def _silent() -> Any:
    method = SimpleNamespace(remote=lambda *_: asyncio.get_running_loop().create_future())
    return SimpleNamespace(meeting=method, call=method)


def groups(step: int) -> list[Group]:
    """Eight groups of four answers of unequal length and reward."""
    made = []
    for index in range(8):
        members = []
        for member in range(4):
            t = Trajectory(status=Status.COMPLETED, reward=((member + index) % 3) / 2)
            t.extend_context([20, 21 + index, 30 + step])
            answer = [40 + (7 * index + 3 * member + n) % 60 for n in range(1 + member)]
            t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", step))
            members.append(t)
        made.append(Group(Task.make(("math", "code")[index % 2], str(index)), members, index))
    return made


@dataclass(frozen=True)
class Effect:
    value: Any
    seen: Callable[[Probe], Any]
    refused: str | None
    base: dict[str, Any]


def effect(
    value: Any, seen: Callable[[Probe], Any] | None = None, refused: str | None = None, **base: Any
) -> Effect:
    """`base`: keys that both configurations have, such as loss__name="grpo"."""
    keys = {key.replace("__", "."): value for key, value in base.items()}
    return Effect(value, seen or (lambda p: p.weights), refused, keys)


EFFECTS: dict[str, Effect] = {
    "advantage.estimator": effect("group_std"),
    "advantage.scale": effect({"math": 0.5}),
    "advantage.shuffle_rewards": effect(True),
    "checkpoint.every": effect(5, lambda p: p.saved),
    "checkpoint.keep": effect(3, lambda p: p.kept),
    "checkpoint.keep_best": effect(True, lambda p: (p.saved, p.kept)),
    "checkpoint.keep_every": effect(4, lambda p: p.kept, checkpoint__every=2),
    "learner.attention": effect("sdpa", lambda p: p.rank.module.config._attn_implementation),
    "learner.deepspeed": effect({"wall_clock_breakdown": True}, lambda p: p.deepspeed),
    "learner.dtype": effect(
        "bf16", lambda p: {w.dtype for _, w in p.rank.named_weights()}, learner__zero_stage=1
    ),
    "learner.gpus_per_rank": effect(1, lambda p: p.deepspeed["zero_optimization"]["overlap_comm"]),
    "learner.gradient_checkpointing": effect(
        True, lambda p: p.rank.module.is_gradient_checkpointing
    ),
    "learner.gradient_clipping": effect(0.1),
    "learner.logits_bytes": effect(1),  # chunks of one row: another order of the sums
    "learner.lora.alpha": effect(8, learner__lora__rank=2),
    "learner.lora.rank": effect(2),
    "learner.offload": effect(True, refused="moves ZeRO's optimizer state off a GPU"),
    "learner.ranks": effect(2, lambda p: p.microbatches),
    "learner.share_prompts": effect(False, lambda p: p.microbatch_tokens),
    "learner.start_seconds": effect(7, lambda p: p.expiry("start")),
    "learner.step_seconds": effect(7, lambda p: p.expiry("step")),
    "learner.threads": effect(2, lambda p: p.threads),
    "learner.tokens_per_microbatch": effect(48, lambda p: p.microbatches),
    "learner.updates_per_batch": effect(1),
    "learner.zero_stage": effect(2, lambda p: p.rank._engine.zero_optimization_stage()),
    "loss.band_high": effect(0.001, loss__name="k2_5"),
    "loss.band_low": effect(0.001, loss__name="k2_5"),
    "loss.clip_high": effect(0.001, loss__name="grpo", optim__lr=1e-3),
    "loss.clip_low": effect(0.001, loss__name="grpo"),
    "loss.ema_decay": effect(0.5, loss__kl_weight=1.0, loss__reference="ema"),
    "loss.kl_estimator": effect("k2", loss__kl_weight=1.0),
    "loss.kl_ratio": effect(False, loss__kl_weight=1.0),
    "loss.kl_weight": effect(1.0),
    "loss.length": effect(8, loss__name="dr_grpo"),
    "loss.max_ratio": effect(0.5, loss__name="cispo"),
    "loss.name": effect("grpo"),
    "loss.old": effect("learner"),
    "loss.reference": effect("ema", loss__kl_weight=1.0),
    "loss.tau": effect(1.0),
    "mismatch.cap": effect(1.0, loss__old="learner"),
    "mismatch.correction": effect("none", loss__old="learner"),
    "mismatch.high": effect(1.0, mismatch__correction="band", loss__old="learner"),
    "mismatch.level": effect("sequence", loss__old="learner"),
    "mismatch.low": effect(1.0, mismatch__correction="band", loss__old="learner"),
    "optim.beta1": effect(0.5),
    "optim.beta2": effect(0.5),
    "optim.eps": effect(1e-3),
    "optim.momentum": effect(0.5, optim__name="muon"),
    "optim.name": effect("muon"),
    "optim.qk_clip_tau": effect(0.01, optim__name="muonclip"),
    "optim.lr": effect(3e-3),
    "optim.schedule": effect("cosine"),
    "optim.warmup_updates": effect(3),
    "optim.weight_decay": effect(0.1),
    "ptx.end_weight": effect(1.0, ptx__schedule="linear"),
    "ptx.heldout": effect(1, lambda p: len(p.ptx.heldout)),
    "ptx.max_tokens": effect(3, refused="more than ptx.max_tokens=3"),
    "ptx.rows_per_step": effect(8),
    "ptx.schedule": effect("linear"),
    "ptx.source": effect("nano", ptx__max_tokens=800, learner__tokens_per_microbatch=800),
    "ptx.weight": effect(1.0),
}


def keys_of(config: type, above: str) -> Iterator[str]:
    hints = get_type_hints(config)
    for field in fields(config):
        place, nested = f"{above}.{field.name}", dataclass_in(hints[field.name])
        if nested is None or is_dict(hints[field.name]):
            yield place
        else:
            yield from keys_of(nested, place)


def test_every_key_has_an_entry() -> None:
    hints = get_type_hints(Config)
    documented = {key for group in GROUPS for key in keys_of(hints[group], group)}
    assert sorted(documented) == sorted(EFFECTS)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict], Probe]]:
    """Configuration keys -> their probe; equal keys share one."""
    shape = {"vocab_size": 160, "max_position_embeddings": 800}
    model = tiny_llama(tmp_path_factory.mktemp("tiny"), **shape)
    source = tmp_path_factory.mktemp("ptx") / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": f"{n} + {n}"}) + "\n" for n in range(20)))
    plain, made = compose([*BASE, f"ptx.source={source}"]), {}
    threads = torch.get_num_threads()

    def get(keys: dict[str, Any]) -> Probe:
        name = repr(sorted(keys.items()))
        if name not in made:
            data = copy.deepcopy(plain)
            for key, value in keys.items():
                *above, last = key.split(".")
                part = data
                for step in above:
                    part = part[step]
                part[last] = value
            made[name] = Probe(from_dict(data), model)
        return made[name]

    yield get
    torch.set_num_threads(threads)


@pytest.mark.parametrize("key", EFFECTS)
def test_changing_a_key_changes_something(key: str, probe: Callable[[dict], Probe]) -> None:
    wanted = EFFECTS[key]
    changed = {**wanted.base, key: wanted.value}
    if wanted.refused is not None:
        with pytest.raises(ConjointError, match=wanted.refused):
            assert probe(changed).ptx
        return
    assert wanted.seen(probe(wanted.base)) != wanted.seen(probe(changed))


def test_the_same_configuration_gives_the_same_weights(probe: Callable[[dict], Probe]) -> None:
    """Else the comparison above would prove nothing."""
    again = Probe(probe({}).config, probe({})._model)
    assert again.weights == probe({}).weights
