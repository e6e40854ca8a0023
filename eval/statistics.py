"""Compute intervals for accuracies and paired comparisons, clustered by problem.

The estimand is the accuracy over the population from which the benchmark's problems are drawn.
`benchmarks/coverage.py` measures how often the intervals contain it, and how often the test finds a
difference between equal models.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv, stdtrit

LARGEST_LATTICE = 1 << 20
"""Steps of the scores' lattice up to which sums of sign flips are counted exactly."""


def accuracy_interval(scores: Sequence[float], samples: int = 1) -> tuple[float, float]:
    """Return the 95 % interval of a mean accuracy; its width is never 0, not even at 0 or 1.

    Args:
        scores: each problem's mean over its samples, in [0, 1].
        samples: samples behind each score; 1 for values that are not means, like pass@k.

    Returns:
        (low, high).

    Raises:
        ValueError: if there is no score.
    """
    n = len(scores)
    if n == 0:
        raise ValueError("no scores")
    mean = sum(scores) / n
    variance = sum((s - mean) ** 2 for s in scores) / max(n - 1, 1)
    low, high = clustered_interval(np.array(mean), np.array(variance), n, samples)
    return float(low), float(high)


def clustered_interval(
    mean: np.ndarray, variance: np.ndarray, problems: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return 95 % intervals of many evaluations, by Clopper and Pearson for an effective size.

    The method follows Korn and Graubard 1998 (Survey Methodology 24, p. 193). The effective size is
    problems * samples / d with Kish's design effect d, between 1 (samples of a problem are
    independent) and `samples` (they always agree). d is estimated from the spread of the problems'
    means and shrunk towards `samples`, which has the weight of one problem. The estimate has the
    weight of 4 (problems - 1) mean (1 - mean) problems, since there is a spread only if both
    outcomes occur. Without this a few lucky problems near 0 or 1 look like certainty: coverage is
    87 % with 30 problems at 5 % and 16 samples.

    With one sample d is 1, and the coverage is at least 95 % at any accuracy. Wilson's interval, a
    tenth narrower at 30 problems, covers less than 93 % there (accuracy 0.3).

    Args:
        mean: mean of the problems' scores, (...).
        variance: variance of the problems' scores, with problems - 1 in the denominator, (...).
        problems: number of problems of each evaluation.
        samples: samples behind each score.

    Returns:
        low and high, (...).
    """
    spread = mean * (1 - mean)
    weight = 4 * (problems - 1) * spread
    design = np.clip(samples * variance / np.where(spread > 0, spread, 1), 1, samples)
    effective = problems * samples * (weight + 1) / (weight * design + samples)
    right = mean * effective
    wrong = (1 - mean) * effective
    # Beta distributions need positive parameters.
    none = right == 0
    all_ = wrong == 0
    low = np.where(none, 0, betaincinv(np.where(none, 1, right), wrong + 1, 0.025))
    high = np.where(all_, 1, betaincinv(right + 1, np.where(all_, 1, wrong), 0.975))
    return low, high


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> dict[str, object]:
    """Compare two models on the same problems; the difference is b minus a.

    Args:
        a, b: scores of the same problems, in the same order.
        resamples: sign flips to draw if they cannot be counted (see `sign_flip_p`).
        seed: seed of the sign flips.

    Returns:
        {"difference", "ci": [low, high], "p", "won", "lost", "tied"}: 95 % interval
        (`paired_interval`), p of the sign-flip test, and the numbers of problems on which b scores
        higher, lower or the same.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"scores of the same problems are needed, got {len(a)} and {len(b)}")
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    differences[np.abs(differences) < 1e-9] = 0  # means of the same counts may differ by rounding
    low, high = paired_interval(differences)
    return {
        "difference": float(differences.mean()),
        "ci": [float(low), float(high)],
        "p": sign_flip_p(differences, resamples, seed),
        "won": int((differences > 0).sum()),
        "lost": int((differences < 0).sum()),
        "tied": int((differences == 0).sum()),
    }


def paired_interval(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a mean difference; its width is never 0.

    It is Wald's interval after one problem won and one lost are added (Bonett and Price 2012, doi
    10.3102/1076998611411915). In the paper the added differences are of size 1, like all
    differences with one sample per problem; here they are of the size of the largest difference (1
    if there is none). The quantile is Student's.

    Args:
        differences: differences of the problems' scores, (..., problems), in [-1, 1].

    Returns:
        low and high, (...), within [-1, 1].
    """
    n = differences.shape[-1] + 2
    largest = np.abs(differences).max(-1)
    added = np.where(largest > 0, largest, 1)
    mean = differences.sum(-1) / n
    variance = ((differences**2).sum(-1) + 2 * added**2) / n - mean**2
    half = stdtrit(n - 1, 0.975) * np.sqrt(variance / n)
    return np.maximum(mean - half, -1), np.minimum(mean + half, 1)


def sign_flip_p(differences: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p of the mean difference if a coin decides each sign (Fisher 1935).

    With one sample per problem this is McNemar's exact test. Scores are counts over a number of
    samples, so the differences lie on a lattice and all 2^n flips are counted, by `sign_flip_tail`.
    If they do not, or the lattice is too fine, flips are drawn.

    The test is exact if the models are exchangeable on each problem. Equal means are not enough
    with few problems near 0 or 1 and many samples, when one model always solves a few problems and
    the other rarely solves each of them (`flat` in benchmarks/coverage.py: up to 20 % at 30
    problems).

    Args:
        differences: differences of the problems' scores, (problems,).
        resamples: flips to draw if they cannot be counted.
        seed: seed of the flips.

    Returns:
        Share of the flips whose mean is at least as far from 0; 1 if all differences are 0.
    """
    differences = differences[differences != 0]
    parts = [Fraction(d).limit_denominator(1000) for d in differences.tolist()]
    steps = math.lcm(*(part.denominator for part in parts))
    if steps <= LARGEST_LATTICE and steps * np.abs(differences).sum() <= LARGEST_LATTICE:
        counts = np.rint(differences * steps)
        if np.abs(differences * steps - counts).max(initial=0) < 1e-6:
            return float(sign_flip_tail(counts[None].astype(np.int64))[0])
    rng = np.random.default_rng(seed)
    sums = np.array([rng.choice((-1, 1), len(differences)) @ differences for _ in range(resamples)])
    # The observed flip is one of them (Phipson and Smyth 2010).
    return float((1 + (np.abs(sums) >= abs(differences.sum()) - 1e-9).sum()) / (1 + resamples))


def sign_flip_tail(counts: np.ndarray) -> np.ndarray:
    """Return P(|sum of +-counts| >= |sum of counts|) over all sign flips, for many comparisons.

    The characteristic function of the sum is the product of cos(counts * t). Its inverse transform
    is the whole distribution, with an error of about 1e-13.

    Args:
        counts: differences in steps of the lattice, (comparisons, problems) integers.

    Returns:
        Probabilities, (comparisons,), in (0, 1].
    """
    sizes = np.abs(counts)
    length = 2 * int(sizes.sum(-1).max(initial=0)) + 1
    length = 1 << length.bit_length()
    values = np.unique(sizes[sizes > 0])
    n_CV = np.stack([(sizes == v).sum(-1) for v in values], -1) if len(values) else sizes[:, :0]
    # cos(v t)^n = sign * exp(n log |cos|). v t is reduced first, so that no digits are lost.
    turns_VT = np.outer(values, np.arange(length // 2 + 1)) % length / length
    cos_VT = np.cos(2 * np.pi * turns_VT)
    log_VT = np.log(np.maximum(np.abs(cos_VT), 1e-300))
    odd_CT = (n_CV.astype(float) @ (cos_VT < 0)) % 2
    p_CS = np.fft.irfft((1 - 2 * odd_CT) * np.exp(n_CV @ log_VT), n=length)
    # p_CS[:, s] is P(sum = s), with s from 0; the distribution is symmetric.
    inside = np.arange(length // 2)[None] < np.abs(counts.sum(-1))[:, None]
    below = 2 * (p_CS[:, : length // 2] * inside).sum(-1) - p_CS[:, 0] * inside[:, 0]
    # The smallest possible p is that of one flip and its mirror image.
    return np.clip(1 - below, 0.5 ** np.maximum((sizes > 0).sum(-1) - 1, 0), 1)
