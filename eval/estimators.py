"""Estimate pass@k and cons@k of one problem from its n samples.

Both are expectations over all subsets of k samples, so they need no resampling. The value of a task
is their mean over problems, with the interval `statistics.accuracy_interval(values)`. avg@k is
pass@1.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb


def pass_at_k(samples: int, correct: int) -> list[float]:
    """Estimate without bias the chance that at least one of k samples is right, for k = 1..n.

    The estimate is 1 - C(n - c, k) / C(n, k): Chen et al. 2021, Evaluating Large Language Models
    Trained on Code (arXiv 2107.03374), equation 1.

    Args:
        samples: number n of samples of the problem.
        correct: number c of samples that are right.

    Returns:
        n values; [k - 1] is pass@k.

    Raises:
        ValueError: if correct is not in 0..samples, or there is no sample.
    """
    if not 0 <= correct <= samples or samples < 1:
        raise ValueError(f"{correct} right samples of {samples}")
    return [
        1 - comb(samples - correct, k) / comb(samples, k)  # integers: exact for any n
        for k in range(1, samples + 1)
    ]


def cons_at_k(
    labels: Sequence[Hashable | None], correct: Sequence[bool], k: int | None = None
) -> tuple[float, float]:
    """Estimate how often the majority vote of k samples is right, and how often it is tied.

    A tie counts with the share of its winners that are right, as if a coin decided. Samples without
    an answer do not vote; if no sample votes, the vote is wrong and not tied. The method is that of
    Wang et al. 2022, Self-Consistency (arXiv 2203.11171).

    Args:
        labels: each sample's class of equivalent answers; None for a sample without an answer.
        correct: each sample's verdict. A class whose samples differ in it counts as right with the
            share of them that are.
        k: number of samples that vote; all by default.

    Returns:
        (share right, share tied) over all subsets of k samples. With all samples, the second is 0
        or 1, and its sum over problems is the number of ties.

    Raises:
        ValueError: if the lengths differ, or k is not in 1..n.
    """
    n = len(labels)
    k = n if k is None else k
    if len(correct) != n or not 1 <= k <= n:
        raise ValueError(f"{n} labels, {len(correct)} verdicts, k = {k}")
    sizes = Counter(label for label in labels if label is not None)
    right = Counter(label for label, ok in zip(labels, correct, strict=True) if ok)
    score = tied = 0.0
    for top in range(1, k + 1):
        for winners, (subsets, worth) in _votes(sizes, right, n, k, top).items():
            if winners:
                score += worth / winners
                tied += subsets if winners > 1 else 0
    return score / comb(n, k), tied / comb(n, k)


def _votes(
    sizes: Counter[Hashable], right: Counter[Hashable], n: int, k: int, top: int
) -> dict[int, list[float]]:
    """Count the subsets of k of n samples in which the largest class has `top` votes.

    Class by class, the states map (samples taken, classes with `top` votes) to the number of such
    subsets and, summed over them, the shares of these classes that are right.

    Args:
        sizes: number of samples of each class.
        right: number of right samples of each class.
        n: number of samples, also those without a class.
        k: size of a subset.
        top: votes of the largest class.

    Returns:
        {winning classes: [subsets, sum over subsets and winners of the winner's share right]}.
    """
    remaining = n
    states: dict[tuple[int, int], list[float]] = {(0, 0): [1, 0.0]}
    for label, size in [(None, n - sizes.total()), *sizes.items()]:
        remaining -= size
        after: dict[tuple[int, int], list[float]] = {}
        for (taken, winners), (subsets, worth) in states.items():
            limit = size if label is None else min(size, top)
            # With fewer votes the later classes would have too few samples to reach k.
            for votes in range(max(0, k - taken - remaining), min(limit, k - taken) + 1):
                ways = comb(size, votes)
                wins = label is not None and votes == top
                state = after.setdefault((taken + votes, winners + wins), [0, 0.0])
                state[0] += subsets * ways
                state[1] += (worth + wins * subsets * right[label] / size) * ways if size else worth
        states = after
    return {winners: state for (_, winners), state in states.items()}
