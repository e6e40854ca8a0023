"""Check the paper's three fixes against worked examples."""

import random

import pytest

from custom_components.engines.engine import Completion
from custom_components.rl.fixes import annealed_temperature, is_selected, needs_more, rebalance
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rl_config import SelectionConfig, TemperatureConfig


def test_selection_by_length_and_pass_rate():
    prompt = {"length_cv": 0.3, "length_range": 0.9, "pass_rate": 0.5}
    for statistic, threshold, max_accuracy, expected in [
        ("length_cv", 0.3, 1.0, True),
        ("length_cv", 0.29, 1.0, False),
        ("length_range", 0.5, 1.0, False),
        ("length_cv", 0.3, 0.4, False),
    ]:
        selection = SelectionConfig(
            statistic=statistic, threshold=threshold, max_accuracy=max_accuracy
        )
        assert is_selected(prompt, selection) == expected


def group(*verdicts):
    samples = [Sample([1], Completion([2, 3], [-0.1, -0.2], "stop"), "", v) for v in verdicts]
    return Group({}, [1], samples)


def test_hard_prompts_are_sampled_again_up_to_the_cap():
    assert needs_more(group("incorrect", "incorrect"), 4)
    assert not needs_more(group(*["incorrect"] * 4), 4)
    assert not needs_more(group("incorrect", "correct"), 4)
    assert not needs_more(group("incorrect"), 0)


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
    assert sum(rewards[i] for i in kept) == 0


def test_rebalancing_draws_the_negatives_at_random():
    rewards = [1.0] + [-1.0] * 9
    pairs = {tuple(rebalance(rewards, 0.5, random.Random(seed))) for seed in range(200)}
    assert {negative for _, negative in pairs} == set(range(1, 10))


def test_easy_hopeless_and_all_right_groups_are_dropped():
    rng = random.Random(0)
    assert rebalance([1.0, 1.0, -1.0], 0.5, rng) == []
    assert rebalance([-1.0] * 4, 0.5, rng) == []
    assert rebalance([1.0] * 4, 1.0, rng) == []
    assert rebalance([1.0, 1.0, -1.0], 0.7, rng) == [0, 1, 2]


def test_annealing_by_hand():
    annealing = TemperatureConfig(start=1.0, end=0.6, fraction=0.5)
    temperatures = [annealed_temperature(step, 8, annealing) for step in range(8)]
    assert temperatures == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6])
    assert annealed_temperature(0, 10, TemperatureConfig(1.0, 0.6, 0.0)) == 0.6
