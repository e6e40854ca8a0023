"""Check which responses are learned from, and their advantages, against worked examples."""

import random
from types import SimpleNamespace

import pytest
import torch
from samples import VERIFIED, group, sample

from custom_components.losses.policy_gradient import SETTINGS
from custom_components.rl.advantages import choose_samples, group_advantages, kept_samples
from custom_components.rl.rewards import RewardFunction, overlong_penalty
from custom_components.rl.rl_config import RebalanceConfig
from custom_components.training.distributed import World

WORLD = World(0, 1, torch.device("cpu"))
GRPO, DR_GRPO = SETTINGS["grpo"], SETTINGS["dr_grpo"]


def config(max_accuracy=None, overlong_filter=False, contrast="reward"):
    """Return the keys that `choose_samples` reads; it rebalances if `max_accuracy` is given."""
    return SimpleNamespace(
        rebalance=RebalanceConfig(max_accuracy is not None, max_accuracy=max_accuracy or 0.0),
        overlong_filter=overlong_filter,
        contrast=contrast,
    )


def choose(groups, cfg, setting=GRPO, world=WORLD):
    return choose_samples(groups, cfg, setting, random.Random(0), world)


def test_advantages_by_hand():
    rewards = [1, -1, -1, -1]
    assert group_advantages(rewards, DR_GRPO) == [1.5, -0.5, -0.5, -0.5]
    # The population's std of (1, -1, -1, -1) is sqrt(3) / 2.
    assert group_advantages(rewards, GRPO) == pytest.approx(
        [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]
    )
    # The mean of the others is -1 for the first, and -1/3 for each of the rest.
    assert group_advantages(rewards, SETTINGS["rloo"]) == pytest.approx([2, -2 / 3, -2 / 3, -2 / 3])
    assert group_advantages([1.0, -1.0, 1.0, -1.0], GRPO) == [1, -1, 1, -1]
    for setting in SETTINGS.values():
        assert group_advantages([-1.0, -1.0], setting) == [0, 0]
    assert group_advantages([], GRPO) == []


@pytest.mark.parametrize("seed", range(20))
def test_rebalanced_rewards_have_advantages_of_exactly_one(seed):
    rng = random.Random(seed)
    verdicts = ["correct"] + [
        rng.choice(("correct", "incorrect", "incorrect")) for _ in range(rng.randint(2, 40))
    ]
    kept = choose([group(*verdicts)], config(0.5))
    if not kept:
        assert verdicts.count("correct") * 2 > len(verdicts)
        return
    assert [s.advantage for s in kept] == [s.reward for s in kept]
    assert sum(s.advantage for s in kept) == 0


def test_undecided_responses_and_groups_without_contrast_are_not_chosen():
    groups = [
        group("correct", "incorrect", "undecided", "incorrect"),
        group("incorrect", "incorrect"),
        group("correct", "correct", "incorrect"),
    ]
    chosen = choose(groups, config(0.5))
    assert [s.verdict for s in chosen].count("correct") == 1 and len(chosen) == 2
    assert [s.advantage for s in chosen] == [s.reward for s in chosen]
    plain = choose(groups, config(), DR_GRPO)
    assert len(plain) == 6
    assert [s.group for s in plain] == [0, 0, 0, 2, 2, 2]
    for g in (groups[0], groups[2]):
        assert sum(s.advantage for s in g.rewarded) == pytest.approx(0)


def test_groups_are_numbered_over_all_ranks():
    class SecondOfThree:
        rank, size = 1, 3

    chosen = choose(
        [group("correct", "incorrect") for _ in range(2)], config(), GRPO, SecondOfThree
    )
    assert [s.group for s in chosen] == [1, 1, 4, 4]


def test_the_std_of_the_batch_by_hand():
    """Centred rewards (1, -1) and (1.5, -.5, -.5, -.5): the mean of their squares is 5/6."""
    groups = [group("correct", "incorrect"), group("correct", *["incorrect"] * 3)]
    chosen = choose(groups, config(), SETTINGS["reinforce_plus_plus"])
    std = (5 / 6) ** 0.5
    assert [s.advantage for s in chosen] == pytest.approx(
        [x / std for x in (1, -1, 1.5, -0.5, -0.5, -0.5)]
    )
    assert sum(s.advantage**2 for s in chosen) / len(chosen) == pytest.approx(1)


def test_the_std_of_the_batch_is_that_of_all_ranks():
    class Two:
        """Add what the other rank would: the squares and the number of its responses."""

        rank, size = 0, 2

        def sums(self, values):
            return {"squares": values["squares"] + 3, "responses": values["responses"] + 4}

    setting = SETTINGS["reinforce_plus_plus"]
    alone = choose([group("correct", "incorrect")], config(), setting, Two())
    both = [group("correct", "incorrect"), group("correct", *["incorrect"] * 3)]
    expected = choose(both, config(), setting)[:2]
    assert [s.advantage for s in alone] == pytest.approx([s.advantage for s in expected])


def test_truncated_responses_are_left_out():
    cut = sample("incorrect", 10, "length")
    short, wrong = sample("correct"), sample("incorrect")
    assert choose([group(cut, short, wrong)], config(overlong_filter=True)) == [short, wrong]


def test_shaped_rewards_make_the_advantages():
    penalty = RewardFunction("overlong", lambda p, r: overlong_penalty(p, r, buffer=4), 1.0)
    cut = sample("incorrect", 10, "length")
    samples = [cut, sample("correct"), sample("incorrect")]
    choose([group(*samples, functions=[*VERIFIED, penalty])], config(), DR_GRPO)
    # The rewards are -2, 1 and -1, and their mean is -2/3.
    assert [s.advantage for s in samples] == pytest.approx([-4 / 3, 5 / 3, -1 / 3])


def test_contrast_of_rewards_or_of_verdicts():
    """Partial credit tells wrong responses apart, unless the verdicts have to differ."""
    credit = [RewardFunction("length", lambda problem, response: response.length / 10, 1.0)]
    wrong = group(sample("incorrect", 3), sample("incorrect", 5), functions=credit)
    rng = random.Random(0)
    assert len(kept_samples(wrong.rewarded, config(), rng)) == 2
    assert kept_samples(wrong.rewarded, config(contrast="verdict"), rng) == []
    alike = group(sample("incorrect", 3), sample("correct", 3), functions=credit)
    assert kept_samples(alike.rewarded, config(), rng) == []
    assert len(kept_samples(alike.rewarded, config(contrast="verdict"), rng)) == 2


def test_a_group_that_rebalancing_drops_has_nothing_to_learn_from():
    """So that refilling replaces it, though its rewards differ."""
    easy = group("correct", "correct", "incorrect")
    assert easy.mixed
    assert kept_samples(easy.rewarded, config(0.5), random.Random(0)) == []
