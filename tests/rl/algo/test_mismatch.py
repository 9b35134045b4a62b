"""Engine/learner mismatch: the weights by themselves, and what the learner makes of them."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.mismatch import UNCORRECTED, MismatchConfig, mismatch_weights
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.learner.stats import StepStats
from tests.fakes import tiny_llama

TRUNCATE = MismatchConfig(correction="truncate")
SEQUENCE = torch.tensor([0, 0, 1, 1, 1])
RATIOS = torch.tensor([0.4, 1.5, 3.0, 1.0, 0.5])


def weights(config: MismatchConfig) -> tuple[list[float], list[bool]]:
    old = torch.tensor([-1.0, -2.0, -3.0, -0.5, -4.0])
    found, cut = mismatch_weights(old, old - RATIOS.log(), SEQUENCE, 2, config.given("learner"))
    return found.tolist(), cut.tolist()


def test_truncation_caps_each_token() -> None:
    found, cut = weights(MismatchConfig(cap=2.0))
    assert found == pytest.approx([0.4, 1.5, 2.0, 1.0, 0.5])
    assert cut == [False, False, True, False, False]


def test_truncation_of_a_sequence_caps_its_product() -> None:
    found, cut = weights(MismatchConfig(level="sequence", cap=1.2))
    assert found == pytest.approx([0.6, 0.6, 1.2, 1.2, 1.2]), "0.4 * 1.5 and 3 * 1 * 0.5"
    assert cut == [False, False, True, True, True]


def test_a_band_drops_what_lies_outside_and_keeps_the_ratio_inside() -> None:
    found, cut = weights(MismatchConfig(correction="band", low=0.45, high=2.0))
    assert found == pytest.approx([0.0, 1.5, 0.0, 1.0, 0.5])
    assert cut == [True, False, True, False, False]
    found, cut = weights(MismatchConfig(correction="band", level="sequence", low=0.7))
    assert found == pytest.approx([0.0, 0.0, 1.5, 1.5, 1.5])
    assert cut == [True, True, False, False, False]


def test_a_logprob_that_is_no_number_is_never_a_weight() -> None:
    """The gradient is then none either, and the update is skipped and counted."""
    for config in (TRUNCATE, MismatchConfig(correction="band")):
        old = torch.zeros(5)
        behavior = torch.tensor([0.0, math.nan, 0.0, 0.0, 0.0])
        found, _ = mismatch_weights(old, behavior, SEQUENCE, 2, config)
        assert found.isnan().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"correction": "clip"}, "choose one of"),
        ({"level": "batch"}, "choose one of"),
        ({"correction": "none", "cap": 3.0}, r"mismatch\.cap=3\.0 has no effect"),
        ({"correction": "none", "level": "sequence"}, r"mismatch\.level=sequence has no effect"),
        ({"low": 0.9}, r"mismatch\.low=0\.9 has no effect with mismatch\.correction=truncate"),
        ({"correction": "band", "cap": 3.0}, r"mismatch\.cap=3\.0 has no effect"),
        ({"cap": 0.5}, r"mismatch\.cap=0\.5 must be 1 or above"),
        ({"correction": "band", "low": 1.5}, "between them"),
        ({"correction": "band", "high": 0.9}, "between them"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConjointError, match=message):
        MismatchConfig(**keys).validate()
    MismatchConfig(correction="band", level="sequence", low=0.2, high=5.0).validate()
    UNCORRECTED.validate()


def test_the_sampler_as_old_policy_leaves_nothing_to_weigh() -> None:
    assert MismatchConfig().given("learner") == TRUNCATE
    assert MismatchConfig().given("sampler") == UNCORRECTED == UNCORRECTED.given("learner")
    for config in (TRUNCATE, MismatchConfig(cap=3.0), MismatchConfig(correction="band")):
        assert config.given("learner").correction
        with pytest.raises(ConjointError, match=r"holds that already; set loss\.old=learner"):
            config.given("sampler")


# -- in the learner ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def groups(shift: float = 0.0) -> list[Group]:
    """Two groups of two answers of two tokens; the engine's log-probs are made up."""
    made = []
    for index, kind in enumerate(("code", "math")):
        members = []
        for member in range(2):
            t = Trajectory(status=Status.COMPLETED)
            t.extend_context([1 + index, 2])
            t.extend_sampled(Completion([5 + member, 7], [-4.0 - shift, -3.5], "stop", version=0))
            t.advantage = 1.0 - 2 * member
            members.append(t)
        made.append(Group(Task.make(kind, str(index)), members, index))
    return made


def step(
    folder: Path,
    mismatch: MismatchConfig,
    *,
    shift: float = 0.0,
    updates: int = 1,
    lr: float = 1e-2,
) -> tuple[dict[str, float], Tensor]:
    """Metrics of one step, and all weights after it as one vector."""
    config = LearnerConfig(threads=1, zero_stage=0, updates_per_batch=updates)
    loss = LossConfig(tau=0.5, old="learner")
    learner = LearnerRank(folder, config, OptimConfig(lr=lr), loss, 10, mismatch=mismatch)
    metrics = learner.step(make_batch(groups(shift), [], config, 0.0), version=0)
    return metrics, torch.cat([w.flatten() for _, w in learner.named_weights()])


@pytest.mark.parametrize("updates", [1, 2])
def test_behaviour_logprobs_reach_the_update_through_the_weights_only(
    folder: Path, updates: int
) -> None:
    off = [step(folder, UNCORRECTED, shift=s, updates=updates) for s in (0.0, 1.0)]
    assert torch.equal(off[0][1], off[1][1]) and off[0][0]["kl/old"] == off[1][0]["kl/old"]
    assert not any(key.startswith("mismatch") for key in off[0][0])
    on = [step(folder, MismatchConfig(), shift=s, updates=updates) for s in (0.0, 1.0)]
    assert not torch.equal(on[0][1], on[1][1])
    if updates == 1:
        assert on[0][0]["kl/old"] == 0, "old log-probs are the learner's own"
    # A band that no ratio meets leaves no policy gradient at all.
    nothing = MismatchConfig(correction="band", low=1.0, high=1.0)
    assert torch.equal(step(folder, nothing)[1], step(folder, UNCORRECTED, lr=0.0)[1])


def test_weights_belong_to_the_policy_before_the_first_update(folder: Path) -> None:
    """So the second update of a batch has the weights it would have had without the first."""
    moved, still = (step(folder, MismatchConfig(), updates=2, lr=lr)[0] for lr in (1e-2, 0.0))
    keys = [key for key in moved if key.startswith("mismatch")]
    assert len(keys) == 6 and [moved[k] for k in keys] == [still[k] for k in keys]
    assert moved["kl/old"] > 0


def test_share_cut_and_effective_sample_size_by_kind() -> None:
    made = groups()
    config = LearnerConfig()
    batch = make_batch(made, [], config, 0.0)
    (micro,) = batch.updates[0].shards[0]
    # Version 3 is current: tokens of older weights have no gap, and a weight all the same.
    stats = StepStats(batch.kinds, version=3)
    ratios = torch.tensor([4.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    old = torch.from_numpy(micro.behavior_logprobs) + ratios.log()
    found = stats.mismatch_weights(micro, old, TRUNCATE)
    torch.testing.assert_close(found, ratios.clamp(max=2.0))
    metrics = stats.result(1, torch.device("cpu"))
    expected = {"code": 25 / (4 * 7), "math": 1.0, "mean": 49 / (8 * 8)}
    for kind, share in expected.items():
        assert metrics[f"mismatch_ess/{kind}"] == pytest.approx(share)
    cuts = {kind: metrics[f"mismatch_cut/{kind}"] for kind in expected}
    assert cuts == {"code": 0.25, "math": 0.0, "mean": 0.125}


def test_a_batch_that_is_wholly_cut_has_no_effective_sample() -> None:
    batch = make_batch(groups(), [], LearnerConfig(), 0.0)
    (micro,) = batch.updates[0].shards[0]
    stats = StepStats(batch.kinds, version=0)
    far = torch.from_numpy(micro.behavior_logprobs) + 9
    assert not stats.mismatch_weights(micro, far, MismatchConfig(correction="band")).any()
    metrics = stats.result(1, torch.device("cpu"))
    assert metrics["mismatch_ess/mean"] == 0.0 and metrics["mismatch_cut/mean"] == 1.0
