"""Read numbers in English words: `twenty-one`, `three and a half`, `minus two thirds`."""

from __future__ import annotations

import re
from fractions import Fraction

from custom_components.verifier.read.numbers import Number

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * value
    for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
SCALES = {
    "dozen": (12, None),
    "hundred": (100, 2),
    "thousand": (1000, 3),
    "lakh": (10**5, 5),
    "lac": (10**5, 5),
    "million": (10**6, 6),
    "crore": (10**7, 7),
    "billion": (10**9, 9),
    "trillion": (10**12, 12),
}
"""Map scale words to their value and its number of zeros (None where it is not a power of ten)."""
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
          "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
          "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
          "millionth": 10**6}  # fmt: skip
_TOKEN = re.compile(r"([A-Za-z]+)([\s-]*)")
_MINUS = ("minus", "negative")


def small(text: str) -> int | None:
    """Return an integer in digits or in one word up to ninety; None for another text."""
    return int(text) if text.isdecimal() else _SMALL.get(text)


def read_words(text: str) -> tuple[Number, str] | None:
    """Return the number in words that a text begins with, and what follows it; None without one."""
    first = _TOKEN.match(text)
    if first is None:
        return None
    lower = first[1].lower()
    if lower not in _SMALL and lower not in _MINUS and lower not in ("a", "an", "half"):
        return None
    words, ends = [], []
    for match in _TOKEN.finditer(text):
        if words and match.start() != ends[-1]:
            break
        words.append(match[1].lower())
        ends.append(match.end())
        if len(words) == 16:
            break
    negative = words[0] in _MINUS
    value, used = _value(words, int(negative))
    if used == int(negative) or text[: ends[used - 1]].endswith("-") and used < len(words):
        return None  # one-to-one
    if words[0] in ("a", "an") and used == 1:
        return None
    digits = len(str(value)) if value.denominator == 1 else 0
    number = Number(-value if negative else value, None, digits)
    return number, text[ends[used - 1] :].strip()


def _value(words: list[str], start: int) -> tuple[Fraction, int]:
    """Return the value of the longest number from `start`, and the index behind it."""
    whole, position = _whole(words, start)
    if position == start:
        one = _one(words, start)
        part = _part(words, start + one)
        if part and (one or words[start] == "half"):  # a half, half
            return Fraction(1, part), start + one + 1
        if one and words[start + 1 : start + 2] and words[start + 1] in SCALES:
            whole, position = _whole(["one", *words[start + 1 :]], 0)
            return Fraction(whole), start + position  # a hundred and five
        return Fraction(0), start
    part = _part(words, position)
    if part:  # two thirds, one half
        return Fraction(whole, part), position + 1
    if words[position : position + 1] == ["and"]:  # three and a half
        top, behind = _whole(words, position + 1)
        if behind == position + 1 and (one := _one(words, behind)):
            top, behind = 1, behind + one
        part = _part(words, behind)
        if part and 0 < top < part:
            return whole + Fraction(top, part), behind + 1
    if words[position : position + 1] == ["point"]:
        digits = []
        for word in words[position + 1 :]:
            if _SMALL.get(word, 10) > 9:
                break
            digits.append(str(_SMALL[word]))
        if digits:
            return Fraction(f"{whole}.{''.join(digits)}"), position + 1 + len(digits)
    return Fraction(whole), position


def _one(words: list[str], position: int) -> int:
    return int(words[position : position + 1] in (["a"], ["an"]))


def _part(words: list[str], position: int) -> int | None:
    word = words[position] if position < len(words) else ""
    return _PARTS.get(word) or _PARTS.get(word.removesuffix("s"))


def _whole(words: list[str], start: int) -> tuple[int, int]:
    """Return an integer in words from `start`, and the index behind it."""
    total = group = 0
    position = start
    previous = None  # the last small number: "twenty" takes a digit, "two" takes none
    while position < len(words):
        word = words[position].removesuffix("s") if words[position] != "s" else "s"
        word = words[position] if words[position] in _SMALL else word
        if word in _SMALL:
            value = _SMALL[word]
            if previous is not None and not (previous >= 20 and 0 < value < 10):
                break
            group += value
            previous = value
        elif word in SCALES and position > start:
            scale = SCALES[word][0]
            if scale <= 100:
                group *= scale
            else:
                total += group * scale
                group = 0
            previous = None
        elif word == "and" and position > start and words[position - 1].removesuffix("s") in SCALES:
            following = words[position + 1 : position + 2]
            if not following or following[0] not in _SMALL or _part(words, position + 2):
                break
        else:
            break
        position += 1
    return total + group, position
