import itertools
import math
import random

import numpy as np
import pytest

from benchmarks import coverage
from eval.estimators import cons_at_k, pass_at_k
from eval.statistics import accuracy_interval, paired_difference, paired_interval, sign_flip_p


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 2), (6, 6), (7, 1), (8, 0)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, c):
    verdicts = [True] * c + [False] * (n - c)
    for k, value in enumerate(pass_at_k(n, c), 1):
        subsets = list(itertools.combinations(verdicts, k))
        assert value == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_of_many_samples():
    assert pass_at_k(64, 16)[0] == 0.25
    assert pass_at_k(2000, 1)[999] == pytest.approx(0.5)
    for samples, correct in ((3, 4), (0, 0), (3, -1)):
        with pytest.raises(ValueError, match="right samples"):
            pass_at_k(samples, correct)


def vote(labels, right):
    """Return (share of the winners that are right, whether it is tied) by definition."""
    counts = {x: labels.count(x) for x in labels if x is not None}
    if not counts:
        return 0.0, False
    winners = [x for x in counts if counts[x] == max(counts.values())]
    return sum(x in right for x in winners) / len(winners), len(winners) > 1


@pytest.mark.parametrize("labels", ["a", "aab", "aabbc", "abcde", "aaabbb--", "--", "ab-cabca"])
@pytest.mark.parametrize("right", ["a", "b", "", "ab"])
def test_cons_at_k_is_the_mean_over_subsets(labels, right):
    labels = [None if x == "-" else x for x in labels]
    correct = [x is not None and x in right for x in labels]
    for k in range(1, len(labels) + 1):
        votes = [vote(subset, right) for subset in itertools.combinations(labels, k)]
        score, tied = cons_at_k(labels, correct, k)
        assert score == pytest.approx(sum(v[0] for v in votes) / len(votes), abs=1e-12)
        assert tied == pytest.approx(sum(v[1] for v in votes) / len(votes), abs=1e-12)
    assert cons_at_k(labels, correct) == cons_at_k(labels, correct, len(labels))


def test_cons_at_k_ties_and_one_vote():
    assert cons_at_k(["1", "2"], [True, False]) == (0.5, 1.0)
    assert cons_at_k(["1", "2", "3", "3", "2"], [False, True, False, False, True]) == (0.5, 1.0)
    # With one vote it is avg@k: a sample without an answer is wrong.
    labels, correct = ["1", "1", "2", None], [True, True, False, False]
    assert cons_at_k(labels, correct, 1) == (0.5, 0.0) == (pass_at_k(4, 2)[0], 0.0)
    # The samples of one class have different verdicts.
    assert cons_at_k(["1", "1", "2"], [True, False, False]) == (0.5, 0.0)
    with pytest.raises(ValueError, match="verdicts"):
        cons_at_k(labels, correct[:2])


def test_cons_at_k_of_many_samples_meets_drawn_subsets():
    rng = random.Random(0)
    labels = [rng.choice("aabcdefgh") for _ in range(64)]
    score, tied = cons_at_k(labels, [x == "a" for x in labels], 16)
    votes = [vote(rng.sample(labels, 16), "a") for _ in range(4000)]
    assert score == pytest.approx(sum(v[0] for v in votes) / 4000, abs=0.025)
    assert tied == pytest.approx(sum(v[1] for v in votes) / 4000, abs=0.025)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # At 0 and n the closed form is 1 - 0.025^(1/n); 8 of 10 is in Clopper and Pearson's table.
    [(8, 10, 0.4439, 0.9748), (0, 30, 0.0, 1 - 0.025 ** (1 / 30)), (500, 500, 0.025**0.002, 1.0)],
)
def test_single_samples_get_clopper_and_pearson(right, n, low, high):
    interval = accuracy_interval([1.0] * right + [0.0] * (n - right))
    assert interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize("samples", [1, 3, 16])
@pytest.mark.parametrize("problems", [1, 2, 30, 500])
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_no_interval_has_zero_width(score, problems, samples):
    low, high = accuracy_interval([score] * problems, samples)
    assert 0 <= low <= score <= high <= 1 and high - low > 0.005
    low, high = paired_interval(np.full(problems, 2 * score - 1))
    assert -1 <= low <= 2 * score - 1 <= high <= 1 and high - low > 0.005


def test_the_interval_mirrors_and_narrows_with_samples():
    rng = random.Random(0)
    scores = [rng.choice((0, 0.25, 0.5, 0.75, 1)) for _ in range(60)]
    low, high = accuracy_interval(scores, 4)
    mirrored = accuracy_interval([1 - s for s in scores], 4)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))
    wide = accuracy_interval(scores)  # as if each were a single sample
    assert wide[0] < low < high < wide[1]
    # Samples that always agree are worth no more than one.
    certain = [0.0] * 250 + [1.0] * 250
    assert accuracy_interval(certain, 16) == pytest.approx(accuracy_interval(certain), abs=1e-4)


@pytest.mark.parametrize("problems", coverage.PROBLEMS)
def test_coverage_on_the_grid(problems):
    rng = np.random.default_rng(problems)
    for accuracy, samples, spread in itertools.product(
        coverage.ACCURACIES, coverage.SAMPLES, coverage.SPREADS
    ):
        # With 1000 runs 92.5 % is two standard errors below 94 %.
        held, width = coverage.avg_at_k(rng, spread, accuracy, problems, samples, 1000)
        assert held >= 0.925 and width > 0, (accuracy, samples, spread)


@pytest.mark.parametrize("situation", ["same", "other"])
@pytest.mark.parametrize("problems", [30, 198])
def test_false_positives_on_the_grid(situation, problems):
    rng = np.random.default_rng(problems)
    rates = []
    for accuracy, samples in itertools.product(coverage.ACCURACIES, coverage.SAMPLES):
        rate, held, _ = coverage.paired(rng, situation, "1", accuracy, problems, samples, 500)
        rates.append(rate)
        assert rate <= 0.08 and held >= 0.925, (accuracy, samples)  # 3 standard errors
    assert sum(rates) / len(rates) <= 0.05


@pytest.mark.parametrize("samples", [1, 3, 16])
@pytest.mark.parametrize("seed", range(5))
def test_p_is_the_share_of_all_sign_flips(samples, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, samples + 1, (2, 11)) / samples
    differences = b - a
    flips = np.array(list(itertools.product((-1, 1), repeat=11))) @ differences
    expected = (np.abs(flips) >= abs(differences.sum()) - 1e-9).mean()
    result = paired_difference(a, b)
    assert result["p"] == pytest.approx(expected, abs=1e-12)
    mirrored = paired_difference(b, a)
    assert (mirrored["p"], mirrored["tied"]) == (result["p"], result["tied"])
    assert mirrored["difference"] == -result["difference"]
    assert mirrored["ci"] == pytest.approx([-x for x in result["ci"][::-1]])
    assert (mirrored["won"], mirrored["lost"]) == (result["lost"], result["won"])
    assert result["won"] + result["lost"] + result["tied"] == 11


def test_p_of_single_samples_is_mcnemars():
    a = [0.0] * 20 + [1.0] * 5 + [1.0] * 75
    b = [1.0] * 20 + [0.0] * 5 + [1.0] * 75
    expected = 2 * sum(math.comb(25, i) for i in range(6)) / 2**25
    result = paired_difference(a, b)
    assert result["p"] == pytest.approx(expected, rel=1e-9)
    assert (result["won"], result["lost"], result["tied"]) == (20, 5, 75)


def test_p_at_its_ends():
    assert paired_difference([0.5] * 7, [0.5] * 7)["p"] == 1
    assert paired_difference([0.0], [1.0])["p"] == 1
    # If all problems are won, two flips of 2^n are as far out, also below rounding errors.
    assert paired_difference([0.0] * 200, [1.0] * 200)["p"] == pytest.approx(0.5**199)


def test_scores_off_any_lattice_are_flipped_at_random():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 0.5, 12)
    flips = np.array(list(itertools.product((-1, 1), repeat=12))) @ differences
    expected = (np.abs(flips) >= abs(differences.sum())).mean()
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)  # the seed is fixed
    assert p == pytest.approx(expected, abs=0.01) and p != sign_flip_p(differences, seed=1)
