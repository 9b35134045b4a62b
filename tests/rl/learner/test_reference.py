"""The reference policy of the KL term, beside a tiny learner."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.forward.reference import Reference
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from tests.fakes import tiny_llama

FROZEN = LossConfig(kl_weight=5.0)
EMA = LossConfig(kl_weight=5.0, reference="ema", ema_decay=0.75)
ROWS = [PtxRow([5, 6, 7, 8], [False, True, True, True])]
SEEDS = range(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)


def learner(
    folder: Path, loss: LossConfig, stage: int = 0, tokens: int = 4096, share: bool = True
) -> LearnerRank:
    config = LearnerConfig(
        threads=1, zero_stage=stage, tokens_per_microbatch=tokens, share_prompts=share
    )
    return LearnerRank(folder, config, OptimConfig(lr=1e-2), loss, total_updates=20)


def one_batch(rank: LearnerRank, seed: int, advantage: float = 1.0) -> Batch:
    """Two answers of unequal length and one PTX row."""
    generator = torch.Generator().manual_seed(seed)
    members = []
    for member in range(2):
        t = Trajectory(status=Status.COMPLETED, temperature=0.7)
        t.extend_context([1, 2])
        answer = torch.randint(0, 48, (3 + 2 * member,), generator=generator).tolist()
        t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", version=0))
        t.advantage = advantage * (1 - 2 * member)
        members.append(t)
    return make_batch([Group(Task.make("math", "1"), members)], ROWS, rank._config, 0.1)


def step(rank: LearnerRank, seed: int, advantage: float = 1.0) -> dict[str, float]:
    return rank.step(one_batch(rank, seed, advantage), version=seed)


def weights(rank: LearnerRank) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in rank.named_weights()}


def held(rank: LearnerRank) -> dict[str, Tensor]:
    assert rank._reference is not None
    return {name: p.clone() for name, p in rank._reference.model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_without_a_weight_no_reference_is_held_and_the_update_is_the_same(folder: Path) -> None:
    off = learner(folder, LossConfig(old="learner"))
    assert off._reference is None
    metrics = step(off, 0)
    assert "kl/reference" not in metrics and metrics["kl/old"] == 0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_frozen_reference_stays_the_start_policy_and_pulls(folder: Path, stage: int) -> None:
    free = learner(folder, LossConfig(kl_weight=1e-9), stage)
    pulled = learner(folder, FROZEN, stage, tokens=8)
    start = weights(pulled)
    assert same(held(pulled), start)
    found = [
        (step(free, seed)["kl/reference"], step(pulled, seed)["kl/reference"]) for seed in SEEDS
    ]
    assert found[0] == pytest.approx((0, 0), abs=1e-6), "at its first step it is the policy"
    assert found[-1][1] < 0.75 * found[-1][0]
    assert same(held(pulled), start)


def test_its_logprobs_are_those_of_plain_transformers_at_the_sampling_temperature(folder) -> None:
    rank = learner(folder, LossConfig(kl_weight=1e-9), tokens=8, share=False)
    step(rank, 0)
    batch = one_batch(rank, 1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for micro in batch.updates[0].shards[0]:
        ref = rank._ref_logprobs(micro)
        assert ref is not None and not ref.requires_grad
        starts = [0, *micro.lengths.cumsum()[:-1].tolist()]
        expected = []
        for place, sequence in zip(micro.policy_targets, micro.policy_sequence, strict=True):
            ids = torch.from_numpy(micro.tokens[starts[sequence] : place + 1])
            with torch.no_grad():
                logits = model(ids[None, :-1]).logits[0, -1] / 0.7
            expected.append(float(logits.log_softmax(-1)[ids[-1]]))
        assert ref.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_average_follows_each_applied_update_and_no_skipped_one(
    folder: Path, stage: int
) -> None:
    rank = learner(folder, EMA, stage)
    expected = weights(rank)
    for seed in range(2):
        step(rank, seed)
        new = weights(rank)
        expected = {n: 0.75 * w + 0.25 * new[n] for n, w in expected.items()}
    found = held(rank)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert not same(found, weights(rank))
    assert step(rank, 2, advantage=float("inf"))["nonfinite"] == 1
    assert same(held(rank), found)


def test_an_average_of_bf16_weights_is_kept_in_fp32(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    reference = Reference(model, 0.999, torch.device("cpu"))
    name, parameter = next(iter(model.named_parameters()))
    moved = {n: p.detach() * (1 + 2**-6) for n, p in model.named_parameters()}
    for _ in range(200):
        reference.follow(moved.items())
    assert reference.model.get_parameter(name).dtype == torch.bfloat16
    # In bf16 a thousandth of this change would be rounded away each time.
    parameter = parameter.detach()
    share = (reference._weights[name] - parameter).norm() / (moved[name] - parameter).norm()
    assert float(share) == pytest.approx(1 - 0.999**200, rel=0.02)


@pytest.mark.parametrize("stage", [0, 1, 3])
@pytest.mark.parametrize("loss", [FROZEN, EMA], ids=["frozen", "ema"])
def test_save_load_continue_is_bit_equal(
    folder: Path, tmp_path: Path, stage: int, loss: LossConfig
) -> None:
    whole = learner(folder, loss, stage)
    for seed in range(2):
        step(whole, seed)
    whole.save(tmp_path)
    resumed = learner(folder, loss, stage)
    resumed.load(tmp_path)
    assert same(held(whole), held(resumed))
    for rank in (whole, resumed):
        for seed in range(2, 4):
            step(rank, seed)
    assert same(weights(whole), weights(resumed)) and same(held(whole), held(resumed))


def test_a_checkpoint_without_a_reference_says_so(folder: Path, tmp_path: Path) -> None:
    learner(folder, LossConfig()).save(tmp_path)
    with pytest.raises(ConjointError, match=r"no reference\.safetensors.*loss\.kl_weight=0"):
        learner(folder, EMA).load(tmp_path)
