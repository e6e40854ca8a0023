"""Break accuracy down by the length of the response."""

from typing import Any

PARTS = 5


def length_bins(lengths: list[int], parts: int = PARTS) -> list[int]:
    """Return the upper ends of bins with about the same number of responses each.

    There are fewer than `parts` bins if many responses have the same length.
    """
    ordered = sorted(lengths)
    if len(ordered) < parts:
        return sorted(set(ordered))
    return sorted({ordered[(i + 1) * len(ordered) // parts - 1] for i in range(parts)})


def by_length(responses: list[tuple[int, bool]], ends: list[int]) -> list[dict[str, Any]]:
    """Return a stage's accuracy in every bin.

    Args:
        responses: (length, whether it is right) of each response.
        ends: upper ends of the bins (see `length_bins`), the same for all stages.

    Returns:
        [{"from", "to", "n_samples", "accuracy"}], with both ends included; accuracy is None in a
        bin without a response.
    """
    bins: list[dict[str, Any]] = []
    start = 0
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
