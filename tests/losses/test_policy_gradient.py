"""Check the policy gradient's pure functions against values by hand, and gradients by autograd."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from custom_components.config import UserError, load
from custom_components.losses.policy_gradient import (
    KL_ESTIMATORS,
    SETTINGS,
    ImportanceConfig,
    LossConfig,
    PolicyGradient,
    SettingName,
    importance_weights,
    kl_penalty,
    policy_gradient_loss,
    token_weights,
)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def loss_of(ratios, advantages, setting, lengths=None):
    """Return (losses, gradient, clipped) of tokens with these ratios, whose old log-prob is -1."""
    old = torch.full((len(ratios),), -1.0, dtype=torch.float64)
    logprobs = (old + double(*ratios).log()).requires_grad_()
    lengths = lengths or [1] * len(ratios)
    losses, _, clipped = policy_gradient_loss(logprobs, old, double(*advantages), lengths, setting)
    losses.sum().backward()
    return losses.detach(), logprobs.grad, clipped.tolist()


def test_clip_by_hand():
    """Ratios 1.5 and 0.5 with both signs of the advantage, clipped to [0.8, 1.2]."""
    losses, gradient, clipped = loss_of([1.5, 1.5, 0.5, 0.5], [1, -1, 1, -1], SETTINGS["grpo"])
    torch.testing.assert_close(losses, double(-1.2, 1.5, -0.5, 0.8))
    assert clipped == [True, False, False, True]
    # The gradient is 0 where the ratio is clipped, else -A * ratio.
    torch.testing.assert_close(gradient, double(0.0, 1.5, -0.5, 0.0))


def test_dual_clip_by_hand():
    """It bounds the loss of a negative advantage at 3 |A|, and nothing else."""
    ratios, advantages = [4.0, 2.0, 4.0, 0.5], [-2.0, -2.0, 2.0, -2.0]
    losses, gradient, clipped = loss_of(ratios, advantages, SETTINGS["dual_clip"])
    torch.testing.assert_close(losses, double(6.0, 4.0, -2.4, 1.6))
    torch.testing.assert_close(gradient, double(0.0, 4.0, 0.0, 0.0))
    assert clipped == [True, False, True, True]


def test_cispo_by_hand():
    """The clipped ratio is a weight: -min(r, 5) A log p, and every token has a gradient."""
    ratios, advantages = [8.0, 0.1, 1.0], [1.0, -2.0, 0.5]
    losses, gradient, clipped = loss_of(ratios, advantages, SETTINGS["cispo"])
    weights = double(5.0, 0.1, 1.0)
    logprobs = double(*ratios).log() - 1
    torch.testing.assert_close(losses, -weights * double(*advantages) * logprobs)
    torch.testing.assert_close(gradient, -weights * double(*advantages))
    assert clipped == [True, False, False]


def test_gspo_by_hand():
    """Responses of 2 and 3 tokens share the geometric means 2 and 0.5, in [0.6, 2.5]."""
    setting = replace(SETTINGS["gspo"], clip_low=0.4, clip_high=1.5)
    ratios, advantages = [4.0, 1.0, 0.5, 0.25, 1.0], [1.0, 1.0, -1.0, -1.0, -1.0]
    losses, gradient, clipped = loss_of(ratios, advantages, setting, [2, 3])
    torch.testing.assert_close(losses, double(-2.0, -2.0, 0.6, 0.6, 0.6))
    # Each of the two tokens of the first response has the gradient -A s / 2 of both losses.
    torch.testing.assert_close(gradient, double(-2.0, -2.0, 0.0, 0.0, 0.0))
    assert clipped == [False, False, True, True, True]


@pytest.mark.parametrize("name", SETTINGS)
def test_on_policy_gradient_is_reinforce(name):
    """At ratio 1 every setting's gradient is -A d log p, whatever the clip."""
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(2, dtype=torch.float64, generator=generator)
    advantages = advantages.repeat_interleave(torch.tensor([3, 4]))
    logprobs = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    losses, ratios, clipped = policy_gradient_loss(
        logprobs, logprobs.detach(), advantages, [3, 4], SETTINGS[name]
    )
    losses.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert (ratios == 1).all() and not clipped.any()


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_off_policy_by_finite_differences(name):
    """In float64, at ratios on both sides of the bounds. A weight clip is a constant."""
    setting = SETTINGS[name]
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(9, dtype=torch.float64, generator=generator) - 1
    scale = 1e-3 if setting.ratio == "sequence" else 1.0
    logprobs = old + scale * torch.randn(9, dtype=torch.float64, generator=generator)
    advantages = torch.randn(9, dtype=torch.float64, generator=generator)

    def total(values):
        if setting.clip == "weight":  # The value's derivative has that of the weight as well.
            weights = (logprobs - old).exp().clamp(max=1 + setting.clip_high)
            return (-weights * advantages * values).sum()
        return policy_gradient_loss(values, old, advantages, [2, 3, 4], setting)[0].sum()

    variable = logprobs.clone().requires_grad_()
    policy_gradient_loss(variable, old, advantages, [2, 3, 4], setting)[0].sum().backward()
    for i in range(9):
        step = torch.zeros(9, dtype=torch.float64)
        step[i] = 1e-6
        slope = (total(logprobs + step) - total(logprobs - step)) / 2e-6
        assert variable.grad[i].item() == pytest.approx(slope.item(), abs=1e-7)


def weighted(losses, lengths, prompts, aggregation):
    """Return the mean of responses whose tokens all have the response's loss."""
    weights = token_weights(lengths, prompts, aggregation, max_new_tokens=4)
    return sum(w * n * x for w, n, x in zip(weights, lengths, losses, strict=True))


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # Prompt 7 has responses of 1 and 3 tokens with losses 1 and 2; prompt 9 one of 2 with 4.
        ("prompt_mean", ((1 + 2) / 2 + 4) / 2),
        ("prompt_token_mean", ((1 + 6) / 4 + 4) / 2),
        ("sequence_mean", (1 + 2 + 4) / 3),
        ("token_mean", (1 + 6 + 8) / 6),
        ("constant", (1 + 6 + 8) / (3 * 4)),
    ],
)
def test_aggregations_by_hand(aggregation, expected):
    assert weighted([1.0, 2.0, 4.0], [1, 3, 2], [7, 7, 9], aggregation) == pytest.approx(expected)
    # A response without a token that counts is in no denominator, and nor is its prompt.
    lengths, prompts = [1, 0, 3, 2, 0], [7, 7, 7, 9, 5]
    losses = [1.0, 100.0, 2.0, 4.0, 100.0]
    assert weighted(losses, lengths, prompts, aggregation) == pytest.approx(expected)
    assert token_weights(lengths, prompts, aggregation, 4)[1] == 0
    assert token_weights([0, 0], [1, 2], aggregation, 4) == [0, 0]


def test_equal_groups_make_prompt_mean_the_mean_over_responses():
    lengths, prompts = [3, 1, 4, 1, 5, 9], [0, 0, 0, 1, 1, 1]
    assert token_weights(lengths, prompts, "prompt_mean", 9) == pytest.approx(
        token_weights(lengths, prompts, "sequence_mean", 9)
    )


@pytest.mark.parametrize(
    ("level", "beyond", "expected"),
    [
        # Responses of 2 and 3 tokens with ratios (4, 0.5) and (0.5, 0.5, 1), bounds [0.6, 3].
        ("token", "truncate", [3.0, 0.6, 0.6, 0.6, 1.0]),
        ("token", "mask", [0.0, 0.0, 0.0, 0.0, 1.0]),
        ("sequence", "truncate", [2.0, 2.0, 0.6, 0.6, 0.6]),
        ("sequence", "mask", [2.0, 2.0, 0.0, 0.0, 0.0]),
        ("geometric", "truncate", [2**0.5] * 2 + [0.25 ** (1 / 3)] * 3),
        ("geometric", "mask", [2**0.5] * 2 + [0.25 ** (1 / 3)] * 3),
    ],
)
def test_importance_weights_by_hand(level, beyond, expected):
    ratios = double(4.0, 0.5, 0.5, 0.5, 1.0)
    engine = torch.full_like(ratios, -2.0)
    old = (engine + ratios.log()).requires_grad_()
    importance = ImportanceConfig(level, beyond, low=0.6, high=3.0)
    weights = importance_weights(old, engine, [2, 3], importance)
    torch.testing.assert_close(weights, double(*expected))
    assert not weights.requires_grad


def test_importance_weights_are_truncated_at_2_by_default():
    old, engine = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([0.0, -0.5, -9.0])
    weights = importance_weights(old, engine, [3], ImportanceConfig())
    torch.testing.assert_close(weights, torch.tensor([1.0, math.exp(-0.5), 2.0]))


def test_settings_and_their_changes():
    assert LossConfig().resolve() == SETTINGS["grpo"] == PolicyGradient()
    changed = LossConfig("dapo", clip_high=0.4, scale="none").resolve()
    assert (changed.clip_low, changed.clip_high) == (0.2, 0.4)
    assert (changed.scale, changed.aggregation) == ("none", "token_mean")
    assert get_args(SettingName) == tuple(SETTINGS)
    for override, words in (
        ("name=ppo", "name must be grpo, dapo, dr_grpo"),
        ("kl_estimator=k4", "kl_estimator must be k1, k2 or k3"),
        ("aggregation=mean", "aggregation must be prompt_mean"),
    ):
        with pytest.raises(UserError, match=words):
            load(LossConfig, None, [override])


@pytest.mark.parametrize(
    ("schema", "overrides", "words"),
    [
        (LossConfig, ["dual_clip=1.1"], "dual_clip=1.1 must be above 1 . loss.clip_high=0.2"),
        (LossConfig, ["name=reinforce", "dual_clip=3"], "dual_clip=3 must be above"),
        (ImportanceConfig, ["low=3"], "low=3 must not be above importance.high=2"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused_at_once(schema, overrides, words):
    with pytest.raises(UserError, match=words):
        load(schema, None, overrides)


def test_values_of_the_kl_by_hand_and_their_mean():
    """log r = log 2: the three estimators by hand; k1 and k3 are unbiased, k3 never negative."""
    logprobs, reference = double(math.log(0.25)), double(math.log(0.5))
    values = [kl_penalty(logprobs, logprobs, reference, k).item() for k in KL_ESTIMATORS]
    assert values == pytest.approx([-math.log(2), math.log(2) ** 2 / 2, 2 - 1 - math.log(2)])
    p, old, q = softmaxes()
    exact = (p.exp() * (p - q)).sum()
    for k in ("k1", "k3"):
        torch.testing.assert_close((p.exp() * kl_penalty(p, p, q, k)).sum(), exact)
        # With the ratio they stay unbiased for tokens of the old policy.
        torch.testing.assert_close((old.exp() * kl_penalty(p, old, q, k)).sum(), exact)
    assert (kl_penalty(p, p, q, "k3") >= 0).all()


def softmaxes():
    """Return the log-probs of a policy, an old policy and a reference over 50 tokens."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(50, dtype=torch.float64, generator=generator).log_softmax(0) for _ in range(3)
    )


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("on_policy", [True, False], ids=["on policy", "off policy"])
def test_the_expected_gradient_is_that_of_the_kl(estimator, on_policy):
    """Exactly, over a softmax of 50 tokens: sum_x p_old(x) d/dlogits of the estimate at x."""
    p, old, q = softmaxes()
    logits = p.clone().requires_grad_()
    policy = logits.log_softmax(0)
    [exact] = torch.autograd.grad((policy.exp() * (policy - q)).sum(), logits)
    sampler = p if on_policy else old
    policy = logits.log_softmax(0)
    estimates = kl_penalty(policy, sampler, q, estimator)
    [expected] = torch.autograd.grad((sampler.exp() * estimates).sum(), logits)
    torch.testing.assert_close(expected, exact)
