"""The DeepSpeed rank on a tiny random Llama, in this process."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.mismatch import MismatchConfig
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.critic.snapshot import stored_weights
from conjoint.rl.learner.batch import heldout_batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.deepspeed_config import deepspeed_config
from conjoint.rl.learner.optim.param_groups import adamw_groups
from conjoint.rl.learner.optim.schedules import OptimConfig, learning_rate
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.learner.stats import StepStats
from tests.fakes import tiny_llama

VOCAB = 48
ROWS = [PtxRow([5, 6, 7, 8, 9], [False, True, True, True, True]), PtxRow([3, 4], [False, True])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_llama(tmp_path_factory.mktemp("tiny"), vocab_size=VOCAB, tie_word_embeddings=True)
    (path / "tokenizer.json").write_text("{}")
    return path


def rank(
    folder: Path,
    config: LearnerConfig | None = None,
    loss: LossConfig | None = None,
    lr: float = 1e-2,
) -> LearnerRank:
    return LearnerRank(
        folder,
        config or LearnerConfig(threads=1, zero_stage=0),
        OptimConfig(lr=lr),
        loss or LossConfig(old="learner"),
        total_updates=100,
    )


def weights(learner: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.named_weights()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def groups(count: int = 4, temperature: float = 1.0, seed: int = 0) -> list[Group]:
    """Groups of three answers of unequal length, with made-up behaviour log-probs."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        members = []
        prompt = rng.integers(0, VOCAB, int(rng.integers(2, 6))).tolist()
        for member in range(3):
            answer = rng.integers(0, VOCAB, int(rng.integers(2, 9))).tolist()
            t = Trajectory(status=Status.COMPLETED, temperature=temperature)
            t.extend_context(prompt)
            t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", version=0))
            t.reward, t.advantage = float(member), member - 1.0
            members.append(t)
        made.append(Group(Task.make("math" if index % 2 else "code", str(index)), members, index))
    return made


def reference_logprobs(folder: Path, trajectory: Trajectory) -> torch.Tensor:
    """The sampled tokens' log-probs by plain transformers, one unpacked sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([trajectory.tokens])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1] / trajectory.temperature
    logprobs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return logprobs[torch.tensor(trajectory.sampled[1:])]


def at_equal_weights(folder: Path, made: list[Group]) -> list[Group]:
    for g in made:
        for t in g.trajectories:
            found = iter(reference_logprobs(folder, t).tolist())
            t.behavior_logprobs = [next(found) if on else 0.0 for on in t.sampled]
    return made


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
def test_packed_logprobs_equal_unpacked_and_the_gap_says_so(folder: Path, attention: str) -> None:
    config = LearnerConfig(threads=1, zero_stage=0, attention=attention, tokens_per_microbatch=64)
    learner = rank(folder, config)
    made = at_equal_weights(folder, groups(temperature=0.7))
    metrics = learner.step(make_batch(made, ROWS, config, 0.1), version=0)
    assert metrics["gap/max"] < 1e-5
    assert metrics["gap/math"] < 1e-5 and metrics["gap/code"] < 1e-5


def test_gap_counts_only_tokens_of_the_current_version(folder: Path) -> None:
    config = LearnerConfig(threads=1, zero_stage=0)
    made = at_equal_weights(folder, groups())
    stale = made[0].trajectories[0]
    stale.behavior_logprobs = [x - 5.0 for x in stale.behavior_logprobs]
    batch = make_batch(made, [], config, 0.0)
    assert rank(folder, lr=0.0).step(batch, version=0)["gap/max"] == pytest.approx(5.0, abs=1e-4)
    stale.versions = [-1 if v < 0 else 7 for v in stale.versions]
    batch = make_batch(made, [], config, 0.0)
    assert rank(folder, lr=0.0).step(batch, version=0)["gap/max"] < 1e-5
    assert "gap/mean" not in rank(folder, lr=0.0).step(batch, version=3)


def from_nucleus(folder: Path, made: list[Group], top_p: float) -> list[torch.Tensor]:
    """Draws the answers anew from the nucleus, with the log-probs that its engine reports: those of
    the nucleus. Returns the mass of the nucleus of each token, an answer at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator, masses = torch.Generator().manual_seed(0), []
    for t in (t for g in made for t in g.trajectories):
        t.top_p, of_answer = top_p, []
        for place in [i for i, sampled in enumerate(t.sampled) if sampled]:
            with torch.no_grad():
                logits = model(torch.tensor([t.tokens[:place]])).logits[0, -1] / t.temperature
            ranked, order = logits.softmax(-1).sort(descending=True)
            kept = int((ranked.cumsum(0) < top_p).sum()) + 1
            mass = ranked[:kept].sum()
            drawn = int(torch.multinomial(ranked[:kept], 1, generator=generator))
            t.tokens[place] = int(order[drawn])
            t.behavior_logprobs[place] = float((ranked[drawn] / mass).log())
            of_answer.append(mass)
        masses.append(torch.stack(of_answer))
    return masses


def test_a_nucleus_neither_hides_in_the_gap_nor_fools_it(folder: Path) -> None:
    config = LearnerConfig(threads=1, zero_stage=0)
    made = groups(temperature=0.7)
    masses = from_nucleus(folder, made, 0.6)
    assert min(float(m.min()) for m in masses) >= 0.6 and float(torch.cat(masses).max()) < 0.98
    assert rank(folder, lr=0.0).step(make_batch(made, [], config, 0.0), version=0)["gap/max"] < 1e-5
    # An engine of other weights is still found, on whichever side its log-probs lie.
    for shift in (3.0, -3.0):
        first = copy.deepcopy(made)
        for t in first[0].trajectories:
            t.behavior_logprobs = [x + shift for x in t.behavior_logprobs]
        gap = rank(folder, lr=0.0).step(make_batch(first, [], config, 0.0), version=0)["gap/max"]
        assert 3.0 + np.log(0.6) - 1e-4 <= gap <= 3.0 - np.log(0.6) + 1e-4
    # The same answers, as if they had been drawn from all tokens: the mass looks like a gap.
    for t in (t for g in made for t in g.trajectories):
        t.top_p = 1.0
    blind = rank(folder, lr=0.0).step(make_batch(made, [], config, 0.0), version=0)["gap/max"]
    assert blind == pytest.approx(-float(torch.cat(masses).log().min()), abs=1e-4)


def test_a_token_of_a_nucleus_weighs_its_mass(folder: Path) -> None:
    """So that the mean over what was drawn is that of the learner's own policy on the nucleus."""
    config = LearnerConfig(threads=1, zero_stage=0)
    made = groups(count=1, temperature=0.7)
    masses = torch.cat(from_nucleus(folder, made, 0.6))
    (micro,) = make_batch(made, [], config, 0.0).updates[0].shards[0]
    old = rank(folder)._forward(micro).logprobs.detach()
    weights = StepStats(("code",), 0).mismatch_weights(micro, old, MismatchConfig())
    torch.testing.assert_close(weights.sort().values, masses.sort().values, atol=1e-5, rtol=0)


def test_probe_logprobs_equal_transformers(folder: Path) -> None:
    t = groups()[0].trajectories[0]
    t.sampled = [False] + [True] * (len(t.tokens) - 1)
    ours = rank(folder).logprobs(t.tokens)
    assert ours == pytest.approx(reference_logprobs(folder, t).tolist(), abs=1e-5)


def first_update(folder: Path, made: list[Group], rows: list[PtxRow], weight: float) -> dict:
    """The gradient of one step as AdamW saw it: its first moment after the step / (1 - beta1)."""
    config = LearnerConfig(threads=1, zero_stage=0, gradient_clipping=0.0)
    learner = rank(folder, config)
    learner.step(make_batch(made, rows, config, weight), version=0)
    named = dict(learner._engine.module.named_parameters())
    return {n: learner._engine.optimizer.state[p]["exp_avg"] / 0.1 for n, p in named.items()}


def distance(a: dict, b: dict) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_step_gradient_equals_a_plain_loop(folder: Path) -> None:
    """REINFORCE with mean baseline + PTX, written out without packing, against the learner."""
    made = groups()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    trained = [t for g in made for t in g.trajectories]

    def logprobs(tokens: list[int], mask: list[bool]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        table = model(ids).logits[0, :-1].log_softmax(-1)
        return table.gather(-1, ids[0, 1:, None])[:, 0][torch.tensor(mask[1:])].sum()

    policy = -sum(t.advantage * logprobs(t.tokens, t.sampled) for t in trained) / len(trained)
    ptx = -sum(logprobs(r.tokens, r.trained) for r in ROWS) / sum(sum(r.trained) for r in ROWS)
    (policy + 0.3 * ptx).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert distance(first_update(folder, made, ROWS, 0.3), expected) < 1e-5


def test_ptx_gradient_joins_the_same_update_and_scales_with_its_weight(folder: Path) -> None:
    made = groups()
    base = first_update(folder, made, ROWS, 0.0)
    once, twice = (first_update(folder, made, ROWS, w) for w in (0.5, 1.0))
    assert distance(base, first_update(folder, made, [], 0.0)) < 1e-6
    assert distance(once, base) > 1e-3
    doubled = {k: base[k] + 2 * (once[k] - base[k]) for k in base}
    assert distance(twice, doubled) < 1e-5


def test_masked_trajectories_contribute_exactly_nothing(folder: Path) -> None:
    with_masked, without = groups(), groups()
    for g in with_masked:
        g.trajectories[0].advantage = None
        g.trajectories[0].reward = None
    for g in without:
        del g.trajectories[0]
    a, b = (first_update(folder, made, [], 0.0) for made in (with_masked, without))
    assert distance(a, b) == 0.0
    assert distance(a, first_update(folder, groups(), [], 0.0)) > 1e-3


def test_temperature_divides_policy_logits_and_not_ptx(folder: Path) -> None:
    cold, warm = groups(temperature=0.5), groups(temperature=1.0)
    for g in [*cold, *warm]:
        for t in g.trajectories:
            t.advantage = 0.0
    # With advantage 0 on-policy only PTX has a gradient: it must not see the temperature.
    a, b = (first_update(folder, made, ROWS, 1.0) for made in (cold, warm))
    assert distance(a, b) == 0.0
    a, b = (first_update(folder, groups(temperature=x), [], 0.0) for x in (0.5, 1.0))
    assert distance(a, b) > 1e-3


def run_steps(folder: Path, config: LearnerConfig, steps: int, learner=None) -> LearnerRank:
    learner = learner or rank(folder, config)
    for step in range(steps):
        batch = make_batch(groups(seed=step), ROWS, config, 0.2)
        learner.step(batch, version=step)
    return learner


def test_two_updates_a_batch_differ_from_one_and_tau_then_matters(folder: Path) -> None:
    def after(updates: int, tau: float) -> tuple[dict, dict]:
        config = LearnerConfig(threads=1, zero_stage=0, updates_per_batch=updates)
        learner = rank(folder, config, LossConfig(tau=tau, old="learner"))
        metrics = learner.step(make_batch(groups(), [], config, 0.0), version=0)
        return metrics, weights(learner)

    one, one_weights = after(1, 0.1)
    two, two_weights = after(2, 0.1)
    assert (one["updates"], two["updates"]) == (1, 2)
    assert one["kl/old"] == 0 and two["kl/old"] > 0, "old is the policy before the first update"
    assert not same(one_weights, two_weights)
    assert same(one_weights, after(1, 5.0)[1])
    assert not same(two_weights, after(2, 5.0)[1])


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("name", ["k2", "k2_5"])
def test_how_far_the_sampler_is_decides_the_pull_of_k2(
    folder: Path, name: str, updates: int
) -> None:
    """Stale weights and an engine that disagrees are in the log-ratio, from the first update on."""

    def after(shift: float, tau: float, old: str | None) -> dict[str, torch.Tensor]:
        """`shift`: nats by which each token was likelier to the sampler than to the learner."""
        config = LearnerConfig(threads=1, zero_stage=0, updates_per_batch=updates)
        learner = rank(folder, config, LossConfig(name, old, tau=tau))
        made = groups()
        for t in (t for g in made for t in g.trajectories):
            own = [float("nan"), *learner.logprobs(t.tokens)]
            t.behavior_logprobs = [x + shift for x in own]
        learner.step(make_batch(made, [], config, 0.0), version=0)
        return weights(learner)

    for old, moved in ((None, True), ("sampler", True), ("learner", False)):
        assert same(after(0.0, 0.1, old), after(0.5, 0.1, old)) is not moved
    assert not same(after(0.5, 0.1, None), after(0.5, 1.0, None)), "tau acts in the first update"
    fresh, decoupled = after(0.0, 0.1, "sampler"), after(0.0, 0.1, "learner")
    assert max(float((fresh[k] - decoupled[k]).abs().max()) for k in fresh) < 1e-4


def test_behaviour_logprobs_never_change_the_update_of_an_old_learner(folder: Path) -> None:
    made, other = groups(), groups()
    for g in other:
        for t in g.trajectories:
            t.behavior_logprobs = [x * 3 for x in t.behavior_logprobs]
    config = LearnerConfig(threads=1, zero_stage=0, updates_per_batch=2)
    first, second = rank(folder, config), rank(folder, config)
    first.step(make_batch(made, [], config, 0.0), 0)
    second.step(make_batch(other, [], config, 0.0), 0)
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_save_load_continue_is_bit_equal(folder: Path, tmp_path: Path, stage: int) -> None:
    config = LearnerConfig(threads=1, zero_stage=stage, updates_per_batch=2)
    whole = run_steps(folder, config, 2)
    whole.save(tmp_path / "ckpt")
    run_steps(folder, config, 2, whole)
    resumed = rank(folder, config)
    resumed.load(tmp_path / "ckpt")
    run_steps(folder, config, 2, resumed)
    assert same(weights(whole), weights(resumed))


def test_saved_folder_opens_in_transformers(folder: Path, tmp_path: Path) -> None:
    learner = run_steps(folder, LearnerConfig(threads=1, zero_stage=0), 1)
    learner.save(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert same(dict(opened.named_parameters()), weights(learner))
    assert (tmp_path / "hf" / "tokenizer.json").is_file()
    assert "segments" not in json.dumps(opened.config.to_dict())


@pytest.mark.parametrize("stage", [0, 3])
def test_a_snapshot_of_the_weights_is_read_back_bit_for_bit_as_an_engine_is_sent_them(
    folder: Path, tmp_path: Path, stage: int
) -> None:
    learner = run_steps(folder, LearnerConfig(threads=1, zero_stage=stage), 1)
    learner.save_model(tmp_path / "judge")
    found = dict(stored_weights(tmp_path / "judge"))
    assert found.keys() == weights(learner).keys() and same(found, weights(learner))
    assert not list(tmp_path.glob("*/deepspeed"))
    with pytest.raises(ConjointError, match="holds no"):
        list(stored_weights(tmp_path))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nonfinite_loss_skips_the_update_and_leaves_no_trace(folder: Path, stage: int) -> None:
    config = LearnerConfig(threads=1, zero_stage=stage, tokens_per_microbatch=24)
    broken, clean = rank(folder, config), rank(folder, config)
    start = weights(broken)
    bad = groups()
    bad[1].trajectories[0].advantage = float("inf")
    metrics = broken.step(make_batch(bad, ROWS, config, 0.1), version=0)
    assert metrics["nonfinite"] == 1 and metrics["updates"] == 0 and "loss/total" not in metrics
    assert same(weights(broken), start)
    run_steps(folder, config, 2, broken)
    run_steps(folder, config, 2, clean)
    assert same(weights(broken), weights(clean))


def test_held_out_ptx_loss_is_the_plain_cross_entropy_and_trains_nothing(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in ROWS:
        ids, on = torch.tensor(row.tokens), torch.tensor(row.trained[1:])
        with torch.no_grad():
            table = model(ids[None]).logits[0, :-1].log_softmax(-1)
        total -= float(table.gather(-1, ids[1:, None])[:, 0][on].sum())
        count += int(on.sum())
    for tokens in (64, 5):
        config = LearnerConfig(threads=1, zero_stage=1, tokens_per_microbatch=tokens)
        learner = rank(folder, config)
        start = weights(learner)
        batch = heldout_batch(ROWS, config)
        assert learner.ptx_loss(batch) == pytest.approx(total / count, rel=1e-5)
        assert same(weights(learner), start)


def test_learning_rate_zero_changes_nothing(folder: Path) -> None:
    learner = rank(folder, lr=0.0)
    start = weights(learner)
    run_steps(folder, LearnerConfig(threads=1, zero_stage=0), 2, learner)
    assert same(weights(learner), start)


def test_no_global_random_state_is_drawn(folder: Path) -> None:
    before = torch.random.get_rng_state()
    run_steps(folder, LearnerConfig(threads=1, zero_stage=0), 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_gradient_checkpointing_gives_the_same_update(folder: Path) -> None:
    plain = run_steps(folder, LearnerConfig(threads=1, zero_stage=1), 1)
    config = LearnerConfig(threads=1, zero_stage=1, gradient_checkpointing=True)
    saved = run_steps(folder, config, 1)
    a, b = weights(plain), weights(saved)
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-6


def test_gradient_clipping_bounds_the_reported_norm_not_the_report(folder: Path) -> None:
    norms = {}
    for stage in (0, 1):
        config = LearnerConfig(threads=1, zero_stage=stage)
        batch = make_batch(groups(), ROWS, config, 0.2)
        norms[stage] = rank(folder, config).step(batch, 0)["grad_norm"]
    assert norms[0] > 1.0, "the norm is reported before clipping"
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ConjointError, match=r"no config\.json"):
        rank(tmp_path)


def test_raw_deepspeed_keys_merge_and_contradictions_are_refused() -> None:
    def merged(**raw: object) -> dict:
        return deepspeed_config(LearnerConfig(deepspeed=raw, zero_stage=1), OptimConfig())

    config = merged(wall_clock_breakdown=True, zero_optimization={"reduce_bucket_size": 7})
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == 1
    assert merged(zero_optimization={"stage": 1})["zero_optimization"]["stage"] == 1
    for raw, key in (
        ({"zero_optimization": {"stage": 3}}, r"learner\.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, r"learner\.offload"),
        ({"bf16": {"enabled": True}}, r"learner\.dtype"),
        ({"optimizer": {"params": {"lr": 1.0}}}, "optim"),
        ({"scheduler": {"type": "WarmupLR"}}, r"optim\.schedule"),
        ({"gradient_accumulation_steps": 4}, r"tokens_per_microbatch"),
        ({"no_such_key": 1}, "not a key that DeepSpeed reads"),
    ):
        with pytest.raises(ConjointError, match=key):
            merged(**raw)


def test_gradients_of_what_answers_share_are_added_in_one_order(folder: Path) -> None:
    rank(folder, LearnerConfig(threads=2, zero_stage=0))
    # What many answers read of few prompts, out of order, so that both threads add to each.
    places = torch.from_numpy(np.random.default_rng(0).integers(0, 8, 800))
    hidden, given = torch.zeros(8, 128, requires_grad=True), torch.randn(800, 128)
    seen = set()
    for _ in range(100):
        hidden.grad = None
        hidden[places].backward(given)
        seen.add(hidden.grad.numpy().tobytes())  # type: ignore[attr-defined]
    assert len(seen) == 1


def test_learner_config_refuses_contradictions() -> None:
    for bad in (
        {"dtype": "bf16", "zero_stage": 0},
        {"offload": True},
        {"attention": "flash_attention_2"},
        {"attention": "ring"},
        {"attention": "flex_attention"},
        {"logits_bytes": 0},
        {"ranks": 0},
        {"zero_stage": 4},
    ):
        with pytest.raises(ConjointError, match=r"learner\."):
            LearnerConfig(**bad).validate()
    LearnerConfig().validate()


def test_learning_rate_schedules() -> None:
    warm = OptimConfig(lr=1.0, warmup_updates=4)
    assert [learning_rate(warm, u, 100) for u in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    linear = OptimConfig(lr=1.0, warmup_updates=2, schedule="linear")
    assert [learning_rate(linear, u, 6) for u in (2, 4, 6)] == [1.0, 0.5, 0.0]
    cosine = OptimConfig(lr=1.0, schedule="cosine")
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.5)
    with pytest.raises(ConjointError, match="cosine"):
        OptimConfig(schedule="step").validate()


def test_norms_and_biases_do_not_decay(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    decay, keep = adamw_groups(model.parameters(), 0.1)
    assert decay["weight_decay"] == 0.1 and all(p.ndim == 2 for p in decay["params"])
    assert keep["weight_decay"] == 0.0 and len(keep["params"]) == 5
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert adamw_groups(frozen.parameters(), 0.1) == []
