"""Choose the responses to learn from, and give each its advantage relative to its group."""

import math
import random

from custom_components.losses.policy_gradient import PolicyGradient
from custom_components.rl.fixes import rebalance
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rl_config import GRPOConfig
from custom_components.training.distributed import World


def choose_samples(
    groups: list[Group], cfg: GRPOConfig, setting: PolicyGradient, rng: random.Random, world: World
) -> list[Sample]:
    """Return the samples to learn from, each with its group and its advantage set.

    Args:
        groups: Rewarded groups of this rank.
        cfg: Config with `rebalance`, `overlong_filter` and `contrast`.
        setting: Baseline and scale of the advantages.
        rng: Source of the rebalancing draws.
        world: Ranks over which `batch_std` is taken.
    """
    chosen = []
    for samples in number_groups(groups, world):
        kept = kept_samples(samples, cfg, rng)
        advantages = group_advantages([s.reward or 0.0 for s in kept], setting)
        for sample, advantage in zip(kept, advantages, strict=True):
            sample.advantage = advantage
        chosen += kept
    if setting.scale == "batch_std":
        squares = sum(s.advantage**2 for s in chosen)
        sums = world.sums({"squares": squares, "responses": len(chosen)})
        std = math.sqrt(sums["squares"] / max(sums["responses"], 1)) or 1.0
        for sample in chosen:
            sample.advantage /= std
    return chosen


def number_groups(groups: list[Group], world: World) -> list[list[Sample]]:
    """Return each group's samples with a reward, after setting their `group`.

    Args:
        groups: Rewarded groups of this rank.
        world: Rank of this process, and their number.
    """
    numbered = [group.rewarded for group in groups]
    for i, samples in enumerate(numbered):
        for sample in samples:
            sample.group = world.rank + world.size * i
    return numbered


def kept_samples(samples: list[Sample], cfg: GRPOConfig, rng: random.Random) -> list[Sample]:
    """Return the samples of one group to learn from; none if they have no contrast.

    `overlong_filter` drops truncated responses, and `rebalance.enabled` balances the verdicts of
    the others. Equal rewards, or with `contrast=verdict` equal verdicts, leave nothing to learn.

    Args:
        samples: Samples of the group that have a reward.
        cfg: Config with `rebalance`, `overlong_filter` and `contrast`.
        rng: Source of the rebalancing draw.
    """
    if cfg.overlong_filter:
        samples = [s for s in samples if not s.truncated]
    if cfg.rebalance.enabled:
        samples = rebalance(samples, cfg.rebalance, rng)
    outcomes = {s.correct if cfg.contrast == "verdict" else s.reward for s in samples}
    return samples if len(outcomes) > 1 else []


def group_advantages(rewards: list[float], setting: PolicyGradient) -> list[float]:
    """Return the advantages within one group of responses to the same prompt.

    The standard deviation is the population's: with as many +1 as -1, GRPO's advantages are exactly
    +1 and -1. That of the whole batch is not divided by here.

    Args:
        rewards: Rewards of the group.
        setting: Baseline and scale.

    Returns:
        One advantage per reward; all are 0 if all rewards are equal.
    """
    if len(set(rewards)) < 2:
        return [0.0] * len(rewards)
    n = len(rewards)
    mean = math.fsum(rewards) / n
    centred = [r - mean for r in rewards]
    std = math.sqrt(math.fsum(c * c for c in centred) / n)
    if setting.baseline == "leave_one_out":
        # r - (sum - r) / (n - 1) is n / (n - 1) (r - mean).
        centred = [c * n / (n - 1) for c in centred]
    return [c / std for c in centred] if setting.scale == "group_std" else centred
