import random
import re

import pytest

from custom_components.data.column_addition import (
    SPLITS,
    ErrorRates,
    column_addition,
    split_of,
    worked_addition,
)
from custom_components.verifier import verify


def test_worked_example():
    text, finished = worked_addition(58, 7, ErrorRates(), random.Random(0))
    assert finished
    assert text == "<think>8+7+0=15\n5+0+1=6</think>\\boxed{65}"


def test_splits_are_disjoint_whatever_the_order_of_the_numbers():
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.randint(0, 9999), rng.randint(0, 9999)
        assert split_of(a, b) == split_of(b, a)
    assert sum(len(r) for r in SPLITS.values()) == 100
    pairs = {}
    for split in SPLITS:
        rows = list(column_addition(split, {2: 100, 3: 100}, seed=1))
        assert len({r["problem"] for r in rows}) == 200
        pairs[split] = {
            frozenset(re.findall(r"\d+", r["problem"])) | {r["problem"].count("+")} for r in rows
        }
    assert not pairs["distill"] & pairs["eval"]
    assert not pairs["distill"] & pairs["rl"]
    assert not pairs["rl"] & pairs["eval"]


def test_answers_are_right_and_the_seed_decides():
    rows = list(column_addition("eval", {1: 5, 4: 20}))
    for row in rows:
        a, b = map(int, re.findall(r"\d+", row["problem"]))
        assert int(row["answer"]) == a + b
    assert rows == list(column_addition("eval", {1: 5, 4: 20}))
    assert rows != list(column_addition("eval", {1: 5, 4: 20}, seed=1))


def test_without_errors_every_answer_verifies():
    rng = random.Random(0)
    for _ in range(50):
        a, b = rng.randint(0, 99999), rng.randint(0, 99999)
        text, _ = worked_addition(a, b, ErrorRates(), rng)
        assert verify(str(a + b), text).verdict == "correct"


@pytest.mark.parametrize(
    "rates",
    [{"carry": 1.0}, {"slip": 1.0}, {"skip": 1.0}, {"cut": 1.0}, {"guess": 1.0, "guess_slip": 0.9}],
)
def test_each_error_makes_wrong_answers(rates):
    rng = random.Random(0)
    wrong = 0
    for _ in range(50):
        text, finished = worked_addition(5678, 4765, ErrorRates(**rates), rng)
        verdict = verify("10443", text, truncated=not finished)
        wrong += verdict.verdict == "incorrect"
    assert wrong >= 45  # two errors sometimes cancel each other


def test_a_guess_shows_no_working():
    text, finished = worked_addition(58, 47, ErrorRates(guess=1.0), random.Random(0))
    assert (text, finished) == ("<think></think>\\boxed{105}", True)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="unknown split"):
        list(column_addition("train", {2: 1}))
    with pytest.raises(ValueError, match="1-digit problems"):
        list(column_addition("eval", {1: 1000}))
