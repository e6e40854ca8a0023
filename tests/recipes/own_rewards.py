"""Reward as a user's module does, for tests/recipes/test_own_rewards.py."""

import random


def credit(problem, response, target=4):
    """Reward the right first digit, and a length near the target; not every answer has a reward."""
    answer = response.text.removeprefix("\\boxed{")
    if answer.startswith("4"):
        return None
    if answer.startswith("9"):
        raise LookupError(f"no nine: {response.text}")
    return 0.5 * answer.startswith(problem["answer"][0]) - abs(response.length - target) / 10


def noisy(problem, response):
    """Never return the same value twice."""
    return random.SystemRandom().random()
