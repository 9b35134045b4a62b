import dataclasses
import math

import pytest
import torch
from torch import Tensor

from conjoint.envs.types import ConjointError
from conjoint.rl.algo.losses import (
    KL_ESTIMATORS,
    LOSS_KEYS,
    LOSSES,
    LossConfig,
    LossInputs,
    reference_kl,
)
from conjoint.rl.config.compose import load_config

SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
ADVANTAGES = torch.tensor([0.5, -0.25, 0.0])


def inputs(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor = ADVANTAGES,
    weights: Tensor | None = None,
    ref: Tensor | None = None,
) -> LossInputs:
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=old,
        weights=torch.ones_like(old) if weights is None else weights,
        advantages=advantages.to(old.dtype)[SEQUENCE],
        sequence=SEQUENCE,
        local_sequences=3,
        num_sequences=3,
        num_tokens=9,
        ref_logprobs=ref,
    )


def random_logprobs(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(9, generator=generator, dtype=torch.float64) * 3


def gradient(
    name: str, logprobs: Tensor, old: Tensor, config: LossConfig, **more: Tensor
) -> Tensor:
    leaf = logprobs.clone().requires_grad_()
    LOSSES[name](inputs(leaf, old, **more), config)[0].backward()
    assert leaf.grad is not None
    return leaf.grad


def form_b(x: LossInputs, tau: float) -> Tensor:
    """-stopgrad(A - tau D) * sum logp."""
    d = x.per_sequence(x.logprobs - x.old_logprobs)
    return -((ADVANTAGES - tau * d).detach() * x.per_sequence(x.logprobs)).sum() / 3


def form_c(x: LossInputs, tau: float) -> Tensor:
    """-A * sum logp + (tau/2) D^2."""
    d = x.per_sequence(x.logprobs - x.old_logprobs)
    return (-ADVANTAGES * x.per_sequence(x.logprobs) + tau / 2 * d.square()).sum() / 3


@pytest.mark.parametrize("form", [form_b, form_c])
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_k2_agrees_in_gradient_with_its_other_two_forms(form, tau: float) -> None:
    logprobs, old = random_logprobs(0), random_logprobs(1)
    leaf = logprobs.clone().requires_grad_()
    form(inputs(leaf, old), tau).backward()
    ours = gradient("k2", logprobs, old, LossConfig(tau=tau))
    assert leaf.grad is not None
    torch.testing.assert_close(ours, leaf.grad, rtol=0, atol=1e-9)


def test_tau_matters_only_off_policy() -> None:
    current, old = random_logprobs(0), random_logprobs(1)
    low, high = LossConfig(tau=0.1), LossConfig(tau=1.0)
    torch.testing.assert_close(
        gradient("k2", current, current, low), gradient("k2", current, current, high)
    )
    assert not torch.allclose(gradient("k2", current, old, low), gradient("k2", current, old, high))


def test_equal_rewards_only_pull_the_log_ratio_to_zero() -> None:
    old = random_logprobs(1)
    leaf = (old + 0.3).requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        LOSSES["k2"](inputs(leaf, old, torch.zeros(3)), LossConfig(tau=1.0))[0].backward()
        optimizer.step()
    d = inputs(leaf, old).per_sequence(leaf.detach() - old)
    assert d.abs().max() < 1e-6
    on_policy = gradient("k2", old, old, LossConfig())
    assert torch.equal(on_policy[5:], torch.zeros(4, dtype=torch.float64)), "advantage 0, D 0"


def test_k2_stationary_point_is_advantage_over_tau() -> None:
    old = random_logprobs(1)
    leaf = old.clone().requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        LOSSES["k2"](inputs(leaf, old), LossConfig(tau=0.5))[0].backward()
        optimizer.step()
    d = inputs(leaf, old).per_sequence(leaf.detach() - old)
    torch.testing.assert_close(d, ADVANTAGES.double() / 0.5, rtol=0, atol=1e-4)


def test_tabular_minimiser_is_the_tilted_old_policy() -> None:
    """With the exact tau log Z as baseline the minimiser is pi_old exp(r/tau) / Z (K1.5, 2.3.2)."""
    tau, reward = 0.5, torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    old = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    log_z = torch.logsumexp(old + reward / tau, 0)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        x = LossInputs(
            logprobs=logits.log_softmax(0),
            old_logprobs=old,
            weights=torch.ones(3),
            advantages=reward - tau * log_z,
            sequence=torch.arange(3),
            local_sequences=3,
            num_sequences=3,
            num_tokens=3,
        )
        LOSSES["k2"](x, LossConfig(tau=tau))[0].backward()
        optimizer.step()
    expected = (old + reward / tau - log_z).exp()
    torch.testing.assert_close(logits.detach().softmax(0), expected, rtol=0, atol=1e-6)


def test_grpo_clips_by_the_sign_of_the_advantage() -> None:
    old = torch.zeros(9, dtype=torch.float64)
    up, down = old + 0.5, old - 0.5
    config = LossConfig(name="grpo", clip_low=0.2, clip_high=0.3)
    raised, lowered = gradient("grpo", up, old, config), gradient("grpo", down, old, config)
    # A positive advantage stops pulling above 1.3, a negative one below 0.8; not the other way.
    assert raised[:3].eq(0).all() and raised[3:5].ne(0).all()
    assert lowered[:3].ne(0).all() and lowered[3:5].eq(0).all()
    _, metrics = LOSSES["grpo"](inputs(up, old), config)
    assert float(metrics["clip_share"]) == pytest.approx(3 / 9)


LENGTHS = torch.tensor([3.0, 2.0, 4.0], dtype=torch.float64)[SEQUENCE]
WEIGHTS = {  # of a token's REINFORCE gradient at the old policy, where no ratio matters yet
    "k2": torch.full((9,), 1 / 3),
    "k2_5": torch.full((9,), 1 / 9),
    "grpo": 1 / (3 * LENGTHS),
    "dr_grpo": torch.full((9,), 1 / (3 * 1024)),
    "dapo": torch.full((9,), 1 / 9),
    "gspo": 1 / (3 * LENGTHS),
    "cispo": torch.full((9,), 1 / 9),
    "rloo": torch.full((9,), 1 / 3),
    "reinforce_pp": torch.full((9,), 1 / 9),
}


@pytest.mark.parametrize("name", LOSSES)
def test_at_the_old_policy_each_objective_is_reinforce_in_its_own_mean(name: str) -> None:
    logprobs = random_logprobs(0)
    grad = gradient(name, logprobs, logprobs, LossConfig(name=name))
    expected = -ADVANTAGES.double()[SEQUENCE] * WEIGHTS[name]
    torch.testing.assert_close(grad, expected, check_dtype=False)


def test_k2_5_masks_exactly_the_tokens_outside_its_band_and_pulls_them_still() -> None:
    old = random_logprobs(1)
    shift = torch.tensor([0.3, 0.24, -0.3, 0.3, -0.3, 0.3, -0.3, 0.1, -0.1], dtype=torch.float64)
    config = LossConfig(name="k2_5", tau=0.1)
    grad = gradient("k2_5", old + shift, old, config) * 9
    pull = 2 * config.tau * shift
    reward = shift.exp() * ADVANTAGES.double()[SEQUENCE] * (shift.abs() <= 0.25)
    torch.testing.assert_close(grad, pull - reward)
    _, metrics = LOSSES["k2_5"](inputs(old + shift, old), config)
    assert float(metrics["clip_share"]) == pytest.approx(6 / 9)


def test_cispo_keeps_the_gradient_of_a_token_whose_ratio_is_cut() -> None:
    old = random_logprobs(1)
    config = LossConfig(name="cispo", max_ratio=2.0)
    grad = gradient("cispo", old + 3.0, old, config)
    torch.testing.assert_close(grad, -2.0 * ADVANTAGES.double()[SEQUENCE] / 9)


@pytest.mark.parametrize("name", LOSSES)
def test_split_micro_batches_add_up(name: str) -> None:
    whole = inputs(random_logprobs(0), random_logprobs(1))
    parts = []
    for places in (slice(0, 5), slice(5, 9)):
        per_token = {
            key: getattr(whole, key)[places]
            for key in ("logprobs", "old_logprobs", "weights", "advantages", "sequence")
        }
        parts.append(dataclasses.replace(whole, **per_token))
    config = LossConfig(name=name)
    loss, metrics = LOSSES[name](whole, config)
    if name == "k2":
        # A sequence outside the part has A = 0 and D = 0 there: nothing is counted twice.
        assert LOSSES[name](parts[0], config)[0] < loss
    torch.testing.assert_close(sum(LOSSES[name](p, config)[0] for p in parts), loss)
    for key in metrics:
        torch.testing.assert_close(
            sum(LOSSES[name](p, config)[1][key] for p in parts), metrics[key]
        )


def test_a_loss_cannot_take_behaviour_logprobs_for_old_ones() -> None:
    assert not any("behavior" in f.name for f in dataclasses.fields(LossInputs))


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_scales_the_policy_gradient_of_its_token_and_nothing_else(name: str) -> None:
    old = random_logprobs(1)
    current = old + torch.linspace(-0.2, 0.2, 9, dtype=torch.float64)
    weights = torch.tensor([0.0, 2.0, 1.0, 0.5, 1.0, 0.0, 1.5, 1.0, 0.1], dtype=torch.float64)
    config = LossConfig(name=name, kl_weight=0.3)
    ref = random_logprobs(2)
    # Without an advantage only the pulls to the old policy and to the reference are left.
    pull = gradient(name, current, old, config, advantages=torch.zeros(3), ref=ref)
    assert pull.ne(0).all()
    plain = gradient(name, current, old, config, ref=ref) - pull
    weighted = gradient(name, current, old, config, ref=ref, weights=weights) - pull
    torch.testing.assert_close(weighted, weights * plain, rtol=0, atol=1e-12)
    assert plain[:5].any()
    assert torch.equal(
        gradient(name, current, old, config, ref=ref),
        gradient(name, current, old, config, ref=ref, weights=torch.ones_like(old)),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_kl_to_the_reference_is_averaged_as_the_objectives_own_tokens(name: str) -> None:
    """On-policy k1 with the ratio has the gradient (k1 + 1) of a token, in the objective's mean."""
    old, ref = random_logprobs(1), random_logprobs(2)
    config = LossConfig(name=name, kl_weight=0.3, kl_estimator="k1")
    with_kl = gradient(name, old, old, config, ref=ref) - gradient(name, old, old, config)
    expected = 0.3 * (old - ref + 1) * WEIGHTS[name]
    if name == "gspo":  # the ratio is the sequence's: each token's k1 counts for all of them
        mean = inputs(old, old).per_sequence_mean(old - ref)[SEQUENCE]
        expected = 0.3 * (mean + 1) * WEIGHTS[name]
    torch.testing.assert_close(with_kl, expected, check_dtype=False)


def test_kl_estimators_agree_in_expectation_and_with_the_ratio_so_do_their_gradients() -> None:
    """Exact sums over an alphabet of five instead of samples; the old policy is not the current."""
    generator = torch.Generator().manual_seed(3)
    logits, old, ref = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    old, ref = old.log_softmax(0), ref.log_softmax(0)

    def policy() -> Tensor:
        return logits.clone().requires_grad_()

    exact = policy()
    p = exact.log_softmax(0)
    kl = (p.exp() * (p - ref)).sum()
    kl.backward()
    for name in ("k1", "k3"):
        leaf = policy()
        x = dataclasses.replace(
            inputs(old, old), logprobs=leaf.log_softmax(0), old_logprobs=old, ref_logprobs=ref
        )
        config = LossConfig(kl_weight=1.0, kl_estimator=name)
        estimate = (old.exp() * reference_kl(x, config, x.log_ratio)).sum()
        estimate.backward()
        torch.testing.assert_close(estimate, kl)
        torch.testing.assert_close(leaf.grad, exact.grad)
    leaf = policy()
    q = leaf.log_softmax(0)
    (q.detach().exp() * KL_ESTIMATORS["k2"](q - ref)).sum().backward()
    torch.testing.assert_close(leaf.grad, exact.grad), "k2 on-policy needs no ratio"


def test_without_a_reference_the_loss_is_the_same_whatever_the_weight() -> None:
    old, current = random_logprobs(1), random_logprobs(0)
    for name in LOSSES:
        a, b = (gradient(name, current, old, LossConfig(name, kl_weight=w)) for w in (0.0, 0.5))
        assert torch.equal(a, b)


def test_rloo_is_one_action_and_its_clip_holds_whole_answers() -> None:
    old = random_logprobs(1)
    # Sums: 0.3 with A > 0 is above log 1.2, -0.1 with A < 0 is inside.
    current = old + torch.tensor([0.5, -0.1, -0.1, -0.05, -0.05, 0, 0, 0, 0], dtype=torch.float64)
    config = LossConfig(name="rloo")
    grad = gradient("rloo", current, old, config)
    assert grad[:3].eq(0).all()
    torch.testing.assert_close(grad[3:5], torch.full((2,), 0.25 / 3).double() * math.exp(-0.1))
    assert float(LOSSES["rloo"](inputs(current, old), config)[1]["clip_share"]) == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kl_estimator": "k2"}, r"loss\.kl_estimator=k2 has no effect with loss\.kl_weight=0"),
        ({"reference": "ema"}, r"loss\.reference=ema has no effect with loss\.kl_weight=0"),
        (
            {"kl_weight": 0.1, "ema_decay": 0.5},
            r"loss\.ema_decay=0\.5 has no effect with loss\.ref",
        ),
        ({"kl_weight": 0.1, "kl_estimator": "k4"}, r"choose one of \['k1', 'k2', 'k3'\]"),
        ({"kl_weight": 0.1, "reference": "old"}, r"choose one of \['ema', 'frozen'\]"),
        ({"kl_weight": -0.1}, r"loss\.kl_weight=-0\.1 must be 0"),
        ({"kl_weight": 0.1, "reference": "ema", "ema_decay": 1.0}, "between 0 and 1"),
        ({"kl_weight": 0.1, "kl_estimator": "k1", "kl_ratio": False}, "zero on average"),
    ],
)
def test_keys_of_the_reference_are_checked(keys: dict, message: str) -> None:
    with pytest.raises(ConjointError, match=message):
        LossConfig(**keys).validate()
    LossConfig(kl_weight=0.1, reference="ema", ema_decay=0.5, kl_estimator="k2").validate()


def test_keys_the_objective_ignores_are_refused() -> None:
    with pytest.raises(ConjointError, match=r"loss\.clip_low=0\.1 has no effect"):
        LossConfig(name="k2", clip_low=0.1).validate()
    with pytest.raises(ConjointError, match=r"loss\.tau=0\.5 has no effect"):
        LossConfig(name="grpo", tau=0.5).validate()
    with pytest.raises(ConjointError, match="above 0"):
        LossConfig(tau=0.0).validate()
    with pytest.raises(ConjointError, match="k3"):
        LossConfig(name="k3").validate()
    with pytest.raises(ConjointError, match=r"loss\.clip_high=0\.3 has no effect"):
        LossConfig(name="cispo", clip_high=0.3).validate()
    LossConfig(name="grpo", clip_high=0.28).validate()


@pytest.mark.parametrize(("name", "key"), [(n, k) for n in LOSSES for k in sorted(LOSS_KEYS[n])])
def test_each_constant_changes_the_gradient(name: str, key: str) -> None:
    old = random_logprobs(1)
    # Ratios 1.35 where A > 0 and 0.7 where A < 0: outside the default clip, inside a doubled one.
    current = old + torch.tensor([0.3, 0.3, 0.3, -0.35, -0.35, 0.1, 0.1, 0.1, 0.1])
    if key in ("max_ratio", "length"):
        current = old + {"max_ratio": 2.0, "length": 0.1}[key]
    if name == "rloo":  # its ratio is the whole answer's: 1.35 and 0.79
        current = old + (current - old) / 3
    default = LossConfig(name=name)
    changed = dataclasses.replace(default, **{key: 2 * getattr(default, key)})
    assert not torch.equal(
        gradient(name, current, old, default), gradient(name, current, old, changed)
    )


@pytest.mark.parametrize(
    "key", [{"kl_weight": 0.6}, {"kl_estimator": "k1"}, {"kl_estimator": "k2"}, {"kl_ratio": False}]
)
@pytest.mark.parametrize("name", LOSSES)
def test_each_key_of_the_kl_changes_the_gradient(name: str, key: dict) -> None:
    old, current, ref = random_logprobs(1), random_logprobs(0), random_logprobs(2)
    default = LossConfig(name=name, kl_weight=0.3)
    changed = dataclasses.replace(default, **key)
    assert not torch.equal(
        gradient(name, current, old, default, ref=ref),
        gradient(name, current, old, changed, ref=ref),
    )


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("k2", "mean"),
        ("k2_5", "mean"),
        ("grpo", "group_std"),
        ("dr_grpo", "mean"),
        ("dapo", "group_std"),
        ("gspo", "group_std"),
        ("cispo", "group_std"),
        ("rloo", "leave_one_out"),
        ("reinforce_pp", "batch_std"),
    ],
)
def test_a_loss_file_brings_the_estimator_of_its_paper_which_a_user_may_change(
    name: str, estimator: str
) -> None:
    cfg = load_config([f"loss={name}", "rollout.max_tokens=77"])
    assert (cfg.loss.name, cfg.advantage.estimator) == (name, estimator)
    assert cfg.loss.length == (77 if name == "dr_grpo" else LossConfig().length)
    cfg = load_config([f"loss={name}", "advantage.estimator=gdpo", "experiment=quickstart"])
    assert (cfg.loss.name, cfg.advantage.estimator) == (name, "gdpo")
