import dataclasses

import pytest
import torch
from torch import Tensor

from rl.losses import LOSS_KEYS, LOSSES, LossConfig, LossInputs
from rl.types import ConjointError

SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
ADVANTAGES = torch.tensor([0.5, -0.25, 0.0])


def inputs(logprobs: Tensor, old: Tensor, advantages: Tensor = ADVANTAGES) -> LossInputs:
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=old,
        behavior_logprobs=torch.full_like(old, torch.nan),
        advantages=advantages.to(old.dtype)[SEQUENCE],
        sequence=SEQUENCE,
        local_sequences=3,
        num_sequences=3,
        num_tokens=9,
    )


def random_logprobs(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(9, generator=generator, dtype=torch.float64) * 3


def gradient(name: str, logprobs: Tensor, old: Tensor, config: LossConfig) -> Tensor:
    leaf = logprobs.clone().requires_grad_()
    LOSSES[name](inputs(leaf, old), config)[0].backward()
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
            behavior_logprobs=old,
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
            for key in ("logprobs", "old_logprobs", "behavior_logprobs", "advantages", "sequence")
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


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_reads_behaviour_logprobs_as_old(name: str) -> None:
    loss, _ = LOSSES[name](inputs(random_logprobs(0), random_logprobs(1)), LossConfig(name=name))
    assert torch.isfinite(loss), "the behaviour log-probs of these inputs are NaN"


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
    default = LossConfig(name=name)
    changed = dataclasses.replace(default, **{key: 2 * getattr(default, key)})
    assert not torch.equal(
        gradient(name, current, old, default), gradient(name, current, old, changed)
    )
