"""Group-relative advantages."""

import math


def group_advantages(rewards: list[float], normalise_std: bool) -> list[float]:
    """r - mean, or (r - mean) / std, within one group of responses to the same prompt.

    The standard deviation is the population's: with as many +1 as -1 the advantages are exactly
    +1 and -1.

    Args:
        rewards: of the group.
        normalise_std: divide by the standard deviation.

    Returns:
        as many advantages; all 0 where all rewards are equal.
    """
    mean = math.fsum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    if not any(centred) or not normalise_std:
        return centred
    std = math.sqrt(math.fsum(c * c for c in centred) / len(centred))
    return [c / std for c in centred]
