"""Intervals for accuracies and paired differences, clustered by problem."""

import math
import random
from collections.abc import Sequence

Z95 = 1.959963984540054


def accuracy_interval(scores: Sequence[float], samples: int = 1) -> tuple[float, float]:
    """95 % interval of a mean accuracy over problems.

    Wilson's score interval with the effective number of independent samples, which the spread
    of the problems' means gives (Kish's design effect). It never has zero width, also at 0 or 1.

    Args:
        scores: each problem's mean over its samples, in [0, 1].
        samples: samples behind each score.

    Returns:
        (low, high).

    Raises:
        ValueError: when there is no score.
    """
    n = len(scores)
    if n == 0:
        raise ValueError("no scores")
    mean = sum(scores) / n
    variance = sum((s - mean) ** 2 for s in scores) / max(n - 1, 1)
    # between n (samples of a problem always agree) and n * samples (they are independent)
    effective = n * samples
    if variance > 0:
        effective = min(n * samples, max(n, n * mean * (1 - mean) / variance))
    elif samples > 1:
        effective = n
    z2 = Z95**2
    centre = (mean + z2 / (2 * effective)) / (1 + z2 / effective)
    half = (
        Z95 / (1 + z2 / effective)
        * math.sqrt(mean * (1 - mean) / effective + z2 / (4 * effective**2))
    )  # fmt: skip
    # at 0 and 1 the bound is exact; computed, it misses by rounding
    return 0.0 if mean == 0 else centre - half, 1.0 if mean == 1 else centre + half


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> dict[str, object]:
    """Difference of two models' accuracies on the same problems, b minus a.

    Args:
        a, b: scores of the same problems, in the same order.
        resamples: bootstrap resamples of problems.
        seed: of the resampling.

    Returns:
        {"difference", "ci": [low, high], "won", "lost"}: percentile interval at 95 %; problems
        on which b scores higher or lower.

    Raises:
        ValueError: when the lengths differ.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"scores of the same problems are needed, got {len(a)} and {len(b)}")
    differences = [y - x for x, y in zip(a, b, strict=True)]
    n = len(differences)
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(resamples))
    return {
        "difference": sum(differences) / n,
        "ci": [means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]],
        "won": sum(d > 0 for d in differences),
        "lost": sum(d < 0 for d in differences),
    }
