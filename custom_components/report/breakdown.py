"""Accuracy by the length of the response."""

from typing import Any

PARTS = 5


def length_bins(lengths: list[int], parts: int = PARTS) -> list[int]:
    """Upper ends of bins that hold about as many responses each; fewer where many are as long."""
    ordered = sorted(lengths)
    return sorted(
        {ordered[(i + 1) * len(ordered) // parts - 1] for i in range(parts)}
        if len(ordered) >= parts
        else set(ordered)
    )


def by_length(responses: list[tuple[int, bool]], ends: list[int]) -> list[dict[str, Any]]:
    """A stage's accuracy in every bin.

    Args:
        responses: (length, right) of each.
        ends: see `length_bins`; the bins are the same for all stages.

    Returns:
        [{"from", "to", "n_samples", "accuracy"}], both ends included; accuracy is None in a bin
        without a response.
    """
    bins, start = [], 0
    for end in ends:
        right = [ok for length, ok in responses if start <= length <= end]
        bins.append(
            {
                "from": start,
                "to": end,
                "n_samples": len(right),
                "accuracy": sum(right) / len(right) if right else None,
            }
        )
        start = end + 1
    return bins
