"""Split a number from the scale word, the percent sign and the unit behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from custom_components.verifier.read import numbers
from custom_components.verifier.read.latex import TEXT_SPACE, closing
from custom_components.verifier.read.numbers import Number
from custom_components.verifier.read.numerals import SCALES, read_words
from custom_components.verifier.read.units import NO_UNIT, Unit, lookup, read_unit, singular
from custom_components.verifier.read.words import SHORT_WORDS


@dataclass(frozen=True)
class Quantity:
    """Hold a number with its unit; `finest` is as in nodes.Num."""

    number: Number
    unit: Unit = NO_UNIT
    percent: bool = False
    finest: Fraction = Fraction(1)


_CURRENCY = r"[¤€£¥₹]|(?:USD|EUR|GBP|INR|RMB|CNY|JPY)(?![a-zA-Z])"
_PLAIN = r"(?:\d(?:[\d,]|\s(?=\d{3}(?!\d)))*(?:\.\d*)?|\.\d+)"
_PREFIX = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<body>[-+]?\s*(?:"
    rf"(?:{_PLAIN}\s*\+?\s*)?\\frac\{{[\s\d.,]+\}}\{{[\s\d.,]+\}}|\d+\s+\d+\s*/\s*\d+"
    rf"|{_PLAIN}\s*/\s*{_PLAIN}|\(-?[\d.]+/[\d.]+\)|\(\d+\)\s*/\s*\(\d+\)"
    rf"|{_PLAIN}(?:\\(?:overline|bar)\s*\{{?\d+\}}?|\(\d+\)|(?:\\dot\s*\{{?\d\}}?\d*)+|\s*\\ldots)?"
    r")(?:\s*(?:\\times|\\cdot|x)\s*10\^\{[-+]?\d+\}|[eE][-+]?\d+(?![\d.a-zA-Z]))?)(?P<gap>\s*)",
    re.ASCII,
)
_DESCRIPTION = re.compile(
    r"(?:[A-Za-z¢°¤€£¥₹%/().'\-μ]|\^\{?\s*-?\d\s*\}?|\s"
    r"|\\(?:cdot|times|Omega|mu)(?![a-zA-Z])|\\frac\{[^{}\\\d]+\}\{[^{}\\\d]+(?:\^\{\d\})?\s*\})+"
)
_WORD = re.compile(r"[A-Za-z]+")
_TEX_UNIT = re.compile(r"[kMm]?\s*\\Omega(?![a-z])|\\frac\{|\\mu")
_NOT_A_UNIT = frozenset(
    "or and to through plus minus times over mod choose if when where until but not than".split()
)
# Two letters right behind a digit are a product, but these are units; `mn` and `ns` are not.
_ATTACHED = frozenset(
    "mm cm km kg mg ml mL cL dl dL kL ft mi yd oz lb in hr kJ kW kN Hz kHz MHz GHz Pa kPa mA kV mV GB"
    " MB KB".split()
)
_LETTERS = frozenset("mgshLlNJWVAKΩ")
_DECIMAL_PARTS = {"tenth": 10, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_MONEY_SCALES = {"k": (1000, 3), "K": (1000, 3), "M": (10**6, 6), "B": (10**9, 9)}


def read_quantity(text: str) -> Quantity | None:
    """Return the number with its unit that a cleaned text is; None for anything else."""
    number = numbers.read(text)
    if number is not None:
        return Quantity(number)
    return _simple(text) or _compound(text) or _primes(text)


def _simple(text: str) -> Quantity | None:
    match = _PREFIX.match(text)
    if match is None:
        spelled = read_words(text)
        if spelled is None:
            return None
        number, rest = spelled
        return _with_rest(number, rest, NO_UNIT, gap=TEXT_SPACE)
    body, rest = match["body"].strip(), text[match.end() :]
    number = numbers.read(body)
    if number is None and "(" in body:
        number = numbers.read(body.replace("(", "").replace(")", ""))
    if number is None:
        return None
    if match["sign"] == "-":
        number = numbers.negate(number)
    money = read_unit(match["currency"]) if match["currency"] else NO_UNIT
    gap = match["gap"]
    if money and rest[:1] in _MONEY_SCALES and not rest[1:2].isalpha():
        factor, zeros = _MONEY_SCALES[rest[0]]
        number, rest = numbers.scaled(number, Fraction(factor), zeros), rest[1:].strip()
    return _with_rest(number, rest, money, gap)


def _with_rest(number: Number, rest: str, money: Unit, gap: str) -> Quantity | None:
    """Read the scale words, the percent sign and the unit behind a number."""
    number, rest, gap = _scaled(number, rest, gap)
    percent = False
    if rest.startswith("%"):
        percent, gap, rest = True, " ", rest[1:].strip()
    if not rest:
        return Quantity(number, money, percent)
    if not _DESCRIPTION.fullmatch(rest) or not _describes(rest, gap):
        return None
    unit = read_unit(rest)
    if money and not unit.powers:
        unit = Unit(money.powers, money.factor, unit.words)
    elif money and unit.powers != money.powers:
        unit = read_unit(f"¤ {rest}") if money == read_unit("¤") else unit
    if unit.powers == (("degree", 1), ("percent", 1)):
        return None
    return Quantity(number, unit, percent)


def _scaled(number: Number, rest: str, gap: str) -> tuple[Number, str, str]:
    """Multiply a number by the scale words behind it: 3 million, 2 dozen, 5 hundredths."""
    for _ in range(3):
        if rest.startswith("a ") and singular(rest[2:].split()[0]) in SCALES:
            rest = rest[2:].lstrip()  # half a million
        match = _WORD.match(rest)
        if match is None or not gap and len(match[0]) < 4:
            break
        name = singular(match[0].lower())
        if name in SCALES:
            factor, zeros = SCALES[name]
            number = numbers.scaled(number, Fraction(factor), zeros)
        elif name in _DECIMAL_PARTS and number.places is None:
            number = Number(number.value / _DECIMAL_PARTS[name])
        else:
            break
        behind = rest[match.end() :]
        rest, gap = behind.lstrip(), behind[: len(behind) - len(behind.lstrip())]
    return number, rest, gap


def _describes(rest: str, gap: str) -> bool:
    """Return whether what stands behind a number is a unit or a description, not a factor.

    Args:
        rest: Text behind the number and the percent sign.
        gap: Spaces before it; with `TEXT_SPACE` they began a `\\\\text{...}`.
    """
    if rest[0] in "°¢¤€£¥₹" or _TEX_UNIT.match(rest):
        return True
    word = _WORD.match(rest)
    if word is None:
        return re.fullmatch(r"\([A-Za-z .]+\)", rest) is not None
    first = word[0]
    if (
        first.lower() in _NOT_A_UNIT
        or " than " in rest
        or first in ("e", "i", "pi")
        and len(rest) <= 2
    ):
        return False
    if len(first) == 1:
        if first in "aA" and re.match(r"a\s+[a-zA-Z]{2}", rest, re.I):
            return True
        return bool(gap) and first in _LETTERS and _only_units(rest)
    if not gap:
        return first in _ATTACHED or len(first) > 2 and lookup(first) is not None
    if len(first) == 2:
        known = lookup(first) is not None or first in ("sq", "cu")
        return TEXT_SPACE in gap or known or first.lower() in SHORT_WORDS
    if TEXT_SPACE in gap or lookup(first) is not None or first.lower() in SHORT_WORDS:
        return True
    return len(first) > 3 and re.search("[aeiouyAEIOUY]", first) is not None


def _only_units(rest: str) -> bool:
    """Return whether all letters behind a number are units: `m/s`, not `m x`."""
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", rest))
    return all(len(word) > 2 or word in ("a", "an", "sq") or lookup(word) for word in words)


_COMPOUND = re.compile(r"[A-Za-z.°'¤]\s*(?:,|and\b)?\s*(?:and\b\s*)?[¤€£]?\d")
_BETWEEN = re.compile(r"\s*,\s*(?:and\b\s*)?(?=\d)|\s*\band\b\s*(?=\d)|(?<=[A-Za-z.°])\s*(?=\d)")


def _compound(text: str) -> Quantity | None:
    """Read `1 hour 30 minutes`, `5 ft 3 in`, `3 dollars and 50 cents` in the first unit."""
    if not _COMPOUND.search(text):
        return None
    negative = text.startswith("-")
    quantities: list[Quantity] = []
    for part in _BETWEEN.split(text.lstrip("-")):
        quantity = _simple(part.strip(" ,"))
        if quantity is None or not quantity.unit.powers or quantity.unit.words:
            return None
        if quantity.percent or quantity.number.value < 0:
            return None
        if quantities:
            above = quantities[-1].unit
            if quantity.unit.powers != above.powers or quantity.unit.factor >= above.factor:
                return None
            if quantity.number.value * quantity.unit.factor >= above.factor:
                return None  # 3 m, 200 cm: two lengths
        quantities.append(quantity)
    if len(quantities) < 2:
        return None
    first, last = quantities[0].unit, quantities[-1].unit
    value = sum(q.number.value * q.unit.factor for q in quantities) / first.factor
    number = Number(-value if negative else value)
    return Quantity(number, first, False, first.factor / last.factor)


_PRIMES = re.compile(
    r"(?P<sign>-?)(?:(?P<degrees>\d+)\s*°\s*)?(?:(?P<one>\d+(?:\.\d+)?)\s*')?"
    r"(?:\s*(?P<two>\d+(?:\.\d+)?)\s*(?:''|\"))?",
    re.ASCII,
)


def _primes(text: str) -> Quantity | None:
    """Read degrees, minutes and seconds, `22° 30'`, or feet and inches, `5' 10''`."""
    match = _PRIMES.fullmatch(text) if "'" in text or '"' in text else None
    if match is None:
        return None
    whole, one, two = (Fraction(match[name] or 0) for name in ("degrees", "one", "two"))
    if match["degrees"]:
        value, unit = whole + one / 60 + two / 3600, read_unit("°")
    elif match["one"]:
        value, unit = one + two / 12, read_unit("ft")
    else:
        value, unit = two, read_unit("in")
    return Quantity(Number(-value if match["sign"] else value), unit)


_TEX_WITH_UNIT = re.compile(
    r"(?P<body>.*(?:[\d})!]|\\pi(?![a-z])|(?<![\\A-Za-z])[a-z](?=\s)))(?P<gap>\s*)"
    r"(?P<unit>(?:[A-Za-z]|\\Omega)(?:[ \v/.A-Za-z]|\\cdot|\^\{?\s*-?\d\s*\}?)*)",
    re.S,
)
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


def split_expression(text: str) -> tuple[str, Unit, bool]:
    """Return (body, unit, percent sign) of a cleaned expression: 12\\\\sqrt{3} cm."""
    body, percent, money = text, False, NO_UNIT
    match = re.match(rf"(-?)\s*({_CURRENCY})\s*", body)
    if match:
        money = read_unit(match[2])
        body = match[1] + body[match.end() :]
    if body.endswith("%"):
        return body[:-1].strip(), money, True
    if body.endswith("°") and not _ANGLE_FUNCTION.search(body):
        return body[:-1].strip(), read_unit("°"), False
    match = _TEX_WITH_UNIT.fullmatch(body)
    if match and _behind_expression(match):
        body, unit = match["body"].strip(), read_unit(match["unit"])
        if money and not unit.powers:
            unit = Unit(money.powers, money.factor, unit.words)
        return body, unit, percent
    return body, money, percent


def _behind_expression(match: re.Match[str]) -> bool:
    body, gap, unit = match["body"], match["gap"], match["unit"]
    word = _WORD.match(unit)
    first = word[0] if word else "Ω"
    if first.lower() in _NOT_A_UNIT or not _balanced(body):
        return False
    if "\\" not in body and not (TEXT_SPACE in gap and re.search(r"[!^]", body)):
        return False
    if TEXT_SPACE in gap:
        return len(first) > 2 or lookup(first) is not None or first in SHORT_WORDS
    if not gap:
        return len(first) > 1 and body[-1] in "})" and first in _ATTACHED
    if len(first) < 2 and (body[-1].isalpha() or not _only_units(unit)):
        return False  # 2\pi m is a product
    return len(first) > 3 or lookup(first) is not None


def _balanced(text: str) -> bool:
    return text.count("{") == text.count("}") and text.count("(") == text.count(")")


def strip_brackets(body: str) -> str:
    """Drop round brackets around one number."""
    if body.startswith("(") and "," not in body and closing(body, 0, "(", ")") == len(body) - 1:
        return body[1:-1]
    return body
