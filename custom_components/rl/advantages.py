"""Choose the responses to learn from, and give each its advantage relative to its group."""

import math
import random

from custom_components.rl.fixes import rebalance
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import soft_length_penalty
from custom_components.rl.rl_config import GRPOConfig


def choose_samples(
    groups: list[Group], cfg: GRPOConfig, normalise_std: bool, rng: random.Random
) -> list[Sample]:
    """Return the samples to learn from, each with its advantage set.

    `overlong.filter` drops truncated responses, and `rebalance.enabled` balances the rewards of the
    others. A group whose remaining rewards are all equal is dropped, for it has no gradient.

    Args:
        groups: Verified groups.
        cfg: Config with `rebalance`, `overlong` and `max_new_tokens`.
        normalise_std: Whether to divide by the standard deviation (see `group_advantages`).
        rng: Source of the rebalancing draws.
    """
    chosen = []
    for group in groups:
        samples = [s for s in group.decided if not (cfg.overlong.filter and s.truncated)]
        if cfg.rebalance.enabled and samples:
            kept = rebalance([s.reward for s in samples], cfg.rebalance.max_accuracy, rng)
            samples = [samples[i] for i in kept]
        if len({s.reward for s in samples}) < 2:
            continue
        rewards = [
            s.reward + soft_length_penalty(s.length, cfg.max_new_tokens, cfg.overlong.buffer)
            for s in samples
        ]
        advantages = group_advantages(rewards, normalise_std)
        for sample, advantage in zip(samples, advantages, strict=True):
            sample.advantage = advantage
        chosen += samples
    return chosen


def group_advantages(rewards: list[float], normalise_std: bool) -> list[float]:
    """Return r - mean, or (r - mean) / std, within one group of responses to the same prompt.

    The standard deviation is the population's: with as many +1 as -1 the advantages are exactly
    +1 and -1.

    Args:
        rewards: Rewards of the group.
        normalise_std: Whether to divide by the standard deviation.

    Returns:
        One advantage per reward; all are 0 if all rewards are equal.
    """
    mean = math.fsum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    if not any(centred) or not normalise_std:
        return centred
    std = math.sqrt(math.fsum(c * c for c in centred) / len(centred))
    return [c / std for c in centred]
