"""Check the policy gradient's pure functions against values computed by hand."""

import math

import pytest
import torch

from custom_components.config import UserError
from custom_components.losses.policy_gradient import (
    SETTINGS,
    LossConfig,
    importance_weights,
    kl_penalty,
    policy_gradient_loss,
    token_weights,
)


def test_clip_by_hand():
    """Ratios 1.5 and 0.5 with both signs of the advantage, clipped to [0.8, 1.2]."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64)
    logprobs = ratio.log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    losses, ratios, clipped = policy_gradient_loss(
        logprobs, torch.zeros(4, dtype=torch.float64), advantages, 0.2, 0.2
    )
    expected = torch.tensor([-1.2, 1.5, -0.5, 0.8], dtype=torch.float64)
    torch.testing.assert_close(losses, expected)
    assert clipped.tolist() == [True, False, False, True]
    losses.sum().backward()
    # The gradient is 0 where the ratio is clipped, else -A * ratio.
    torch.testing.assert_close(
        logprobs.grad, torch.tensor([0.0, 1.5, -0.5, 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(ratios, ratio)


def test_on_policy_gradient_is_reinforce():
    """At ratio 1 every setting's gradient is -A d log p, whatever the clip."""
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(7, dtype=torch.float64, generator=generator)
    for setting in SETTINGS.values():
        logprobs = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
        losses, _, clipped = policy_gradient_loss(
            logprobs, logprobs.detach(), advantages, setting.clip_low, setting.clip_high
        )
        losses.sum().backward()
        torch.testing.assert_close(logprobs.grad, -advantages)
        assert not clipped.any()


def test_aggregations_by_hand():
    """Two responses of 1 and 3 tokens, every token's loss 1 and 2: the three means."""
    losses = [1.0, 2.0, 2.0, 2.0]
    lengths = [1, 3]

    def total(aggregation):
        weights = token_weights(lengths, aggregation, max_new_tokens=4)
        return sum(
            w * x
            for w, x in zip(
                [w for w, n in zip(weights, lengths, strict=True) for _ in range(n)],
                losses,
                strict=True,
            )
        )

    assert total("sequence_mean") == pytest.approx((1 + 2) / 2)
    assert total("token_mean") == pytest.approx(7 / 4)
    assert total("constant") == pytest.approx(7 / 8)
    with pytest.raises(UserError, match="sequence_mean"):
        token_weights(lengths, "mean", 4)


def test_importance_weights_are_capped():
    old, engine = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([0.0, -0.5, -9.0])
    weights = importance_weights(old.requires_grad_(), engine, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, math.exp(-0.5), 2.0]))
    assert not weights.requires_grad


def test_settings_and_their_changes():
    assert LossConfig().resolve() == SETTINGS["grpo"]
    changed = LossConfig("dapo", clip_high=0.4, normalise_std=False).resolve()
    assert (changed.clip_low, changed.clip_high) == (0.2, 0.4)
    assert (changed.normalise_std, changed.aggregation) == (False, "token_mean")
    with pytest.raises(UserError, match="dr_grpo"):
        LossConfig("ppo").resolve()


def test_kl_estimators_by_hand_and_their_mean():
    """log r = log 2: the three estimators by hand; k1 and k3 are unbiased, k3 never negative."""
    logprobs, reference = torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)])
    values = [kl_penalty(logprobs, reference, k).item() for k in ("k1", "k2", "k3")]
    assert values == pytest.approx([-math.log(2), math.log(2) ** 2 / 2, 2 - 1 - math.log(2)])
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(50, dtype=torch.float64, generator=generator).log_softmax(0) for _ in "pq")
    exact = (p.exp() * (p - q)).sum()
    for k in ("k1", "k3"):
        torch.testing.assert_close((p.exp() * kl_penalty(p, q, k)).sum(), exact)
    assert (kl_penalty(p, q, "k3") >= 0).all()
    with pytest.raises(UserError, match="k1, k2 or k3"):
        LossConfig(kl_estimator="k4").resolve()
