"""pass@k and cons@k of one problem, from its n samples.

Both are expectations over the k-subsets of the samples, so that they need no resampling. The
value of a task is their mean over problems; `statistics.accuracy_interval(values)` gives it an
interval. avg@k is pass@1.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb


def pass_at_k(samples: int, correct: int) -> list[float]:
    """Chance that at least one of k samples is right, for k = 1..n, without bias.

    1 - C(n - c, k) / C(n, k): Chen et al. 2021, Evaluating Large Language Models Trained on Code
    (arXiv 2107.03374), equation 1.

    Args:
        samples: n, samples of the problem.
        correct: c, the right ones among them.

    Returns:
        n values; [k - 1] is pass@k.

    Raises:
        ValueError: when correct is not in 0..samples, or there is no sample.
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
    """Majority vote of k samples: how often it is right, and how often it is tied.

    A tie counts with the share of its winners that are right, which is what a coin between them
    would score. Samples without an answer do not vote; where none votes, the vote is wrong and
    not tied. After Wang et al. 2022, Self-Consistency (arXiv 2203.11171).

    Args:
        labels: each sample's class of equivalent answers; None where there is no answer.
        correct: each sample's verdict. Where the samples of a class differ in it, the class is
            right by the share of them that are.
        k: samples that vote; all by default.

    Returns:
        (share right, share tied) over all subsets of k samples. With all samples, the second is
        0 or 1: its sum over problems is the number of ties.

    Raises:
        ValueError: when the lengths differ, or k is not in 1..n.
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


def _votes(sizes: Counter, right: Counter, n: int, k: int, top: int) -> dict[int, list[float]]:
    """Subsets of k of n samples in which the largest class has `top` votes.

    Class by class, keeps for (samples taken, classes that reached `top`) the number of subsets
    and, summed over them, how right these classes are.

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
            # too few of the later classes' samples would be left to reach k
            for votes in range(max(0, k - taken - remaining), min(limit, k - taken) + 1):
                ways = comb(size, votes)
                wins = label is not None and votes == top
                state = after.setdefault((taken + votes, winners + wins), [0, 0.0])
                state[0] += subsets * ways
                state[1] += (worth + wins * subsets * right[label] / size) * ways if size else worth
        states = after
    return {winners: state for (_, winners), state in states.items()}
