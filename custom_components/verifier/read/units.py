"""Read the units behind numbers, and convert one into another.

A unit is a product of powers of base units with an exact factor (km/h, m s^{-2}, square inches),
and the words beside it that are no units (apples, increase, north).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """Hold a unit; the empty one stands for a number without a unit.

    Attributes:
        powers: Base units with their exponents, sorted: (("m", 1), ("s", -1)).
        factor: Factor to the product of the base units.
        words: Words that are no units, in the singular and in lower case.
    """

    powers: Powers = ()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.powers or self.words)


NO_UNIT = Unit()
DEGREES = Unit((("degree", 1),))

# (base units, factor, spellings in the singular). Spellings of one or two letters keep their case.
_TABLE: list[tuple[dict[str, int], str, str]] = [
    ({"m": 1}, "1", "meter metre"),
    ({"m": 1}, "0.0254", "in inch"),
    ({"m": 1}, "0.3048", "ft foot feet"),
    ({"m": 1}, "0.9144", "yd yard"),
    ({"m": 1}, "1609.344", "mi mile"),
    ({"m": 1}, "0.000001", "micron"),
    ({"m": 1}, "0.0000000001", "angstrom"),
    ({"m": 2}, "4046.8564224", "acre"),
    ({"m": 2}, "10000", "ha hectare"),
    ({"m": 3}, "0.001", "l L liter litre"),
    ({"m": 3}, "0.000001", "cc"),
    ({"m": 3}, "0.003785411784", "gal gallon"),
    ({"m": 3}, "0.000946352946", "qt quart"),
    ({"m": 3}, "0.000473176473", "pt pint"),
    ({"m": 3}, "0.0002365882365", "cup"),
    ({"s": 1}, "1", "sec second"),
    ({"s": 1}, "60", "min minute"),
    ({"s": 1}, "3600", "h hr hour"),
    ({"s": 1}, "86400", "day"),
    ({"s": 1}, "604800", "wk week"),
    ({"s": 1}, "1209600", "fortnight"),
    ({"month": 1}, "1", "month"),
    ({"month": 1}, "12", "yr year"),
    ({"month": 1}, "120", "decade"),
    ({"month": 1}, "1200", "century"),
    ({"g": 1}, "1", "gram gramme"),
    ({"g": 1}, "1000", "kilo"),
    ({"g": 1}, "453.59237", "lb pound"),
    ({"g": 1}, "28.349523125", "oz ounce"),
    ({"g": 1}, "1000000", "tonne"),
    ({"g": 1}, "907184.74", "ton"),
    ({"m": 1, "s": -1}, "0.44704", "mph"),
    ({"m": 1, "s": -1}, "0.3048", "fps"),
    ({"m": 1, "s": -1}, "1852/3600", "knot"),
    ({"m": 1, "s": -1}, "1000/3600", "kph kmh kmph"),
    ({"dollar": 1}, "1", "¤ dollar usd buck"),
    ({"dollar": 1}, "0.01", "cent penny pennie ¢"),
    ({"dollar": 1}, "0.05", "nickel"),
    ({"dollar": 1}, "0.1", "dime"),
    ({"euro": 1}, "1", "€ euro eur"),
    ({"sterling": 1}, "1", "£ gbp sterling"),
    ({"yen": 1}, "1", "¥ yen jpy"),
    ({"rupee": 1}, "1", "₹ rupee inr"),
    ({"rupee": 1}, "0.01", "paise paisa"),
    ({"yuan": 1}, "1", "yuan rmb cny"),
    ({"degree": 1}, "1", "° degree deg"),
    ({"radian": 1}, "1", "rad radian"),
    ({"turn": 1}, "1", "revolution"),
    ({"turn": 1, "s": -1}, "1/60", "rpm"),
    ({"celsius": 1}, "1", "celsius centigrade"),
    ({"fahrenheit": 1}, "1", "fahrenheit"),
    ({"kelvin": 1}, "1", "kelvin"),
    ({"g": 1, "m": 2, "s": -2}, "4184", "cal calorie"),
    ({"g": 1, "m": 2, "s": -2}, "4184000", "kcal kilocalorie"),
    ({"g": 1, "m": 2, "s": -2}, "3600000", "Wh"),
    ({"g": 1, "m": -1, "s": -2}, "101325000", "atm atmosphere"),
    ({"unit": 1}, "1", "unit"),
    ({"bit": 1}, "1", "bit"),
    ({"bit": 1}, "8", "byte"),
]
# SI units that take prefixes: (base units, factor, sign, name).
_PREFIXED: list[tuple[dict[str, int], str, str, str]] = [
    ({"m": 1}, "1", "m", "meter"),
    ({"m": 1}, "1", "", "metre"),
    ({"g": 1}, "1", "g", "gram"),
    ({"s": 1}, "1", "s", "second"),
    ({"m": 3}, "0.001", "L", "liter"),
    ({"m": 3}, "0.001", "l", "litre"),
    ({"g": 1, "m": 1, "s": -2}, "1000", "N", "newton"),
    ({"g": 1, "m": 2, "s": -2}, "1000", "J", "joule"),
    ({"g": 1, "m": 2, "s": -3}, "1000", "W", "watt"),
    ({"g": 1, "m": -1, "s": -2}, "1000", "Pa", "pascal"),
    ({"g": 1, "m": 2, "s": -2}, "3600000", "Wh", ""),
    ({"ampere": 1}, "1", "A", "ampere"),
    ({"ampere": 1}, "1", "", "amp"),
    ({"ampere": 1, "s": 1}, "1", "C", "coulomb"),
    ({"ampere": -1, "g": 1, "m": 2, "s": -3}, "1000", "V", "volt"),
    ({"ampere": -2, "g": 1, "m": 2, "s": -3}, "1000", "Ω", "ohm"),
    ({"s": -1}, "1", "Hz", "hertz"),
    ({"mole": 1}, "1", "mol", "mole"),
    ({"eV": 1}, "1", "eV", ""),
    ({"kelvin": 1}, "1", "K", ""),
    ({"tesla": 1}, "1", "T", "tesla"),
    ({"farad": 1}, "1", "F", "farad"),
]
_PREFIXES = {
    "": ("", "1"), "k": ("kilo", "1000"), "c": ("centi", "0.01"), "m": ("milli", "0.001"),
    "d": ("deci", "0.1"), "μ": ("micro", "0.000001"), "n": ("nano", "0.000000001"),
    "M": ("mega", "1000000"), "G": ("giga", "1000000000"),
}  # fmt: skip


def _table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for powers, factor, sign, name in _PREFIXED:
        for prefix, (prefix_name, prefix_factor) in _PREFIXES.items():
            unit = Unit(tuple(sorted(powers.items())), Fraction(factor) * Fraction(prefix_factor))
            if sign:
                table.setdefault(prefix + sign, unit)
            if name:
                table.setdefault(prefix_name + name, unit)
    for powers, factor, names in _TABLE:
        unit = Unit(tuple(sorted(powers.items())), Fraction(factor))
        table |= dict.fromkeys(names.split(), unit)
    return table


_UNITS = _table()
_CELSIUS, _FAHRENHEIT = _UNITS["celsius"], _UNITS["fahrenheit"]
_POWERS = {"sq": 2, "square": 2, "cubic": 3, "cu": 3}
_RAISED = {"squared": 2, "cubed": 3}
# These words say nothing about what is counted.
_NEUTRAL = frozenset(
    "of the a an in is are was were that this these those there his her their its it to at on by "
    "with from for and total all altogether together each way value solution integer number item "
    "arrangement possibility choice outcome element object thing combination permutation case "
    "only exactly approximately about different distinct possible".split()
)
_TOKEN = re.compile(
    r"[A-Za-zμ]+(?:'[a-z]+|Ω)?|[¢°¤€£¥₹Ω%/()]|\^\{?\s*(-?\d)\s*\}?|\\(?:Omega|mu|frac|cdot|times|degree)|[{}]|\S"
)


_OHM = re.compile(r"(?<![A-Za-z])([kMm]?)\s*\\Omega")
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{((?:[^{}]|\{[^{}]*\})*)\}")


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit:
    """Return the unit, and the words beside it, that a cleaned text behind a number states."""
    reader = _Reader()
    text = _OHM.sub(r"\1Ω", text).replace("\\mu ", "μ")
    text = _FRACTION.sub(r"\1/(\2)", text)
    for match in _TOKEN.finditer(text):
        reader.take(match[0], match[1])
    return reader.unit()


class _Reader:
    """Collect the tokens of a unit from left to right."""

    def __init__(self) -> None:
        self.factor = Fraction(1)
        self.powers: dict[str, int] = {}
        self.words: list[str] = []
        self.direction = 1  # -1 in a denominator
        self.power = 1  # of the next unit: "square"
        self.last: tuple[Unit, int] | None = None
        self.inch = False  # whether the last word was "in", an inch only where no word follows

    def take(self, token: str, exponent: str | None) -> None:
        if self.inch and token[0].isalpha() and token not in ("per", "squared", "cubed"):
            self._undo_last()
        self.inch = False
        lower = token.lower()
        if exponent:
            self._raise_last(int(exponent))
        elif lower in _RAISED and self.last:
            self._raise_last(_RAISED[lower])
        elif token == "/" or lower == "per" or lower in ("a", "an") and self.powers:
            self.direction = -1
        elif lower in _POWERS:
            self.power = _POWERS[lower]
        elif token == "C" and self.powers.get("degree"):
            self._temperature(_CELSIUS)
        elif token == "F" and self.powers.get("degree"):
            self._temperature(_FAHRENHEIT)
        elif (unit := lookup(token)) is not None:
            if unit in (_CELSIUS, _FAHRENHEIT):
                self.powers.pop("degree", None)
            self._multiply(unit, self.power * self.direction)
            self.inch = token == "in"
            self.power = 1
        elif token[0].isalnum():
            self.words.append(singular(lower))

    def _multiply(self, unit: Unit, power: int) -> None:
        self.last = (unit, power)
        self.factor *= unit.factor**power
        for base, exponent in unit.powers:
            self.powers[base] = self.powers.get(base, 0) + exponent * power

    def _undo_last(self) -> None:
        if self.last:
            unit, power = self.last
            self._multiply(unit, -power)
            self.last = None

    def _raise_last(self, exponent: int) -> None:
        if exponent == 0:
            self.words.append("^0")
        elif self.last:
            unit, power = self.last
            self._multiply(unit, power * (exponent - 1))
            self.last = None

    def _temperature(self, unit: Unit) -> None:
        self.powers.pop("degree")
        self._multiply(unit, 1)

    def unit(self) -> Unit:
        powers = tuple(sorted((base, power) for base, power in self.powers.items() if power))
        return Unit(powers, self.factor, frozenset(self.words) - _NEUTRAL)


def lookup(word: str) -> Unit | None:
    """Return the unit that one word or sign names; None for another word."""
    unit = _UNITS.get(word)
    if unit is None and len(word) > 1:
        lower = word.lower()
        unit = _UNITS.get(lower) or _UNITS.get(singular(lower))
    return unit


def singular(word: str) -> str:
    """Return an English noun in lower case without the ending of its plural."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


_YEAR = Fraction(365 * 86400, 12)  # seconds in a twelfth of a year


def conversion(gold: Unit, answer: Unit) -> Fraction | None:
    """Return the factor from the answer's unit to the gold's; None when the two contradict.

    The factor of centimetres for metres is 1/100; hours for metres, oranges for apples and a
    decrease for an increase contradict. A unit or a word that only one side has is forgiven, and
    "units" are units of any kind.
    """
    if not gold or not answer:
        return Fraction(1)
    if (
        gold.words
        and answer.words
        and not (gold.words <= answer.words or answer.words <= gold.words)
    ):
        return None
    if gold.powers == answer.powers:
        return answer.factor / gold.factor
    if not gold.powers or not answer.powers:  # one side has words alone: "cm" and "apples"
        return None if not (gold.words and answer.words) else Fraction(1)
    bases = {base for base, _ in gold.powers}, {base for base, _ in answer.powers}
    if {"unit"} in bases and [p for _, p in gold.powers] == [p for _, p in answer.powers]:
        return Fraction(1)
    if {"degree"} in bases and ({"celsius"} in bases or {"fahrenheit"} in bases):
        return Fraction(1)
    return _calendar(gold, answer)


def _calendar(gold: Unit, answer: Unit) -> Fraction | None:
    """Convert whole years and days; a month has no fixed number of days."""
    if gold.powers == (("month", 1),) and answer.powers == (("s", 1),) and gold.factor % 12 == 0:
        return answer.factor / (gold.factor * _YEAR)
    if gold.powers == (("s", 1),) and answer.powers == (("month", 1),) and answer.factor % 12 == 0:
        return answer.factor * _YEAR / gold.factor
    return None


def temperature(value: Fraction, unit: Unit) -> Fraction | None:
    """Return a temperature in kelvin; None for another unit."""
    if unit.powers == _CELSIUS.powers:
        return value + Fraction("273.15")
    if unit.powers == _FAHRENHEIT.powers:
        return (value - 32) * Fraction(5, 9) + Fraction("273.15")
    return value * unit.factor if unit.powers == (("kelvin", 1),) else None
