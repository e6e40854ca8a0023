"""Check the learning rate of every update, by hand and by share of a budget."""

import math

import pytest
import torch

from custom_components.training.schedule import Schedule, learning_rate_factor


def factors(steps, warmup, decay="cosine"):
    return [learning_rate_factor(i / steps, (i + 1) / steps, warmup, decay) for i in range(steps)]


def test_warm_up_and_cosine_by_hand():
    warm, cosine = [0.5, 1.0], [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    assert factors(10, 0.2) == pytest.approx(warm + cosine)
    assert factors(4, 0.0) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])
    assert factors(4, 0.5, "none") == pytest.approx([0.5, 1, 1, 1])


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 12, 24, 1000])
def test_every_update_has_a_learning_rate(steps, warmup):
    values = factors(steps, warmup)
    assert all(0 < value <= 1 for value in values)
    if not warmup:
        assert values[0] == 1
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_updates_of_uneven_size_follow_the_share_of_a_budget():
    """Half of the budget in one step, then two quarters, of which the last one exceeds it."""
    shares = [(0.0, 0.5), (0.5, 0.75), (0.75, 1.05)]
    values = [learning_rate_factor(start, end, 0.25) for start, end in shares]
    assert values == pytest.approx([1.0, 0.75, 0.25])


def test_the_schedule_sets_each_group_from_its_own_highest_rate():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.3}], lr=0.1
    )
    schedule = Schedule(optimizer, 0.5, "cosine")
    assert schedule.set(0.0, 0.25) == pytest.approx(0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.15])
    schedule.set(0.75, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.15])
