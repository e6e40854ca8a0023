"""Select the splits from verified rollouts, by pure functions over light records."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

TURN = pa.struct({"role": pa.string(), "content": pa.string()})
MESSAGES_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "messages": pa.list_(TURN),
        "answer": pa.string(),
        "domain": pa.string(),
        "difficulty": pa.string(),
        "pass_rate": pa.float64(),
    }
)
PAIRS_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "prompt": pa.list_(TURN),
        "chosen": pa.string(),
        "rejected": pa.string(),
        "rejected_finished": pa.bool_(),
        "difficulty": pa.string(),
        "pass_rate": pa.float64(),
    }
)
PROMPTS_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "problem": pa.string(),
        "answer": pa.string(),
        "domain": pa.string(),
        "difficulty": pa.string(),
        "pass_rate": pa.float64(),
        "samples": pa.int64(),
        "mean_length": pa.float64(),
        "length_cv": pa.float64(),
        "length_range": pa.float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Record:
    """Hold the properties of one verified rollout that selection needs.

    Attributes:
        row: index of the rollout among all verified rows.
        problem: hash of the problem, the same for all its rollouts.
        source, difficulty, domain: labels.
        length: tokens (characters if tokens were not counted).
        verdict: correct, incorrect or undecided.
        finished: whether the response is not cut off.
        repetitive: whether the response repeats itself, see `is_repetitive`.
        response_key: hash of the response's text.
        too_long: whether the response is too long for any split.
    """

    row: int
    problem: int
    source: str
    difficulty: str
    domain: str
    length: int
    verdict: str
    finished: bool
    repetitive: bool
    response_key: int
    too_long: bool = False

    @property
    def usable(self) -> bool:
        """Tell whether the rollout is fit for imitation."""
        fit = self.finished and not self.repetitive and not self.too_long
        return fit and self.verdict == "correct"


def is_repetitive(text: str, n: int = 12, share: float = 0.5) -> bool:
    """Tell whether more than `share` of the text's `n`-word sequences occur more than once.

    Texts of fewer than 4 `n` words are never repetitive.
    """
    words = text.split()
    if len(words) < 4 * n:
        return False
    known: dict[str, int] = {}
    ids = np.fromiter((known.setdefault(w, len(known)) for w in words), np.uint64, len(words))
    # The hash of a sequence is a polynomial in the words' numbers, modulo 2^64.
    powers = np.cumprod(np.full(n, 0x9E3779B97F4A7C15, np.uint64))
    grams = np.lib.stride_tricks.sliding_window_view(ids + np.uint64(1), n) @ powers
    counts = np.unique(grams, return_counts=True)[1]
    return counts[counts > 1].sum() / len(grams) > share


Problem = TypeVar("Problem", bound=Hashable)
Groups = Mapping[Problem, list[Record]]
"""{problem: its rollouts}."""


def pass_rate(group: list[Record]) -> float:
    """Return the share of a problem's rollouts that are correct; undecided ones count as not."""
    return sum(r.verdict == "correct" for r in group) / len(group)


def distinct_correct(group: list[Record]) -> list[Record]:
    """Return a problem's usable rollouts without exact repeats."""
    return list({r.response_key: r for r in reversed(group) if r.usable}.values())[::-1]


def as_they_come(group: list[Record]) -> list[Record]:
    """Return a problem's finished rollouts without exact repeats, whatever their verdict."""
    return list({r.response_key: r for r in group if r.finished and not r.too_long}.values())


def select_sft(
    groups: Groups[Problem],
    max_problems: int | None,
    per_problem: int,
    seed: int,
    candidates: Callable[[list[Record]], list[Record]] = distinct_correct,
) -> dict[Problem, list[Record]]:
    """Select a compact subset, balanced over domain and difficulty, hard problems first.

    Problems with a usable rollout are drawn in turn from each (domain, difficulty) group, the one
    with the lowest pass rate first (ties in random order). Of each problem the shortest usable
    rollouts are taken.

    Args:
        groups: rollouts by problem.
        max_problems: size of the subset; None takes all.
        per_problem: most rollouts of each problem.
        seed: seed of the order of ties.
        candidates: function that returns the rollouts of a problem to choose from.

    Returns:
        {problem: chosen rollouts}.
    """
    rng = random.Random(f"{seed} sft")
    decks: dict[tuple[str, str], list[tuple[float, float, Problem]]] = defaultdict(list)
    for problem, group in groups.items():
        if candidates(group):
            label = (group[0].domain, group[0].difficulty)
            decks[label].append((pass_rate(group), rng.random(), problem))
    for deck in decks.values():
        deck.sort(reverse=True)  # drawn from the end
    chosen: dict[Problem, list[Record]] = {}
    while decks and (max_problems is None or len(chosen) < max_problems):
        for label in sorted(decks):
            if max_problems is not None and len(chosen) >= max_problems:
                break
            problem = decks[label].pop()[2]
            usable = sorted(candidates(groups[problem]), key=lambda r: (r.length, r.row))
            chosen[problem] = usable[:per_problem]
        decks = {label: deck for label, deck in decks.items() if deck}
    return chosen


def select_midtrain(
    groups: Groups[Problem], cap_per_problem: int, without: set[Problem]
) -> list[Record]:
    """Select every usable rollout, up to a cap for each problem.

    Args:
        groups: rollouts by problem.
        cap_per_problem: most rollouts of one problem.
        without: problems to leave out.
    """
    return [
        record
        for problem, group in groups.items()
        if problem not in without
        for record in distinct_correct(group)[:cap_per_problem]
    ]


def select_pairs(
    groups: Groups[Problem],
    per_problem: int,
    max_length_ratio: float,
    seed: int,
    max_pairs: int | None = None,
) -> list[tuple[Record, Record]]:
    """Select preference pairs: a correct and an incorrect rollout of the same problem.

    A problem's pairs use each of its rollouts as seldom as possible. If there are too many pairs,
    no problem gets a second pair before every other has its first.

    Args:
        groups: rollouts by problem.
        per_problem: most pairs of one problem.
        max_length_ratio: most times that the longer side may exceed the shorter, so that the length
            does not decide what is preferred.
        seed: seed of the choice of pairs.
        max_pairs: most pairs in all; None for no limit.

    Returns:
        (chosen, rejected) records, in the order of the problems.
    """
    pairs: list[tuple[Record, Record]] = []
    rounds: list[int] = []  # for each pair, how many of its problem come before
    for group in groups.values():
        right = distinct_correct(group)
        wrong = [r for r in group if r.verdict == "incorrect" and not r.too_long]
        wrong = list({r.response_key: r for r in wrong}.values())
        candidates = [
            (c, r)
            for c, r in product(right, wrong)
            if max(c.length, r.length) <= max_length_ratio * max(1, min(c.length, r.length))
        ]
        if candidates:
            random.Random(f"{seed} {group[0].problem}").shuffle(candidates)
            problem_pairs = _spread(candidates, per_problem)
            pairs += problem_pairs
            rounds += range(len(problem_pairs))
    if max_pairs is not None and len(pairs) > max_pairs:
        rng = random.Random(f"{seed} pairs")
        order = sorted(range(len(pairs)), key=lambda i: (rounds[i], rng.random()))
        pairs = [pairs[i] for i in sorted(order[:max_pairs])]
    return pairs


def _spread(candidates: list[tuple[Record, Record]], limit: int) -> list[tuple[Record, Record]]:
    """Return up to `limit` of the pairs, each time the first one whose sides are used least."""
    uses: dict[int, int] = defaultdict(int)
    remaining = list(candidates)
    chosen: list[tuple[Record, Record]] = []
    while remaining and len(chosen) < limit:
        pair = min(remaining, key=lambda p: uses[p[0].row] + uses[p[1].row])
        remaining.remove(pair)
        chosen.append(pair)
        for record in pair:
            uses[record.row] += 1
    return chosen


def length_statistics(lengths: list[int]) -> dict[str, float]:
    """Measure the spread of the lengths of a problem's responses.

    Returns:
        mean_length; length_cv, the standard deviation over the mean; length_range, the longest
        minus the shortest over the mean.
    """
    mean = sum(lengths) / len(lengths)
    std = (sum((n - mean) ** 2 for n in lengths) / len(lengths)) ** 0.5
    return {
        "mean_length": mean,
        "length_cv": std / mean if mean else 0.0,
        "length_range": (max(lengths) - min(lengths)) / mean if mean else 0.0,
    }


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return a rollout row as turns."""
    return [
        {"role": "user", "content": row["problem"]},
        {"role": "assistant", "content": row["response"]},
    ]
