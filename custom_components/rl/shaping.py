"""DAPO's treatment of responses that are too long (Yu et al. 2025, section 3.4)."""


def soft_length_penalty(length: int, longest: int, buffer: int) -> float:
    """What is added to a reward: 0, falling linearly to -1 over the last `buffer` tokens (eq. 13).

    Args:
        length: tokens of the response.
        longest: longest allowed response, tokens.
        buffer: width of the fall, tokens; 0 for no penalty.
    """
    if buffer <= 0:
        return 0.0
    return min(0.0, max(-1.0, (longest - buffer - length) / buffer))
