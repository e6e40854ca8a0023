"""Check the DPO loss and its gradient against values computed by hand."""

import math

import torch
from torch.nn import functional as F

from custom_components.losses.dpo import dpo_loss


def test_by_hand():
    """Chosen rose by 2 and rejected fell by 1, so the margin is beta * 3."""
    t = torch.tensor
    losses, good, bad = dpo_loss(t([-3.0]), t([-9.0]), t([-5.0]), t([-8.0]), beta=0.5)
    torch.testing.assert_close(losses, t([math.log(1 + math.exp(-1.5))]))
    assert (good.item(), bad.item()) == (1.0, -0.5)


def test_gradient_is_the_papers():
    """Eq. 7's gradient: -beta * sigmoid(rejected reward - chosen reward) for chosen, + for rejected."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, rc, rr = (
        torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(4)
    )
    losses, good, bad = dpo_loss(chosen, rejected, rc, rr, 0.1)
    losses.sum().backward()
    weight = 0.1 * torch.sigmoid(bad - good)
    torch.testing.assert_close(chosen.grad, -weight)
    torch.testing.assert_close(rejected.grad, weight)
    assert not good.requires_grad


def test_equal_policies_give_log_2():
    x, y = torch.tensor([-4.0, -7.0]), torch.tensor([-1.0, -20.0])
    losses, _, _ = dpo_loss(x, y, x, y, 0.1)
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)))
    torch.testing.assert_close(losses, F.softplus(torch.zeros(2)))
