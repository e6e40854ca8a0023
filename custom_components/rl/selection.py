"""Prompt selection, the paper's first fix: prompts whose responses have uniform length."""

from typing import Any


def selected(
    statistics: dict[str, Any], statistic: str, threshold: float, max_accuracy: float
) -> bool:
    """Whether to train on a prompt.

    Args:
        statistics: `length_cv`, `length_range` and `pass_rate` of its sampled responses.
        statistic: which of the two lengths' statistics decides.
        threshold: largest value of it.
        max_accuracy: prompts with a higher pass rate are left out.
    """
    return statistics[statistic] <= threshold and statistics["pass_rate"] <= max_accuracy
