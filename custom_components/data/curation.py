"""From verified rollouts to the four splits. Pure functions over light records."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

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
    """What selection needs to know of one verified rollout.

    Attributes:
        row: its index among all verified rows.
        problem: normalised text of the problem; rollouts with the same one belong together.
        source, difficulty, domain: labels.
        length: tokens (characters where tokens were not counted).
        verdict: correct, incorrect or undecided.
        finished: the response came to its end.
        repetitive: see `is_repetitive`.
        response_key: hash of the response's text.
    """

    row: int
    problem: str
    source: str
    difficulty: str
    domain: str
    length: int
    verdict: str
    finished: bool
    repetitive: bool
    response_key: int

    @property
    def usable(self) -> bool:
        """Fit to be imitated."""
        return self.verdict == "correct" and self.finished and not self.repetitive


def problem_key(text: str) -> str:
    """Problems that differ in case or spacing alone are one problem."""
    return re.sub(r"\s+", " ", text).strip().lower()


def is_repetitive(text: str, n: int = 12, share: float = 0.5) -> bool:
    """Whether more than `share` of the text's `n`-word sequences occur more than once.

    Texts of fewer than 4 `n` words are never repetitive.
    """
    words = text.split()
    if len(words) < 4 * n:
        return False
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    repeated = sum(count for count in grams.values() if count > 1)
    return repeated / (len(words) - n + 1) > share


def by_problem(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by problem, in order of appearance."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.problem].append(record)
    return dict(groups)


def pass_rate(group: list[Record]) -> float:
    """Share of a problem's rollouts that are correct; undecided ones stay in the denominator."""
    return sum(r.verdict == "correct" for r in group) / len(group)


def distinct_correct(group: list[Record]) -> list[Record]:
    """A problem's usable rollouts, exact repeats left out."""
    return list({r.response_key: r for r in reversed(group) if r.usable}.values())[::-1]


def as_they_come(group: list[Record]) -> list[Record]:
    """A problem's finished rollouts whatever their verdict, exact repeats left out."""
    return list({r.response_key: r for r in group if r.finished}.values())


def select_sft(
    groups: dict[str, list[Record]], max_problems: int | None, per_problem: int, seed: int,
    candidates: Callable[[list[Record]], list[Record]] = distinct_correct,
) -> dict[str, list[Record]]:  # fmt: skip
    """A compact subset, balanced over domain and difficulty, hard problems first.

    Problems with a usable rollout are dealt in turn from each (domain, difficulty) group, the
    one with the lowest pass rate first (ties in random order); of each problem the shortest
    usable rollouts are taken.

    Args:
        groups: rollouts by problem.
        max_problems: size of the subset; None takes all.
        per_problem: rollouts of each problem.
        seed: of the ties.
        candidates: a problem's rollouts to choose from.

    Returns:
        {problem: chosen rollouts}.
    """
    rng = random.Random(f"{seed} sft")
    decks: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for problem, group in groups.items():
        if candidates(group):
            label = (group[0].domain, group[0].difficulty)
            decks[label].append((pass_rate(group), rng.random(), problem))
    for deck in decks.values():
        deck.sort(reverse=True)  # dealt from the end
    chosen: dict[str, list[Record]] = {}
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
    groups: dict[str, list[Record]], cap_per_problem: int, without: set[str]
) -> list[Record]:
    """Every usable rollout, up to a cap per problem.

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
    groups: dict[str, list[Record]], per_problem: int, max_length_ratio: float, seed: int,
    max_pairs: int | None = None,
) -> list[tuple[Record, Record]]:  # fmt: skip
    """Preference pairs: a correct and an incorrect rollout of the same problem.

    Args:
        groups: rollouts by problem.
        per_problem: most pairs of one problem.
        max_length_ratio: pairs whose longer side exceeds this many times the shorter are left
            out, so that length is not what is preferred.
        seed: which pairs are taken.
        max_pairs: most pairs in all, drawn at random.

    Returns:
        (chosen, rejected) records.
    """
    pairs = []
    for problem, group in groups.items():
        right = distinct_correct(group)
        wrong = list({r.response_key: r for r in group if r.verdict == "incorrect"}.values())
        candidates = [
            (c, r) for c, r in product(right, wrong)
            if max(c.length, r.length) <= max_length_ratio * max(1, min(c.length, r.length))
        ]  # fmt: skip
        random.Random(f"{seed} {problem}").shuffle(candidates)
        pairs += candidates[:per_problem]
    if max_pairs is not None and len(pairs) > max_pairs:
        pairs = random.Random(f"{seed} pairs").sample(pairs, max_pairs)
    return pairs


def length_statistics(lengths: list[int]) -> dict[str, float]:
    """How far the lengths of a problem's responses lie apart.

    Returns:
        mean_length; length_cv, the standard deviation over the mean; length_range, longest less
        shortest over the mean.
    """
    mean = sum(lengths) / len(lengths)
    std = (sum((n - mean) ** 2 for n in lengths) / len(lengths)) ** 0.5
    return {
        "mean_length": mean,
        "length_cv": std / mean if mean else 0.0,
        "length_range": (max(lengths) - min(lengths)) / mean if mean else 0.0,
    }


def prompt_statistics(group: list[Record]) -> dict[str, float]:
    """pass_rate, samples, and `length_statistics` of one problem's rollouts."""
    rates = {"pass_rate": pass_rate(group), "samples": len(group)}
    return rates | length_statistics([r.length for r in group])


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """A rollout row as turns."""
    return [
        {"role": "user", "content": row["problem"]},
        {"role": "assistant", "content": row["response"]},
    ]
