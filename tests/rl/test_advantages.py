"""Check which responses are learned from, and their advantages, against worked examples."""

import random
from types import SimpleNamespace

import pytest

from custom_components.engines.engine import Completion
from custom_components.rl.advantages import choose_samples, group_advantages
from custom_components.rl.fixes import rebalance
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import soft_length_penalty
from custom_components.rl.rl_config import OverlongConfig, RebalanceConfig


def config(max_accuracy=None, **overlong):
    """Return the keys that `choose_samples` reads; it rebalances if `max_accuracy` is given."""
    return SimpleNamespace(
        rebalance=RebalanceConfig(max_accuracy is not None, max_accuracy or 0.0),
        overlong=OverlongConfig(**overlong),
        max_new_tokens=10,
    )


def sample(verdict):
    return Sample([1], Completion([2, 3], [-0.1, -0.2], "stop"), "", verdict)


def group(*verdicts):
    return Group({}, [1], [sample(v) for v in verdicts])


def test_advantages_by_hand():
    assert group_advantages([1, -1, -1, -1], normalise_std=False) == [1.5, -0.5, -0.5, -0.5]
    # The population's std of (1, -1, -1, -1) is sqrt(3) / 2.
    assert group_advantages([1, -1, -1, -1], normalise_std=True) == pytest.approx(
        [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]
    )
    assert group_advantages([1.0, -1.0, 1.0, -1.0], normalise_std=True) == [1, -1, 1, -1]
    assert group_advantages([-1.0, -1.0], normalise_std=True) == [0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_rebalanced_rewards_have_advantages_of_exactly_one(seed):
    rng = random.Random(seed)
    rewards = [1.0] + [rng.choice((1.0, -1.0, -1.0)) for _ in range(rng.randint(2, 40))]
    kept = rebalance(rewards, 0.5, rng)
    if not kept:
        assert rewards.count(1.0) > len(rewards) / 2
        return
    advantages = group_advantages([rewards[i] for i in kept], normalise_std=True)
    assert advantages == [rewards[i] for i in kept]
    assert sum(advantages) == 0


def test_undecided_responses_and_groups_without_contrast_are_not_chosen():
    groups = [
        group("correct", "incorrect", "undecided", "incorrect"),
        group("incorrect", "incorrect"),
        group("correct", "correct", "incorrect"),
    ]
    chosen = choose_samples(groups, config(0.5), True, random.Random(0))
    assert [s.verdict for s in chosen].count("correct") == 1 and len(chosen) == 2
    assert [s.advantage for s in chosen] == [s.reward for s in chosen]
    plain = choose_samples(groups, config(), False, random.Random(0))
    assert len(plain) == 6
    for g in (groups[0], groups[2]):
        assert sum(s.advantage for s in g.decided) == pytest.approx(0)


def test_the_length_penalty_by_hand():
    """Limit 100, buffer 20: nothing up to 80 tokens, -1/2 at 90, -1 at 100 and above."""
    lengths = (10, 80, 85, 90, 100, 120)
    assert [soft_length_penalty(n, 100, 20) for n in lengths] == [0, 0, -0.25, -0.5, -1, -1]
    assert soft_length_penalty(100, 100, 0) == 0


def test_overlong_responses_are_left_out_or_punished():
    cut = Sample([1], Completion([2] * 10, [-0.1] * 10, "length"), "", "incorrect")
    short, wrong = sample("correct"), sample("incorrect")
    groups = [Group({}, [1], [cut, short, wrong])]
    rng = random.Random(0)
    assert choose_samples(groups, config(filter=True), False, rng) == [short, wrong]
    choose_samples(groups, config(buffer=4), False, rng)
    # The rewards are -2, 1 and -1, and their mean is -2/3.
    assert [s.advantage for s in (cut, short, wrong)] == pytest.approx([-4 / 3, 5 / 3, -1 / 3])
