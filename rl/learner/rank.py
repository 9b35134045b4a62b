"""One DeepSpeed rank: owns the model, its optimizer and the update. A plain class, without Ray.

Each loss is divided by the token or sequence count of all ranks, then multiplied by the number of
ranks, because DeepSpeed averages gradients over ranks. So the update does not depend on how many
ranks and micro-batches the batch is cut into. Policy loss and PTX loss share one backward pass.
P and Q count the trained policy and PTX tokens of a micro-batch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conjoint.envs.types import ConjointError
from conjoint.rl.algo.losses import LOSSES, LossConfig, LossInputs, kl_metrics
from conjoint.rl.algo.mismatch import UNCORRECTED, MismatchConfig
from conjoint.rl.learner.batch import Batch, MicroBatch, PackedRow, Update
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.deepspeed_config import deepspeed_config
from conjoint.rl.learner.forward.head import TokenHead
from conjoint.rl.learner.forward.model import DTYPES, add_in_order, load_model
from conjoint.rl.learner.forward.packed import PackedModel
from conjoint.rl.learner.forward.reference import Reference
from conjoint.rl.learner.lora import add_adapter, base_model, weights_of
from conjoint.rl.learner.optim.muon_clip import MuonClip
from conjoint.rl.learner.optim.param_groups import adamw_groups
from conjoint.rl.learner.optim.schedules import OptimConfig, learning_rate
from conjoint.rl.learner.place import ALONE, RankPlace
from conjoint.rl.learner.stats import StepStats
from conjoint.rl.learner.tensors_only import tensors_only
from conjoint.rl.models.resolve import copy_tokenizer
from conjoint.rollouts.weights.sender import WeightMeta

_TAG = "deepspeed"


Inspect = Callable[[Update, MicroBatch, Tensor, Tensor, Tensor, Tensor], None]
"""(update, micro-batch, log-probs [P], PTX log-probs [Q], old log-probs [P], loss), called before
each backward pass. A replay uses it to find the first number that is not finite."""


@dataclass(slots=True)
class _Tokens:
    """Result of one forward pass: `logprobs` and `entropy` [P] at the sampling temperature, and
    `ptx_logprobs` [Q] at temperature 1."""

    logprobs: Tensor
    entropy: Tensor
    ptx_logprobs: Tensor
    anchor: Tensor
    """Zero. On an empty micro-batch its graph reaches every parameter, so that this rank runs the
    same gradient hooks and collectives as the others."""


class LearnerRank:
    """Trains, sends, saves and loads. Most calls are collective: make them on all ranks, in the
    same order."""

    def __init__(
        self,
        folder: Path,
        config: LearnerConfig,
        optim: OptimConfig,
        loss: LossConfig,
        total_updates: int,
        place: RankPlace = ALONE,
        mismatch: MismatchConfig = UNCORRECTED,
    ) -> None:
        """Load the Hugging Face `folder`. The learning-rate schedule ends at `total_updates`."""
        self._folder, self._config, self._optim = Path(folder), config, optim
        self._loss, self._loss_config = LOSSES[loss.name], loss
        self._total_updates, self._mismatch = total_updates, mismatch.given(loss.old_policy)
        self._samples_are_old = loss.old_policy == "sampler"
        self._place = place
        self._updates = 0
        self._sender: Any = None
        self._muon: MuonClip | None = None
        self.inspect: Inspect | None = None
        torch.set_num_threads(config.threads)
        self._device = torch.device("cuda", 0) if config.gpus_per_rank else torch.device("cpu")
        if self._device.type == "cpu":
            add_in_order()
        model = load_model(self._folder, config, self._device)
        # Before adapters and ZeRO change the model: the reference is a copy of it as loaded.
        reference = Reference.held_by(loss, model, self._device)
        if config.lora.rank:
            model = add_adapter(model, config.lora).train()
        head = TokenHead(model, config.logits_bytes)
        self._engine = self._start(model)
        self._packed = self._packing(self._engine, head)
        self._reference = reference
        if reference is not None:
            head = TokenHead(reference.model, config.logits_bytes)
            self._packed_reference = self._packing(reference.model, head)

    def _packing(self, forward: Any, head: TokenHead) -> PackedModel:
        dtype = DTYPES[self._config.dtype]
        return PackedModel(forward, head, self._config.attention, dtype, self._device)

    def _start(self, model: Any) -> Any:
        os.environ.setdefault("LOCAL_RANK", "0")
        if not self._config.gpus_per_rank:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.utils.logger.setLevel("WARNING")
        if not self._config.gpus_per_rank:
            # Otherwise each start on a CPU compiles a C++ extension that gloo does not need.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if not torch.distributed.is_initialized():
            self._place.meet("nccl" if self._config.gpus_per_rank else "gloo")
        config: Any = deepspeed_config(self._config, self._optim)
        if self._optim.name == "adamw":
            groups: Any = adamw_groups(model.parameters(), self._optim.weight_decay)
            return deepspeed.initialize(model=model, model_parameters=groups, config=config)[0]
        self._muon = MuonClip(model, self._optim, self._config.attention)
        engine = deepspeed.initialize(model=model, optimizer=self._muon.optimizer, config=config)[0]
        self._muon.start(engine.optimizer, self._device, self._place.rank, self._place.world)
        return engine

    # -- the update ---------------------------------------------------------------------------

    def step(self, batch: Batch, version: int) -> dict[str, float]:
        """Train on this rank's shard of `batch`; returns metrics that are equal on all ranks.

        The engine/learner gap counts only tokens of `version`, that of the current weights.
        """
        stats = StepStats(batch.kinds, version)
        # The first update needs no pass for old log-probs: its own still has the old weights.
        old = [None, *(self._old_logprobs(update, stats) for update in batch.updates[1:])]
        for update, logprobs in zip(batch.updates, old, strict=True):
            self._update(update, logprobs, batch.ptx_weight, stats)
        metrics = stats.result(self._place.world, self._device)
        return metrics | self._muon.metrics() if self._muon else metrics

    def ptx_loss(self, batch: Batch) -> float:
        """Mean cross-entropy in nats of the PTX tokens of all ranks, without training on them."""
        (update,) = batch.updates
        with torch.no_grad():
            sums = [self._forward(micro).ptx_logprobs.sum() for micro in update.shards[0]]
        total = torch.stack(sums).sum().double()
        if self._place.world > 1:
            torch.distributed.all_reduce(total)
        return -float(total) / update.num_ptx_tokens

    def _old_logprobs(self, update: Update, stats: StepStats) -> list[Tensor]:
        if self._samples_are_old:
            return [self._tensor(micro.behavior_logprobs) for micro in update.shards[0]]
        with torch.no_grad():
            old = [self._forward(micro).logprobs for micro in update.shards[0]]
        for micro, logprobs in zip(update.shards[0], old, strict=True):
            stats.add_gap(micro, logprobs)
        return old

    def _update(
        self, update: Update, old: list[Tensor] | None, ptx_weight: float, stats: StepStats
    ) -> None:
        """Forward and backward over the micro-batches, then one optimizer step. `old` holds the old
        log-probs of each micro-batch, None in the first update of a batch."""
        metrics: dict[str, Tensor] = {}
        last = len(update.shards[0]) - 1
        for number, micro in enumerate(update.shards[0]):
            tokens = self._forward(micro)
            before = old[number] if old else tokens.logprobs.detach()
            if old is None:
                stats.add_gap(micro, before)
                if self._samples_are_old:
                    before = self._tensor(micro.behavior_logprobs)
            loss, values = self._losses(micro, update, tokens, before, ptx_weight, stats)
            for key, value in values.items():
                metrics[key] = metrics.get(key, 0) + value.detach()
            if self.inspect is not None:
                self.inspect(update, micro, tokens.logprobs, tokens.ptx_logprobs, before, loss)
            if not torch.isfinite(loss):
                # An infinite loss can have finite gradients. NaN makes every rank skip the update.
                loss = loss * torch.nan
            # Micro-batches vary in number, so DeepSpeed is told which one ends the update.
            self._engine.set_gradient_accumulation_boundary(number == last)
            self._engine.backward(loss * self._place.world)
        rate = learning_rate(self._optim, self._updates, self._total_updates)
        if self._muon:
            self._muon.before_step()
        norm = self._apply(rate)
        if self._muon:
            self._muon.after_step(norm is not None)
        # A skipped update does not advance the schedule.
        self._updates += norm is not None
        if norm is not None and self._reference and self._reference.follows:
            self._reference.follow(self.named_weights())
        stats.add_update(update, metrics, norm, rate)

    def _losses(
        self,
        micro: MicroBatch,
        update: Update,
        tokens: _Tokens,
        old_logprobs: Tensor,
        ptx_weight: float,
        stats: StepStats,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the update's loss and metrics; the shares add up."""
        inputs = LossInputs(
            logprobs=tokens.logprobs,
            old_logprobs=old_logprobs,
            weights=stats.mismatch_weights(micro, old_logprobs, self._mismatch),
            advantages=self._tensor(micro.advantages),
            sequence=self._tensor(micro.policy_sequence),
            # All S pieces: prompts and PTX rows have no policy tokens, so they add 0 to any loss.
            local_sequences=len(micro.lengths),
            num_sequences=update.num_sequences,
            num_tokens=update.num_tokens,
            ref_logprobs=self._ref_logprobs(micro),
        )
        policy, metrics = self._loss(inputs, self._loss_config)
        metrics |= kl_metrics(inputs)
        metrics["loss/policy"] = policy
        metrics["entropy"] = tokens.entropy.sum() / update.num_tokens
        total = policy + tokens.anchor
        if update.num_ptx_tokens:
            metrics["loss/ptx"] = -tokens.ptx_logprobs.sum() / update.num_ptx_tokens
            total = total + ptx_weight * metrics["loss/ptx"]
        metrics["loss/total"] = total
        return total, metrics

    def _ref_logprobs(self, micro: MicroBatch) -> Tensor | None:
        """The reference's log-probs [P], by the same function as the policy's; None without one."""
        if self._reference is None:
            return None
        without_ptx = replace(micro, ptx_targets=micro.ptx_targets[:0])
        with torch.no_grad():
            return self._forward(without_ptx, self._packed_reference).logprobs

    def _forward(self, micro: MicroBatch, model: PackedModel | None = None) -> _Tokens:
        """Log-probs of the micro-batch's trained tokens under `model`, by default the policy."""
        count, ptx = len(micro.policy_targets), micro.ptx_targets
        targets = np.concatenate([micro.policy_targets, ptx])
        places = np.concatenate([micro.policy_places, ptx - 1])
        temperatures = np.concatenate([micro.temperatures, np.ones(len(ptx), np.float32)])
        row: PackedRow = micro
        if empty := not len(targets):
            # The pass must still run: DeepSpeed's collectives wait for every rank.
            row = row if len(row.tokens) else PackedRow.single([0])
            targets, places, temperatures = np.zeros(1, int), np.zeros(1, int), None
        packed = model or self._packed
        logprobs, entropy = packed.logprobs(row, targets, places, temperatures)
        anchor = logprobs.sum() * 0 if empty else logprobs.new_zeros(())
        if empty:
            logprobs, entropy = logprobs[:0], entropy[:0]
        return _Tokens(logprobs[:count], entropy[:count], logprobs[count:], anchor)

    def _apply(self, rate: float) -> float | None:
        """One optimizer step. Returns the gradient norm before clipping, or None if the step was
        skipped on all ranks, because a gradient was not finite."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        if self._config.zero_stage == 0:
            grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(grads))
            if not np.isfinite(norm):
                self._engine.zero_grad()
                return None
            self._engine.step()
            return norm
        # ZeRO itself checks the gradients of all ranks and drops them if any is not finite.
        self._engine.step()
        applied = self._engine.was_step_applied()
        return float(self._engine.get_global_grad_norm()) if applied else None

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    @property
    def module(self) -> torch.nn.Module:
        return self._engine.module

    # -- weights ------------------------------------------------------------------------------

    def logprobs(self, tokens: list[int]) -> list[float]:
        """Log-prob of each of tokens[1:] given the tokens before it, at temperature 1."""
        places = np.arange(len(tokens) - 1)
        with torch.no_grad():
            row = PackedRow.single(tokens)
            return self._packed.logprobs(row, places + 1, places)[0].tolist()

    def named_weights(self) -> "NamedWeights":
        return NamedWeights(self._engine.module, gather=self._config.zero_stage == 3)

    def send_weights(self, sender: Any, version: int) -> Any:
        """Return `sender.send(named_weights, version)` on rank 0, and None on other ranks."""
        weights = self.named_weights()
        if self._place.rank == 0:
            if sender != self._sender:
                self._sender = sender
            # Keep our own sender, which holds the buffer or connection: `sender` is a fresh copy.
            return self._sender.send(weights, version)
        # Gathering is collective: the other ranks must make the pass that rank 0 sends from.
        if weights.gather:
            for _ in weights:
                pass
        return None

    def save(self, folder: Path) -> None:
        """Write `folder/deepspeed` (for `load`) and `folder/hf` (for `from_pretrained`)."""
        self._engine.save_checkpoint(
            str(folder), tag=_TAG, client_state={"updates": self._updates}, save_latest=False
        )
        if self._reference and self._place.rank == 0:
            self._reference.save(folder)
        self.save_model(folder / "hf")
        if self._config.lora.rank:
            self._save_adapter(folder / "adapter")

    def save_model(self, folder: Path) -> None:
        """Write a folder that `from_pretrained` opens. Collective under ZeRO-3."""
        weights = {name: tensor.cpu() for name, tensor in self.named_weights()}
        if self._place.rank == 0:
            base_model(self._engine.module).save_pretrained(folder, state_dict=weights)
            copy_tokenizer(self._folder, folder)

    def _save_adapter(self, folder: Path) -> None:
        """Write a folder that PEFT opens. Collective under ZeRO-3."""
        trained = [(n, p) for n, p in self._engine.module.named_parameters() if p.requires_grad]
        state = {}
        for name, parameter in trained:
            with gathered([parameter], self._config.zero_stage == 3):
                state[name] = parameter.detach().cpu().clone()
        if self._place.rank == 0:
            self._engine.module.save_pretrained(str(folder), state_dict=state)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, under the same number of ranks and ZeRO stage. Raises
        ConjointError if `folder` has no learner state, or one that is more than tensors."""
        if not (folder / _TAG).is_dir():
            raise ConjointError(f"{folder} holds no learner state: there is no {_TAG} folder in it")
        with tensors_only(folder):
            _, client_state = self._engine.load_checkpoint(str(folder), tag=_TAG)
        self._updates = client_state["updates"]
        self.load_reference(folder)

    def load_reference(self, folder: Path) -> None:
        """Restore the reference policy of the KL, where the loss has one."""
        if self._reference:
            self._reference.load(folder)


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """Iterates over (Hugging Face name, full tensor): tied weights once, adapters merged. With
    `gather` (ZeRO-3) it is collective: every rank must iterate to the end."""

    module: torch.nn.Module
    gather: bool

    def metadata(self) -> list[WeightMeta]:
        # ZeRO-3 leaves an empty tensor behind and keeps the full shape beside it.
        return [
            WeightMeta(
                w.name,
                w.parameter.dtype,
                tuple(getattr(w.parameter, "ds_shape", w.parameter.shape)),
            )
            for w in weights_of(self.module)
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for weight in weights_of(self.module):
            with gathered(weight.parts(), self.gather):
                value = weight.value()
                # ZeRO-3 frees a gathered tensor when the context ends, so it must be copied.
                yield weight.name, value.clone() if self.gather else value


def gathered(parameters: list[torch.nn.Parameter], partitioned: bool) -> Any:
    """A context in which the parameters are whole, also if ZeRO-3 has partitioned them."""
    if not partitioned:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
