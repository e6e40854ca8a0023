r"""Measure how often eval/statistics.py's intervals hold the truth, and how often its test errs.

    python benchmarks/coverage.py

The benchmark simulates whole evaluations. It draws the problems, each with its own chance of
success ("spread" below), and then their samples. The truth is the accuracy over the population of
problems. It prints Markdown: coverage and mean width of the 95 % interval of avg@k, then coverage
of the interval of a paired difference and the false-positive rate of the sign-flip test at 5 %. It
takes a minute and a half.

Spreads: equal = every problem has the task's accuracy; 3, 1 = Beta-distributed with that
concentration (at 1 most problems are nearly always or nearly never solved); mixed = half of the
accuracy comes from problems that are always solved, which is the harshest case.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from eval.statistics import clustered_interval, paired_interval, sign_flip_tail

PROBLEMS = (30, 198, 500)
ACCURACIES = (0.05, 0.3, 0.6, 0.95)
SAMPLES = (1, 3, 16)
SPREADS = ("equal", "3", "1", "mixed")
SITUATIONS = ("same", "other", "flat", "gain")
ROUNDING = 1e-9
CHUNK = 500


def chances(
    rng: np.random.Generator, spread: str, accuracy: float, shape: tuple[int, int]
) -> np.ndarray:
    """Draw each problem's chance of success, with mean `accuracy` over the population."""
    if spread == "equal":
        return np.full(shape, accuracy)
    if spread == "mixed":
        solved = rng.random(shape) < accuracy / 2
        return np.where(solved, 1.0, accuracy / (2 - accuracy))
    concentration = float(spread)
    return rng.beta(concentration * accuracy, concentration * (1 - accuracy), shape)


def avg_at_k(
    rng: np.random.Generator, spread: str, accuracy: float, problems: int, samples: int, runs: int
) -> tuple[float, float]:
    """Return (coverage, mean width) of the interval of avg@k in `runs` evaluations."""
    chance = chances(rng, spread, accuracy, (runs, problems))
    scores = rng.binomial(samples, chance) / samples
    low, high = clustered_interval(scores.mean(-1), scores.var(-1, ddof=1), problems, samples)
    held = (low <= accuracy + ROUNDING) & (accuracy <= high + ROUNDING)
    return float(held.mean()), float((high - low).mean())


def paired(
    rng: np.random.Generator,
    situation: str,
    spread: str,
    accuracy: float,
    problems: int,
    samples: int,
    runs: int,
) -> tuple[float, float, float]:
    """Return (share of p <= 0.05, coverage, mean width) in `runs` comparisons of two models.

    Situations: same = both models solve every problem with the same chance; other = their chances
    are drawn independently; flat = the second model's chances are all equal (the differences are
    skewed, so that the test's symmetry fails); gain = the second model solves a fifth of what the
    first does not (the share is then the power).
    """
    rejected, held, widths = 0, 0, 0.0
    for start in range(0, runs, CHUNK):
        shape = (min(CHUNK, runs - start), problems)
        first = chances(rng, spread, accuracy, shape)
        second = {
            "same": lambda c=first: c,
            "other": lambda s=shape: chances(rng, spread, accuracy, s),
            "flat": lambda s=shape: chances(rng, "equal", accuracy, s),
            "gain": lambda c=first: c + 0.2 * (1 - c),
        }[situation]()
        truth = 0.2 * (1 - accuracy) if situation == "gain" else 0.0
        counts = rng.binomial(samples, second) - rng.binomial(samples, first)
        low, high = paired_interval(counts / samples)
        rejected += int((sign_flip_tail(counts) <= 0.05 + ROUNDING).sum())
        held += int(((low <= truth + ROUNDING) & (truth <= high + ROUNDING)).sum())
        widths += float((high - low).sum())
    return rejected / runs, held / runs, widths / runs


def grid() -> Iterator[tuple[int, float, int]]:
    """Yield (problems, accuracy, samples) for every point of the grid."""
    return itertools.product(PROBLEMS, ACCURACIES, SAMPLES)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulations per point")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    point = ["problems", "accuracy", "samples"]

    rows, worst = [], (1.0, "")
    for n, p, k in grid():
        cells = []
        for spread in SPREADS:
            coverage, width = avg_at_k(rng, spread, p, n, k, args.runs)
            worst = min(worst, (coverage, f"{n} x {p} x {k}, {spread}"))
            cells.append(f"{100 * coverage:.1f} ({100 * width:.1f})")
        rows.append([str(n), str(p), str(k), *cells])
    print(f"avg@k: coverage in % (mean width in points) by spread, {args.runs} runs\n")
    print(table(point + list(SPREADS), rows))
    print(f"lowest: {100 * worst[0]:.2f} % at {worst[1]}\n")

    for situation in SITUATIONS:
        spreads = [s for s in SPREADS if situation != "flat" or s != "equal"]
        rows, lowest, highest = [], (1.0, ""), (0.0, "")
        for n, p, k in grid():
            cells = []
            for spread in spreads:
                rate, coverage, width = paired(rng, situation, spread, p, n, k, args.runs)
                name = f"{n} x {p} x {k}, {spread}"
                lowest = min(lowest, (coverage, name))
                highest = max(highest, (rate, name))
                cells.append(f"{100 * rate:.1f} / {100 * coverage:.1f} ({100 * width:.1f})")
            rows.append([str(n), str(p), str(k), *cells])
        print(f"Paired, {situation}: p <= 0.05 in % / coverage in % (mean width in points)\n")
        print(table(point + spreads, rows))
        print(f"lowest coverage: {100 * lowest[0]:.2f} % at {lowest[1]}")
        if situation != "gain":
            print(f"most false positives: {100 * highest[0]:.2f} % at {highest[1]}")
        print()


if __name__ == "__main__":
    main()
