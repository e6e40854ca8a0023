"""Split a number from its unit, and convert one unit into another."""

from __future__ import annotations

import re
from fractions import Fraction

# dimension: (factor to the base unit, spellings in the singular)
_TABLE: dict[str, list[tuple[Fraction, str]]] = {
    "length": [
        (Fraction(1, 1000), "mm millimeter millimetre"),
        (Fraction(1, 100), "cm centimeter centimetre"),
        (Fraction(1), "m meter metre"),
        (Fraction(1000), "km kilometer kilometre"),
        (Fraction(254, 10000), "in inch inche"),
        (Fraction(3048, 10000), "ft foot feet"),
        (Fraction(9144, 10000), "yd yard"),
        (Fraction(1609344, 1000), "mi mile"),
    ],
    "time": [
        (Fraction(1), "s sec second"),
        (Fraction(60), "min minute"),
        (Fraction(3600), "h hr hour"),
        (Fraction(86400), "day"),
        (Fraction(604800), "week"),
        (Fraction(31536000), "yr year"),
    ],
    "mass": [
        (Fraction(1, 1000), "mg milligram"),
        (Fraction(1), "g gram"),
        (Fraction(1000), "kg kilogram"),
        (Fraction(45359237, 100000), "lb pound"),
        (Fraction(28349523125, 10**9), "oz ounce"),
    ],
    "volume": [
        (Fraction(1, 1000), "ml milliliter millilitre"),
        (Fraction(1), "l liter litre"),
        (Fraction(3785411784, 10**9), "gal gallon"),
        (Fraction(473176473, 10**9), "pint"),
        (Fraction(946352946, 10**9), "quart"),
    ],
    "money": [(Fraction(1, 100), "cent penny pennie ¢"), (Fraction(1), "¤ dollar usd buck")],
    "degrees": [(Fraction(1), "° degree deg")],
    "radians": [(Fraction(1), "rad radian")],
}
_UNITS = {
    name: (dimension, factor)
    for dimension, rows in _TABLE.items()
    for factor, names in rows
    for name in names.split()
}
_POWERS = {"sq": 2, "square": 2, "squared": 2, "cubic": 3, "cubed": 3, "cu": 3}
_SHORT = {"mph", "kph", "kmh", "am", "pm", "sq", "cu", "cc"}
_EXPONENT = re.compile(r"\^\{?([23])\}?")
_WORD = re.compile(r"[A-Za-z¢°¤]+")
_NUMBER_THEN = re.compile(
    r"(?P<body>[-+]?\s*¤?\s*[-+]?(?:[\d.,]*\d\.?|\.\d+|[\d, ]*\\frac\{[^{}]*\}\{[^{}]*\}"
    r"|\d+ \d+/\d+|\d+/\d+|\(-?\d+/\d+\))(?:\s*(?:\\times|\\cdot)\s*10\^\{[-+]?\d+\})?)(?P<gap>\s*)(?P<rest>.*)",
    re.S,
)
_DESCRIPTION = re.compile(
    r"(?:[A-Za-z¢°¤%/().'\-]|\^\{?\d\}?|\s|\\(?:cdot|frac\{[a-z ]+\}\{[a-z ]+\}))+"
)


def split_unit(text: str) -> tuple[str, str, bool]:
    """Return (body, unit, percent sign) of a cleaned text; the body is all of it without a unit.

    Words behind a number are a unit or a description ("12 apples"). A single letter is a unit only
    after a space (`5 m`), because `5m` is a product.
    """
    body, unit, percent = text.strip(), "", False
    if body.endswith("%"):
        body, percent = body[:-1].strip(), True
    if body.endswith("°"):
        body, unit = body[:-1].strip(), "°"
    match = _NUMBER_THEN.fullmatch(body)
    if match:
        rest = match["rest"].strip()
        if rest.startswith("%"):
            rest, percent = rest[1:].strip(), True
        elif rest.startswith("°"):
            rest, unit = rest[1:].strip(), "°"
        if not rest:
            body = match["body"]
        elif _DESCRIPTION.fullmatch(rest) and _describes(rest, bool(match["gap"]) or percent):
            body, unit = match["body"], f"{unit} {rest}".strip()
    if "¤" in body:
        body, unit = body.replace("¤", "").strip(), unit or "¤"
    return body.strip(), unit, percent


def _describes(rest: str, gap: bool) -> bool:
    """Return whether the words behind a number are a unit or a description, not a factor."""
    first = _WORD.match(rest)
    if first is None:
        return re.match(r"\([A-Za-z .]+\)$", rest) is not None
    word = first[0]
    if word in ("e", "i", "pi") and len(rest) <= 2:
        return False
    if len(word) == 1 and word.isalpha():
        return gap and (len(rest) > 1 or word in "mgshLlNJWVAKCF")
    return len(word) >= (3 if gap else 4) or is_unit(word)


def is_unit(word: str) -> bool:
    """Return whether a word is the name or the sign of a unit."""
    return _lookup(word) is not None or word.lower() in _SHORT


def _lookup(word: str) -> tuple[str, Fraction] | None:
    """Return (dimension, factor) of a unit's name; None for another word."""
    lower = word.lower()
    for name in (word, lower, lower.removesuffix("s")):
        if name in _UNITS:
            return _UNITS[name]
    return None


def conversion(gold: str, answer: str) -> Fraction | None:
    """Return the factor from the answer's unit to the gold's; None when the two contradict.

    The factor of centimetres for metres is 1/100; hours for metres contradict. The factor is 1 for
    a unit that only one side states, that is not in the table (apples) or that is compound (km/h).
    A power that only one side states holds for both.
    """
    if gold.startswith("mod ") and answer.startswith("mod ") and gold != answer:
        return None
    known_gold, known_answer = _read(gold), _read(answer)
    if known_gold is None or known_answer is None:
        return Fraction(1)
    if known_gold[0] != known_answer[0]:
        return None
    if 1 not in (known_gold[2], known_answer[2]) and known_gold[2] != known_answer[2]:
        return None
    return (known_answer[1] / known_gold[1]) ** max(known_gold[2], known_answer[2])


def _read(unit: str) -> tuple[str, Fraction, int] | None:
    """Return (dimension, factor, power) of a unit; None without one that is known and simple."""
    if not unit or "/" in unit or "\\frac" in unit or re.search(r"\b(?:per|an?)\b", unit):
        return None
    power = 1
    match = _EXPONENT.search(unit)
    if match:
        power = int(match[1])
        unit = unit.replace(match[0], " ")
    known = None
    for word in _WORD.findall(unit):
        if word.lower() in _POWERS:
            power = _POWERS[word.lower()]
            continue
        entry = _lookup(word)
        if entry is None:
            continue
        if known is not None:
            return None  # "5 feet 3 inches" has two units
        known = entry
    return None if known is None else (*known, power)
