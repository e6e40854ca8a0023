import random

import pytest

from eval.statistics import accuracy_interval, paired_difference


def test_published_interval():
    # Clopper and Pearson's 95 % interval for 8 of 10 is (0.4439, 0.9748).
    low, high = accuracy_interval([1.0] * 8 + [0.0] * 2)
    assert (low, high) == (pytest.approx(0.4439, abs=1e-4), pytest.approx(0.9748, abs=1e-4))


def test_never_zero_width():
    for scores in ([0.0] * 500, [1.0] * 30):
        for samples in (1, 16):
            low, high = accuracy_interval(scores, samples)
            assert high - low > 0.005


@pytest.mark.parametrize("problems", [30, 500])
@pytest.mark.parametrize("samples", [1, 4])
def test_coverage(problems, samples):
    rng = random.Random(0)
    covered = 0
    for _ in range(400):
        # Problems differ in difficulty; the target is the mean over the population of problems.
        difficulty = [rng.betavariate(1.2, 0.8) for _ in range(problems)]
        scores = [sum(rng.random() < d for _ in range(samples)) / samples for d in difficulty]
        low, high = accuracy_interval(scores, samples)
        covered += low <= 0.6 <= high
    assert covered / 400 >= 0.92


def test_paired_difference():
    a = [0.0] * 50 + [1.0] * 50
    b = [1.0] * 20 + [0.0] * 30 + [1.0] * 45 + [0.0] * 5
    result = paired_difference(a, b)
    assert (result["difference"], result["won"], result["lost"]) == (pytest.approx(0.15), 20, 5)
    low, high = result["ci"]
    assert low < 0.15 < high
    assert low == pytest.approx(0.06, abs=0.03) and high == pytest.approx(0.24, abs=0.03)
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(a, b[:-1])
