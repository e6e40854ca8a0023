"""Generate the tiny track's problems: column addition, with few facts and much bookkeeping.

A hash of a problem's two numbers, in either order, decides its split. The splits are therefore
disjoint, whatever is drawn from them.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

SPLITS = {"distill": range(0, 60), "rl": range(60, 85), "eval": range(85, 100)}
"""Shares of all number pairs, in hundredths."""
PROBLEM = re.compile(r"(\d+)\+(\d+)=\?")


def split_of(a: int, b: int) -> str:
    """Return the split that the unordered pair {a, b} belongs to."""
    key = f"{min(a, b)}+{max(a, b)}".encode()
    bucket = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def column_addition(
    split: str, counts: dict[int | str, int], seed: int = 0
) -> Iterator[dict[str, str | int]]:
    """Yield distinct addition problems of one split, shuffled over difficulty.

    Args:
        split: distill, rl or eval.
        counts: {digits of both numbers: number of problems}.
        seed: seed of the choice and the order.

    Yields:
        Rows with id, source, problem, answer, domain and difficulty ("3 digits").

    Raises:
        ValueError: if the split is unknown, or has fewer problems than `counts` asks for.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: {', '.join(SPLITS)}")
    rng = random.Random(f"{seed} {split}")
    rows = []
    for digits, count in counts.items():
        digits = int(digits)
        low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
        if digits <= 2:  # few enough to list
            pairs = [(a, b) for a in range(low, high + 1) for b in range(a, high + 1)]
            pairs = [p if rng.random() < 0.5 else p[::-1] for p in pairs if split_of(*p) == split]
            rng.shuffle(pairs)
            if len(pairs) < count:
                raise ValueError(
                    f"only {len(pairs)} {digits}-digit problems in {split!r}, not {count}"
                )
            pairs = pairs[:count]
        else:
            seen: set[tuple[int, int]] = set()
            while len(seen) < count:
                a, b = rng.randint(low, high), rng.randint(low, high)
                if split_of(a, b) == split and (b, a) not in seen:
                    seen.add((a, b))
            pairs = sorted(seen)
        rows += [
            {
                "id": f"add-{a}-{b}",
                "source": "column_addition",
                "problem": f"{a}+{b}=?",
                "answer": str(a + b),
                "domain": "arithmetic",
                "difficulty": f"{digits} digits" if digits > 1 else "1 digit",
            }
            for a, b in pairs
        ]
    rng.shuffle(rows)
    yield from rows


@dataclass(frozen=True)
class ErrorRates:
    """Hold the probabilities of the teacher's mistakes.

    Attributes:
        carry: probability that a carry is forgotten, for each column with one.
        slip: probability that the written sum is one off, for each column.
        skip: probability that one column is left out, for each answer.
        cut: probability that the response stops before its end, for each answer.
        guess: probability that the answer is given at once, without working.
        guess_slip: probability of a wrong digit, for each digit of such an answer.
    """

    carry: float = 0.0
    slip: float = 0.0
    skip: float = 0.0
    cut: float = 0.0
    guess: float = 0.0
    guess_slip: float = 0.0


def worked_addition(a: int, b: int, rates: ErrorRates, rng: random.Random) -> tuple[str, bool]:
    """Return a worked solution as a model would write it, mistakes included.

    Each line adds one column from the right: digit + digit + carry = sum.

    Returns:
        (text of the response, whether it is finished and not cut off).
    """
    if rng.random() < rates.guess:
        answer = "".join(
            rng.choice("0123456789".replace(x, "")) if rng.random() < rates.guess_slip else x
            for x in str(a + b)
        )
        return _cut(f"<think></think>\\boxed{{{answer}}}", rates.cut, rng)
    width = max(len(str(a)), len(str(b)))
    columns = list(zip(str(a).zfill(width)[::-1], str(b).zfill(width)[::-1], strict=True))
    skipped = rng.randrange(width) if width > 1 and rng.random() < rates.skip else None
    lines: list[str] = []
    digits = ""
    carry = 0
    for i, (x, y) in enumerate(columns):
        if i == skipped:
            continue
        total = int(x) + int(y) + carry
        if rng.random() < rates.slip:
            total = max(0, total + rng.choice((-1, 1)))
        lines.append(f"{x}+{y}+{carry}={total}")
        digits = str(total % 10) + digits
        carry = total // 10
        if carry and rng.random() < rates.carry:
            carry = 0
    answer = (str(carry) if carry else "") + digits
    text = "<think>" + "\n".join(lines) + "</think>\\boxed{" + (answer.lstrip("0") or "0") + "}"
    return _cut(text, rates.cut, rng)


def _cut(text: str, rate: float, rng: random.Random) -> tuple[str, bool]:
    if rng.random() < rate:
        return text[: rng.randrange(len("<think>"), len(text))], False
    return text, True
