"""Packed, prefix-shared and padded forwards are one function of the weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LOSSES, LossConfig, LossInputs
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import MicroBatch, PackedRow, make_batch
from conjoint.rl.learner.config import ATTENTIONS, LearnerConfig
from conjoint.rl.learner.forward.head import TokenHead, table_logprobs
from conjoint.rl.learner.forward.packed import PackedModel, check_attention

VOCAB = 61
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
BACKENDS = ("segments", "sdpa", "eager")
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
LOSS = LossConfig("grpo")
PTX_WEIGHT = 0.3


def build(kind: str, attention: str) -> Any:
    """A random model in double precision, so that what differs is not rounding."""
    torch.manual_seed(0)
    config = CONFIGS[kind](**SHAPE)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float64, attn_implementation=attention
    )
    for parameter in model.parameters():  # biases and norms begin at 0 and 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()


def groups(seed: int) -> list[Group]:
    """Prompts of 1 to 19 tokens, 1 to 5 answers of 1 to 23; some take two turns, some miss."""
    rng = np.random.default_rng(seed)
    made = []

    def ids(most: int) -> list[int]:
        return rng.integers(0, VOCAB, int(rng.integers(1, most))).tolist()

    def say(t: Trajectory, tokens: list[int]) -> None:
        behavior = (-4 * rng.random(len(tokens))).tolist()
        t.extend_sampled(Completion(tokens, behavior, "stop", version=0))

    for index in range(4):
        prompt, members = ids(20), []
        for member in range(int(rng.integers(1, 6))):
            t = Trajectory(status=Status.COMPLETED, temperature=float(rng.choice([0.7, 1.0])))
            # A context of its own after the prompt: only what all members begin with is shared.
            t.extend_context([*prompt, *ids(4)] if index == 3 else prompt)
            say(t, ids(24))
            if index == 1:
                t.extend_context(ids(5))
                say(t, ids(6))
            t.advantage = None if member == 1 else float(rng.normal())
            members.append(t)
        made.append(Group(Task.make("math", str(index)), members, index))
    return made


def rows(seed: int) -> list[PtxRow]:
    rng = np.random.default_rng(100 + seed)
    lengths = rng.integers(2, 20, 3).tolist()
    return [PtxRow(rng.integers(0, VOCAB, n).tolist(), [True] * n) for n in lengths]


class Padded:
    """Plain transformers on one right-padded batch; where everything else is compared with."""

    def __init__(self, kind: str, seed: int) -> None:
        trained = [t for g in groups(seed) for t in g.trajectories if t.advantage is not None]
        ptx = rows(seed)
        sequences = [t.tokens for t in trained] + [r.tokens for r in ptx]
        width = max(map(len, sequences))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
        model = build(kind, "sdpa")
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        heat = torch.tensor([t.temperature for t in trained] + [1.0] * len(ptx))
        logprobs = (logits[:, :-1] / heat[:, None, None]).log_softmax(-1)
        logprobs = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
        masks = [t.sampled[1:] for t in trained]
        policy = torch.cat([logprobs[i][: len(m)][torch.tensor(m)] for i, m in enumerate(masks)])
        rest = torch.cat(
            [logprobs[len(trained) + i][: len(r.tokens) - 1] for i, r in enumerate(ptx)]
        )
        sequence = torch.tensor([i for i, m in enumerate(masks) for on in m if on])
        self.logprobs = table(trained, policy.detach())
        self.old = {k: v - 0.3 * np.sin(k[0] + 7 * k[1]) for k, v in self.logprobs.items()}
        old = torch.tensor([self.old[i, j] for i, j in order(trained)])
        inputs = LossInputs(
            logprobs=policy,
            old_logprobs=old,
            weights=torch.ones_like(old),
            advantages=torch.tensor([t.advantage for t in trained]).double()[sequence],
            sequence=sequence,
            local_sequences=len(trained),
            num_sequences=len(trained),
            num_tokens=len(policy),
        )
        loss = LOSSES[LOSS.name](inputs, LOSS)[0] - PTX_WEIGHT * rest.mean()
        loss.backward()
        self.loss = float(loss.detach())
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters()}


def order(trained: list[Trajectory]) -> Iterator[tuple[int, int]]:
    for i, t in enumerate(trained):
        yield from ((i, int(j)) for j in np.flatnonzero(t.sampled))


def table(trained: list[Trajectory], values: Tensor) -> dict[tuple[int, int], float]:
    """(trajectory, place in it) -> value."""
    return dict(zip(order(trained), values.tolist(), strict=True))


@pytest.fixture(scope="module")
def padded() -> Any:
    cache: dict[tuple[str, int], Padded] = {}

    def get(kind: str, seed: int) -> Padded:
        if (kind, seed) not in cache:
            cache[kind, seed] = Padded(kind, seed)
        return cache[kind, seed]

    return get


def owners(micro: MicroBatch, trained: list[Trajectory]) -> list[tuple[int, int]]:
    """Which trajectory, and where in it, each policy target is: by its unique advantage."""
    index = {np.float32(t.advantage): i for i, t in enumerate(trained)}
    return [
        (index[a], int(micro.positions[place]))
        for a, place in zip(micro.advantages, micro.policy_targets, strict=True)
    ]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("attention", BACKENDS)
@pytest.mark.parametrize("shared", [False, True], ids=["packed", "shared"])
@pytest.mark.parametrize("seed", range(2))
def test_logprobs_loss_and_gradient_equal_the_padded(
    padded: Any, kind: str, attention: str, shared: bool, seed: int
) -> None:
    wanted = padded(kind, seed)
    trained = [t for g in groups(seed) for t in g.trajectories if t.advantage is not None]
    config = LearnerConfig(
        attention=attention, share_prompts=shared, tokens_per_microbatch=80, logits_bytes=4000
    )
    (update,) = make_batch(groups(seed), rows(seed), config, PTX_WEIGHT).updates
    assert len(update.shards[0]) > 1
    assert shared == any((m.prefixes >= 0).any() for m in update.shards[0])
    model = build(kind, attention)
    head = TokenHead(model, config.logits_bytes)
    packed = PackedModel(model, head, attention, torch.float64, torch.device("cpu"))
    loss, found = 0.0, {}
    for micro in update.shards[0]:
        count, ptx = len(micro.policy_targets), micro.ptx_targets
        temperatures = np.concatenate([micro.temperatures, np.ones(len(ptx), np.float32)])
        targets = np.concatenate([micro.policy_targets, ptx])
        places = np.concatenate([micro.policy_places, ptx - 1])
        logprobs, _ = packed.logprobs(micro, targets, places, temperatures)
        who = owners(micro, trained)
        found |= dict(zip(who, logprobs[:count].tolist(), strict=True))
        old = torch.tensor([wanted.old[key] for key in who])
        inputs = LossInputs(
            logprobs=logprobs[:count],
            old_logprobs=old,
            weights=torch.ones_like(old),
            advantages=torch.from_numpy(micro.advantages),
            sequence=torch.from_numpy(micro.policy_sequence),
            local_sequences=len(micro.lengths),
            num_sequences=update.num_sequences,
            num_tokens=update.num_tokens,
        )
        part = LOSSES[LOSS.name](inputs, LOSS)[0]
        part = part - PTX_WEIGHT * logprobs[count:].sum() / update.num_ptx_tokens
        part.backward()
        loss += float(part.detach())
    assert found.keys() == wanted.logprobs.keys()
    assert max(abs(found[k] - wanted.logprobs[k]) for k in found) < 1e-5
    assert loss == pytest.approx(wanted.loss, abs=1e-5)
    gaps = {n: p.grad - wanted.gradients[n] for n, p in model.named_parameters()}
    assert max(float(gap.abs().max()) for gap in gaps.values()) < 1e-5
    assert max(float(g.abs().max()) for g in wanted.gradients.values()) > 1e-2


def test_a_shared_prompt_is_laid_down_once() -> None:
    made = groups(0)[:1]
    members = [t for t in made[0].trajectories if t.advantage is not None]
    config = LearnerConfig(tokens_per_microbatch=512)
    ((micro,),) = make_batch(made, [], config, 0.0).updates[0].shards
    prompt = members[0].sampled.index(True)
    assert len(micro.tokens) == prompt + sum(t.num_sampled for t in members)
    assert micro.prefixes.tolist() == [-1] + [0] * len(members)


def test_a_group_that_does_not_fit_repeats_its_prompt_and_ranks_share_one_group() -> None:
    def made(answers: int) -> list[Group]:
        group = Group(Task.make("math", "x"), [], 0)
        for i in range(answers):
            t = Trajectory(status=Status.COMPLETED, advantage=float(i))
            t.extend_context([1] * 10)
            t.extend_sampled(Completion([2] * 10, [-1.0] * 10, "stop", version=0))
            group.trajectories.append(t)
        return [group]

    small = LearnerConfig(tokens_per_microbatch=45)
    shards = make_batch(made(8), [], small, 0.0).updates[0].shards
    assert sorted(len(m.tokens) for m in shards[0]) == [30, 40, 40]
    two = LearnerConfig(tokens_per_microbatch=512, ranks=2)
    shards = make_batch(made(8), [], two, 0.0).updates[0].shards
    assert [[len(m.tokens) for m in shard] for shard in shards] == [[50], [50]]


def test_gradient_checkpointing_composes_with_shared_prompts() -> None:
    config = LearnerConfig(tokens_per_microbatch=512)
    ((micro,),) = make_batch(groups(0), rows(0), config, 0.1).updates[0].shards
    gradients = []
    for on in (False, True):
        model = build("llama", "segments")
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        head = TokenHead(model, 1)
        packed = PackedModel(model, head, "segments", torch.float64, torch.device("cpu"))
        logprobs, _ = packed.logprobs(micro, micro.policy_targets, micro.policy_places)
        (logprobs * torch.from_numpy(micro.advantages)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)


# -- what is refused at start -------------------------------------------------------------------


@pytest.mark.parametrize("attention", BACKENDS)
def test_a_backend_that_can_be_trained_is_accepted(attention: str) -> None:
    learner = LearnerConfig(attention=attention)
    check_attention(LlamaConfig(**SHAPE), learner, torch.device("cpu"))
    assert attention in ATTENTIONS


def test_a_backend_without_a_backward_pass_on_the_device_is_refused() -> None:
    learner = LearnerConfig(attention="flex_attention", share_prompts=False)
    learner.validate()
    with pytest.raises(ConjointError, match=r"flex_attention has no working backward pass on cpu"):
        check_attention(LlamaConfig(**SHAPE), learner, torch.device("cpu"))


def test_layers_that_mix_sequences_are_refused() -> None:
    config = PretrainedConfig(layer_types=["full_attention", "linear_attention"])
    with pytest.raises(ConjointError, match="linear_attention"):
        check_attention(config, LearnerConfig(), torch.device("cpu"))


def test_a_window_that_shared_prompts_would_ignore_is_refused() -> None:
    config = MistralConfig(**SHAPE, sliding_window=16)
    learner = LearnerConfig(attention="sdpa", tokens_per_microbatch=64)
    with pytest.raises(ConjointError, match=r"share_prompts=false"):
        check_attention(config, learner, torch.device("cpu"))
    alone = LearnerConfig(attention="sdpa", tokens_per_microbatch=64, share_prompts=False)
    check_attention(config, alone, torch.device("cpu"))


def test_segments_refuses_a_sequence_longer_than_the_window() -> None:
    torch.manual_seed(0)
    config = MistralConfig(**SHAPE, sliding_window=16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="segments")
    packed = PackedModel(model, TokenHead(model, 1), "segments", torch.float32, torch.device("cpu"))
    place = np.zeros(1, int)
    packed.logprobs(PackedRow.single(range(16)), place + 1, place)
    with pytest.raises(ConjointError, match="sequence of 17 tokens"):
        packed.logprobs(PackedRow.single(range(17)), place + 1, place)


def test_table_logprobs_are_those_of_log_softmax() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 6, 3, 3, 1])
    logprobs, entropy = table_logprobs(logits, targets)
    wanted = logits.log_softmax(-1)
    torch.testing.assert_close(logprobs, wanted.gather(-1, targets[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(wanted.exp() * wanted).sum(-1))
