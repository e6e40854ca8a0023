"""Read plain numbers exactly: to a Fraction, never to a float."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

_SIGN = r"(?P<sign>[-+]?)\s*"
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?: \d{3})+|\d+)"  # thousands, lakhs (12,34,567), spaces, none
_PLAIN = re.compile(rf"{_SIGN}(?P<int>{_DIGITS})?(?:\.(?P<frac>\d*))?", re.ASCII)
_REPEATING = re.compile(
    rf"{_SIGN}(?P<int>\d*)\.(?P<frac>\d*)"
    r"(?:\\(?:overline|bar)\s*\{?\s*(?P<bar>\d+)\s*\}?|\((?P<round>\d+)\)(?:\s*\\ldots)?"
    r"|(?P<dots>(?:\\dot\s*\{?\s*\d\s*\}?\s*\d*)(?:\\dot\s*\{?\s*\d\s*\}?)?)|(?P<more>\s*\\ldots))",
    re.ASCII,
)
_TEX_FRACTION = re.compile(
    rf"{_SIGN}(?:(?P<whole>{_DIGITS})\s*\+?)?\s*"
    r"\\frac\{(?P<num>[^{}]+)\}\{(?P<den>[^{}]+)\}",
    re.ASCII,
)
_SLASH_FRACTION = re.compile(
    rf"{_SIGN}(?:(?P<whole>{_DIGITS})(?:\s+|\s*\+\s*))?(?P<num>[\d.,]+)\s*/\s*(?P<den>[\d.,]+)",
    re.ASCII,
)
_SCIENTIFIC = re.compile(
    rf"{_SIGN}(?P<mantissa>[\d.,]+)\s*(?:(?:\\times|\\cdot|x|×)\s*10\^\{{(?P<e1>[-+]?\d+)\}}"
    r"|[eE](?P<e2>[-+]?\d+))",
    re.ASCII,
)
_MAX_EXPONENT = 400
_MAX_TAIL = 60  # digits before an ellipsis in which a period is looked for


@dataclass(frozen=True)
class Number:
    """Hold an exact value and how it is written.

    Attributes:
        value: Exact value.
        places: Number of digits after the decimal point; None for what is not a decimal. It is
            negative where a power of ten or a word (million) makes the last digit worth more.
        digits: Number of significant digits written; 0 for what is not a decimal or an integer.
        scientific: Whether a power of ten states how many digits are significant.
    """

    value: Fraction
    places: int | None = None
    digits: int = 0
    scientific: bool = False


def read(text: str) -> Number | None:
    """Return the number that a cleaned text is; None when it is anything else.

    >>> read("1\\\\frac{1}{2}").value
    Fraction(3, 2)
    """
    text = text.strip()
    if len(text) > 1100 or not any("0" <= c <= "9" for c in text):
        return None
    return _plain(text) or _fraction(text) or _scientific(text) or _repeating(text)


def _plain(text: str) -> Number | None:
    match = _PLAIN.fullmatch(text)
    if not match or not (match["int"] or match["frac"]):
        return None
    integer = re.sub("[ ,]", "", match["int"] or "0")
    places = match["frac"]
    value = Fraction(int(integer + (places or "")), 10 ** len(places or ""))
    digits = len((integer + (places or "")).lstrip("0"))
    value = -value if match["sign"] == "-" else value
    return Number(value, len(places) if places else None, digits)


def _fraction(text: str) -> Number | None:
    match = _TEX_FRACTION.fullmatch(text) or _SLASH_FRACTION.fullmatch(text)
    if not match:
        return None
    top, bottom = _plain(match["num"].strip()), _plain(match["den"].strip())
    if top is None or bottom is None or bottom.value == 0:
        return None
    value = top.value / bottom.value
    if match["whole"]:
        if value < 0 or value >= 1 or top.places is not None or bottom.places is not None:
            return None  # a product, or nonsense: not a mixed number
        if match["sign"] and "+" in text[1:]:
            return None  # -1 + 1/2 is a sum
        value += int(re.sub("[ ,]", "", match["whole"]))
    return Number(-value if match["sign"] == "-" else value)


def _scientific(text: str) -> Number | None:
    match = _SCIENTIFIC.fullmatch(text)
    if not match:
        return None
    mantissa, exponent = _plain(match["mantissa"]), int(match["e1"] or match["e2"])
    if mantissa is None or abs(exponent) > _MAX_EXPONENT:
        return None
    number = scaled(mantissa, Fraction(10) ** exponent, exponent)
    return negate(number) if number and match["sign"] == "-" else number


def scaled(number: Number, factor: Fraction, zeros: int | None) -> Number:
    """Return a number times a factor, which is a power of ten with so many zeros, or None."""
    value = number.value * factor
    if number.places is None or zeros is None:
        return Number(value)
    return Number(value, number.places - zeros, number.digits, scientific=True)


def _repeating(text: str) -> Number | None:
    match = _REPEATING.fullmatch(text)
    if not match:
        return None
    head, tail = match["frac"], match["bar"] or match["round"]
    if match["more"]:
        head, tail = _period(head)
    elif match["dots"]:
        tail = re.sub(r"\D", "", match["dots"])
        if match["dots"].count("\\dot") == 1 and len(tail) > 1:
            return None  # 0.\dot{1}23: where does the period end?
    if not tail:
        return None
    value = Fraction(int((match["int"] or "0") + head), 10 ** len(head))
    value += Fraction(int(tail), (10 ** len(tail) - 1) * 10 ** len(head))
    return Number(-value if match["sign"] == "-" else value)


def _period(digits: str) -> tuple[str, str]:
    """Return the digits before the period of `0.1666...`, and the period; empty without one.

    The period is the one that covers the most digits, of which it stands there at least twice.
    """
    digits = digits[:_MAX_TAIL]
    best = (0, 0)
    for length in range(1, len(digits) // 2 + 1):
        start = len(digits) - length
        while start > 0 and digits[start - 1] == digits[start - 1 + length]:
            start -= 1
        covered = len(digits) - start
        if covered >= 2 * length and covered > best[0]:
            best = (covered, length)
    covered, length = best
    if not length:
        return digits, ""
    start = len(digits) - covered
    return digits[:start], digits[start : start + length]


def modulo(number: Number, modulus: int) -> Number:
    """Return the remainder of an integer; another number as it is."""
    if number.value.denominator > 1 or not modulus:
        return number
    return Number(number.value % modulus, None, number.digits)


def negate(number: Number) -> Number:
    """Return the number with the opposite sign."""
    return replace(number, value=-number.value)


def read_decimal_comma(text: str) -> Number | None:
    """Read `2,74` or `0,111` as a decimal; return None where the comma could separate thousands."""
    match = re.fullmatch(r"([-+]?\d+),(\d+)", text, re.ASCII)
    if not match or len(match[2]) == 3 and match[1].lstrip("+-") != "0":
        return None
    return read(f"{match[1]}.{match[2]}")
