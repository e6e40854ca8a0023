"""Check GAE and the value loss against hand values, their definition, and torchtune's PPO."""

import pytest
import torch
from torchtune.rlhf import estimate_advantages
from torchtune.rlhf.loss import PPOLoss

from custom_components.losses.gae import generalised_advantages, value_loss


def test_by_hand():
    """Two tokens, values 0.5 and 0.25, reward 1: the deltas are -0.25 (or with gamma 0.5) and 0.75."""
    values = torch.tensor([0.5, 0.25], dtype=torch.float64)
    reward = torch.tensor([1.0])
    plain = generalised_advantages(values, reward, [2], 1.0, 1.0)
    assert plain.tolist() == [0.5, 0.75]  # The reward less the value.
    none = generalised_advantages(values, reward, [2], 1.0, 0.0)
    assert none.tolist() == [-0.25, 0.75]  # The deltas.
    both = generalised_advantages(values, reward, [2], 0.5, 0.5)
    assert both.tolist() == pytest.approx([0.5 * 0.25 - 0.5 + 0.25 * 0.75, 0.75])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (1.0, 0.0)])
def test_equals_the_definition_and_torchtune(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    lengths, rewards = [5, 1, 3], torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    values = torch.randn(9, dtype=torch.float64, generator=generator)
    ours = generalised_advantages(values, rewards, lengths, gamma, lam)
    start = 0
    for n, reward in zip(lengths, rewards.tolist(), strict=True):
        v = [*values[start : start + n].tolist(), 0.0]
        deltas = [(reward if t == n - 1 else 0.0) + gamma * v[t + 1] - v[t] for t in range(n)]
        defined = [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]
        assert ours[start : start + n].tolist() == pytest.approx(defined)
        dense = torch.zeros(1, n, dtype=torch.float64)
        dense[0, -1] = reward
        # torchtune normalises its advantages, but not its returns.
        _, returns = estimate_advantages(values[None, start : start + n], dense, gamma, lam)
        torch.testing.assert_close(returns[0], ours[start : start + n] + values[start : start + n])
        start += n


def test_no_gradient_reaches_the_values():
    values = torch.randn(3, requires_grad=True)
    assert not generalised_advantages(values, torch.tensor([1.0]), [3], 1.0, 0.9).requires_grad


def test_value_loss_by_hand():
    """Old 0, clip 0.2: a value that moved beyond the clip towards its return gains nothing more."""
    values = torch.tensor([0.1, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    losses = value_loss(values, old, returns, 0.2)
    # (0.1 - 1)^2 / 2; clipped to 0.2, (0.2 - 1)^2 / 2; -0.5 is worse than its clip, (-1.5)^2 / 2.
    assert losses.tolist() == pytest.approx([0.405, 0.32, 1.125])
    losses.sum().backward()
    assert values.grad.tolist() == pytest.approx([-0.9, 0.0, -1.5])


def test_value_loss_equals_torchtunes():
    generator = torch.Generator().manual_seed(1)
    values, old, returns = torch.randn(3, 1, 20, dtype=torch.float64, generator=generator)
    zeros = torch.zeros_like(values)
    _, _, theirs, _, _ = PPOLoss(value_clip_range=0.3)(zeros, zeros, zeros, old, values, returns)
    torch.testing.assert_close(value_loss(values, old, returns, 0.3).mean(), theirs)
