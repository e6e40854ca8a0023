"""Reward rebalancing, the paper's second fix."""

import random


def rebalance(rewards: list[float], max_accuracy: float, rng: random.Random) -> list[int]:
    """Which of a group's responses to learn from: every +1 and as many -1, drawn at random.

    Args:
        rewards: of the group, +1 or -1.
        max_accuracy: a group with a larger share of +1 is dropped: its prompt is too easy.
        rng: draws the -1.

    Returns:
        indices into `rewards`, ascending; empty when the group is dropped, or when it has no
        +1 or no -1. Where +1 outnumber -1 (`max_accuracy` above a half), all are kept.
    """
    right = [i for i, r in enumerate(rewards) if r > 0]
    wrong = [i for i, r in enumerate(rewards) if r <= 0]
    if not right or not wrong or len(right) > max_accuracy * len(rewards):
        return []
    return sorted(right + rng.sample(wrong, min(len(right), len(wrong))))
