"""Reward a response by its verdict, and shape the reward by its length."""

REWARDS = {"correct": 1.0, "incorrect": -1.0}
"""Reward of each verdict. An undecided response has none and is left out of the update."""


def soft_length_penalty(length: int, max_new_tokens: int, buffer: int) -> float:
    """Return DAPO's penalty for a long response, to be added to its reward.

    The penalty is 0 for short responses and falls linearly to -1 over the last `buffer` tokens
    (Yu et al. 2025, arXiv 2503.14476, section 3.4, eq. 13).

    Args:
        length: Tokens of the response.
        max_new_tokens: Longest allowed response, tokens.
        buffer: Tokens over which the penalty falls; 0 for no penalty.
    """
    if buffer <= 0:
        return 0.0
    return min(0.0, max(-1.0, (max_new_tokens - buffer - length) / buffer))
