"""Check the paper's three fixes against worked examples."""

import random

import pytest
from samples import group, sample

from custom_components.rl.fixes import annealed_temperature, is_selected, needs_more, rebalance
from custom_components.rl.rl_config import RebalanceConfig, SelectionConfig, TemperatureConfig


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


def test_hard_prompts_are_sampled_again_up_to_the_cap():
    assert needs_more(group("incorrect", "incorrect"), 4)
    assert not needs_more(group(*["incorrect"] * 4), 4)
    assert not needs_more(group("incorrect", "correct"), 4)
    assert not needs_more(group("incorrect"), 0)


def rebalanced(verdicts, max_accuracy, rng, equal=True):
    """Return the indices of the responses that rebalancing keeps."""
    samples = [sample(verdict) for verdict in verdicts]
    options = RebalanceConfig(max_accuracy=max_accuracy, equal=equal)
    kept = {id(s) for s in rebalance(samples, options, rng)}
    return [i for i, s in enumerate(samples) if id(s) in kept]


RIGHT, WRONG = "correct", "incorrect"


@pytest.mark.parametrize("seed", range(20))
def test_rebalancing_keeps_every_correct_response_and_as_many_others(seed):
    rng = random.Random(seed)
    verdicts = [rng.choice((RIGHT, WRONG, WRONG, WRONG)) for _ in range(rng.randint(2, 40))]
    kept = rebalanced(verdicts, 0.5, random.Random(seed))
    right = [i for i, verdict in enumerate(verdicts) if verdict == RIGHT]
    if not right or len(right) > len(verdicts) / 2:
        assert kept == []
        return
    assert set(right) <= set(kept) and len(kept) == 2 * len(right)


def test_rebalancing_draws_the_incorrect_responses_at_random():
    verdicts = [RIGHT] + [WRONG] * 9
    pairs = {tuple(rebalanced(verdicts, 0.5, random.Random(seed))) for seed in range(200)}
    assert {other for _, other in pairs} == set(range(1, 10))


def test_easy_hopeless_and_all_right_groups_are_dropped():
    rng = random.Random(0)
    assert rebalanced([RIGHT, RIGHT, WRONG], 0.5, rng) == []
    assert rebalanced([WRONG] * 4, 0.5, rng) == []
    assert rebalanced([RIGHT] * 4, 1.0, rng) == []
    assert rebalanced([RIGHT, RIGHT, WRONG], 0.7, rng) == [0, 1, 2]
    assert rebalanced([RIGHT] + [WRONG] * 5, 0.5, rng, equal=False) == [0, 1, 2, 3, 4, 5]
    # An undecided response is neither.
    assert rebalanced([RIGHT, "undecided", WRONG], 0.5, rng) == [0, 2]


def test_a_correct_response_that_was_cut_off_is_no_success():
    cut = sample(RIGHT, finish_reason="length")
    assert rebalance([cut, sample(WRONG)], RebalanceConfig(), random.Random(0)) == []
    assert needs_more(group(cut, cut), 4)
    assert group(cut, RIGHT).accuracy == 0.5


def test_annealing_by_hand():
    annealing = TemperatureConfig(start=1.0, end=0.6, fraction=0.5)
    temperatures = [annealed_temperature(step / 8, annealing) for step in range(8)]
    assert temperatures == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6])
    assert annealed_temperature(0.0, TemperatureConfig(1.0, 0.6, 0.0)) == 0.6
