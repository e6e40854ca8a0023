"""The pure functions of the RL stage, against worked examples."""

import random

import pytest

from custom_components.config import UserError
from custom_components.engines.engine import Completion
from custom_components.rl.advantages import group_advantages
from custom_components.rl.rebalancing import rebalance
from custom_components.rl.rl_config import OverlongConfig
from custom_components.rl.samples import Group, Sample, choose, needs_more
from custom_components.rl.selection import check_statistic, selected
from custom_components.rl.shaping import soft_length_penalty
from custom_components.rl.temperature import annealed_temperature


def test_annealing_by_hand():
    temperatures = [annealed_temperature(s, 8, 1.0, 0.6, 0.5) for s in range(8)]
    assert temperatures == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6])
    assert annealed_temperature(0, 10, 1.0, 0.6, 0.0) == 0.6


def test_advantages_by_hand():
    assert group_advantages([1, -1, -1, -1], normalise_std=False) == [1.5, -0.5, -0.5, -0.5]
    # population std of (1, -1, -1, -1) is sqrt(3) / 2
    assert group_advantages([1, -1, -1, -1], normalise_std=True) == pytest.approx(
        [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]
    )
    assert group_advantages([1.0, -1.0, 1.0, -1.0], normalise_std=True) == [1, -1, 1, -1]
    assert group_advantages([-1.0, -1.0], normalise_std=True) == [0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_rebalancing_keeps_every_positive_and_as_many_negatives(seed):
    rng = random.Random(seed)
    rewards = [rng.choice((1.0, -1.0, -1.0, -1.0)) for _ in range(rng.randint(2, 40))]
    kept = rebalance(rewards, 0.5, random.Random(seed))
    right = [i for i, r in enumerate(rewards) if r > 0]
    if not right or len(right) > len(rewards) / 2:
        assert kept == []
        return
    assert set(right) <= set(kept) and len(kept) == 2 * len(right)
    advantages = group_advantages([rewards[i] for i in kept], normalise_std=True)
    assert advantages == [rewards[i] for i in kept]  # exactly +1 and -1
    assert sum(advantages) == 0


def test_rebalancing_draws_the_negatives_at_random():
    rewards = [1.0] + [-1.0] * 9
    drawn = {tuple(rebalance(rewards, 0.5, random.Random(seed))) for seed in range(200)}
    assert {pair[1] for pair in drawn} == set(range(1, 10))


def test_easy_hopeless_and_all_right_groups_are_dropped():
    rng = random.Random(0)
    assert rebalance([1.0, 1.0, -1.0], 0.5, rng) == []
    assert rebalance([-1.0] * 4, 0.5, rng) == []
    assert rebalance([1.0] * 4, 1.0, rng) == []
    assert rebalance([1.0, 1.0, -1.0], 0.7, rng) == [0, 1, 2]


def sample(verdict):
    return Sample([1], Completion([2, 3], [-0.1, -0.2], "stop"), "", verdict)


def group(*verdicts):
    return Group({}, [1], [sample(v) for v in verdicts])


def test_what_is_learned_from():
    groups = [
        group("correct", "incorrect", "undecided", "incorrect"),
        group("incorrect", "incorrect"),
        group("correct", "correct", "incorrect"),
    ]
    chosen = choose(groups, 0.5, normalise_std=True, rng=random.Random(0))
    assert [s.verdict for s in chosen].count("correct") == 1 and len(chosen) == 2
    assert [s.advantage for s in chosen] == [s.reward for s in chosen]
    plain = choose(groups, None, normalise_std=False, rng=random.Random(0))
    assert len(plain) == 6  # the undecided one and the group without contrast are left out
    for g in (groups[0], groups[2]):
        assert sum(s.advantage for s in g.decided) == pytest.approx(0)


def test_hard_prompts_are_sampled_again_up_to_the_cap():
    assert needs_more(group("incorrect", "incorrect"), 4)
    assert not needs_more(group(*["incorrect"] * 4), 4)
    assert not needs_more(group("incorrect", "correct"), 4)
    assert not needs_more(group("incorrect"), 0)


def test_the_length_penalty_by_hand():
    """Limit 100, buffer 20: nothing up to 80 tokens, -1/2 at 90, -1 at 100 and above."""
    lengths = (10, 80, 85, 90, 100, 120)
    assert [soft_length_penalty(n, 100, 20) for n in lengths] == [0, 0, -0.25, -0.5, -1, -1]
    assert soft_length_penalty(100, 100, 0) == 0


def test_overlong_responses_are_left_out_or_punished():
    cut = Sample([1], Completion([2] * 10, [-0.1] * 10, "length"), "", "incorrect")
    short, wrong = sample("correct"), sample("incorrect")
    everyone = [Group({}, [1], [cut, short, wrong])]
    rng = random.Random(0)
    filtered = choose(everyone, None, False, rng, OverlongConfig(filter=True), 10)
    assert filtered == [short, wrong]
    choose(everyone, None, False, rng, OverlongConfig(buffer=4), 10)
    # rewards -2, 1, -1: less their mean
    assert [s.advantage for s in (cut, short, wrong)] == pytest.approx([-4 / 3, 5 / 3, -1 / 3])


def test_selection():
    row = {"length_cv": 0.3, "length_range": 0.9, "pass_rate": 0.5}
    assert selected(row, "length_cv", 0.3, 1.0)
    assert not selected(row, "length_cv", 0.29, 1.0)
    assert not selected(row, "length_range", 0.5, 1.0)
    assert not selected(row, "length_cv", 0.3, 0.4)
    with pytest.raises(UserError, match="length_range"):
        check_statistic("length_std")
