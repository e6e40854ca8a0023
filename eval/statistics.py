"""Intervals for accuracies and paired comparisons, clustered by problem.

What is estimated is the accuracy over the population of problems that the benchmark's are drawn
from. `benchmarks/coverage.py` measures how often the intervals hold it, and how often the test
sees a difference between equals.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv, stdtrit

# sums of sign flips are counted exactly up to this many steps of the scores' lattice
LARGEST_LATTICE = 1 << 20


def accuracy_interval(scores: Sequence[float], samples: int = 1) -> tuple[float, float]:
    """95 % interval of a mean accuracy over problems; never of zero width, also at 0 or 1.

    Args:
        scores: each problem's mean over its samples, in [0, 1].
        samples: samples behind each score. 1 for values that are no means, like pass@k.

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
    low, high = clustered_interval(np.array(mean), np.array(variance), n, samples)
    return float(low), float(high)


def clustered_interval(
    mean: np.ndarray, variance: np.ndarray, problems: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of many evaluations: Clopper and Pearson's, for an effective sample size.

    After Korn and Graubard 1998 (Survey Methodology 24, p. 193). The effective size is problems *
    samples / d with Kish's design effect d, between 1 (samples of a problem are independent) and
    `samples` (they always agree). d is estimated from the spread of the problems' means and drawn
    towards `samples` with the weight of one problem; the estimate weighs as many as 4 (problems -
    1) mean (1 - mean), since a spread is seen only where both outcomes are. Otherwise a few lucky
    problems near 0 or 1 look like certainty (30 problems at 5 %, 16 samples: 87 % coverage).

    With one sample d is 1 and the coverage at least 95 % at any accuracy. Wilson's interval, a
    tenth narrower at 30 problems, is below 93 % there (accuracy 0.3).

    Args:
        mean: (...) of the problems' scores.
        variance: (...) of the problems' scores, with problems - 1 in the denominator.
        problems: of each evaluation.
        samples: behind each score.

    Returns:
        low and high, (...).
    """
    spread = mean * (1 - mean)
    seen = 4 * (problems - 1) * spread
    design = np.clip(samples * variance / np.where(spread > 0, spread, 1), 1, samples)
    effective = problems * samples * (seen + 1) / (seen * design + samples)
    right, wrong = mean * effective, (1 - mean) * effective
    none, all_ = right == 0, wrong == 0  # beta distributions need positive parameters
    low = np.where(none, 0, betaincinv(np.where(none, 1, right), wrong + 1, 0.025))
    high = np.where(all_, 1, betaincinv(right + 1, np.where(all_, 1, wrong), 0.975))
    return low, high


def paired_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> dict[str, object]:
    """Compare two models on the same problems; the difference is b minus a.

    Args:
        a, b: scores of the same problems, in the same order.
        resamples: sign flips drawn where they cannot be counted (see `sign_flip_p`).
        seed: of these.

    Returns:
        {"difference", "ci": [low, high], "p", "won", "lost", "tied"}: 95 % interval
        (`paired_interval`), p of the sign-flip test, and the problems on which b scores higher,
        lower or the same.

    Raises:
        ValueError: when the lengths differ.
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
    """95 % interval of a mean difference; never of zero width.

    Bonett and Price 2012 (doi 10.3102/1076998611411915): Wald's interval after a problem won and
    one lost are added. Theirs are of size 1, as with one sample per problem all are; here they
    are of the largest difference seen (1 if there is none). The quantile is Student's.

    Args:
        differences: (..., problems), in [-1, 1].

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
    """Two-sided p of the mean difference when each problem's sign is a coin's (Fisher 1935).

    With one sample per problem this is McNemar's exact test. Scores are counts over a number of
    samples, so that the differences lie on a lattice and all 2^n flips are counted, by
    `sign_flip_tail`. Where they do not (or it is too fine), flips are drawn.

    Exact where the models are exchangeable on each problem. Equal means alone are not enough with
    few problems near 0 or 1 and many samples, when one model solves a few problems always and the
    other all of them rarely (`flat` in benchmarks/coverage.py: up to 20 % at 30 problems).

    Args:
        differences: (problems,).
        resamples: flips drawn, in the second case.
        seed: of these.

    Returns:
        share of the flips whose mean is at least as far from 0; 1 when all differences are 0.
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
    # the flip that was observed is one of them (Phipson and Smyth 2010)
    return float((1 + (np.abs(sums) >= abs(differences.sum()) - 1e-9).sum()) / (1 + resamples))


def sign_flip_tail(counts: np.ndarray) -> np.ndarray:
    """P(|sum of +-counts| >= |sum of counts|) over all sign flips, for many comparisons at once.

    The sum's characteristic function is the product of cos(counts * t); its inverse transform
    is the whole distribution, with an error of about 1e-13.

    Args:
        counts: (comparisons, problems) integers.

    Returns:
        (comparisons,) in (0, 1].
    """
    sizes = np.abs(counts)
    length = 2 * int(sizes.sum(-1).max(initial=0)) + 1
    length = 1 << length.bit_length()
    values = np.unique(sizes[sizes > 0])
    n_CV = np.stack([(sizes == v).sum(-1) for v in values], -1) if len(values) else sizes[:, :0]
    # cos(v t)^n = sign * exp(n log |cos|); v t is reduced first, to lose no digits
    turns_VT = np.outer(values, np.arange(length // 2 + 1)) % length / length
    cos_VT = np.cos(2 * np.pi * turns_VT)
    log_VT = np.log(np.maximum(np.abs(cos_VT), 1e-300))
    odd_CT = (n_CV.astype(float) @ (cos_VT < 0)) % 2
    p_CS = np.fft.irfft((1 - 2 * odd_CT) * np.exp(n_CV @ log_VT), n=length)
    # p_CS[:, s] is P(sum = s), s from 0; the distribution is symmetric
    inside = np.arange(length // 2)[None] < np.abs(counts.sum(-1))[:, None]
    below = 2 * (p_CS[:, : length // 2] * inside).sum(-1) - p_CS[:, 0] * inside[:, 0]
    # the smallest p there is: one flip and its mirror image
    return np.clip(1 - below, 0.5 ** np.maximum((sizes > 0).sum(-1) - 1, 0), 1)
