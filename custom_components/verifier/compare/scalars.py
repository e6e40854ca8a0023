"""Decide whether two single values are the same: numbers, ratios, words, expressions.

Numbers are exact fractions, so equality is exact; a tolerance applies to decimals alone
(`equal_numbers`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from custom_components.verifier.compare import expressions
from custom_components.verifier.read import units
from custom_components.verifier.read.nodes import Based, Expr, Node, Num, Ratio, Word
from custom_components.verifier.read.numbers import Number
from custom_components.verifier.read.words import choice_letter

_CHOICES = "ABCDEFGHIJ"


class Unevaluated(Exception):
    """Signal that an answer is the computation that the question asks for, not its result."""


def equal_scalars(gold: Node, answer: Node) -> bool:
    """Return whether two nodes other than lists, sets, matrices and relations are the same."""
    if isinstance(gold, Num) and isinstance(answer, Num):
        return _equal_quantities(gold, answer)
    if isinstance(gold, Based):
        return _equal_based(gold, answer)
    if isinstance(answer, Based):
        return _equal_based(answer, gold)
    if isinstance(gold, Ratio):
        return _equal_ratios(gold, answer)
    if isinstance(answer, Ratio):
        return _equal_ratios(answer, gold)
    if isinstance(gold, Word) or isinstance(answer, Word):
        return _equal_words(gold, answer)
    if isinstance(gold, (Num, Expr)) and isinstance(answer, (Num, Expr)):
        return _equal_algebra(gold, answer)
    return False


# --- numbers -----------------------------------------------------------------------------------


def equal_numbers(gold: Number, answer: Number) -> bool:
    """Return whether an answer's number is the gold's: exactly, or within the tolerance."""
    return gold.value == answer.value or _within_tolerance(gold, answer)


def _within_tolerance(gold: Number, answer: Number) -> bool:
    """Return whether an inexact answer stands for the gold.

    It does in two cases. The gold is a decimal of at least three significant digits, and the
    answer is given more precisely and rounds to it; a fraction or a closed form (its `places` are
    None) may also have been cut off after the gold's last digit. Or the answer is a decimal of at
    least twelve significant digits that is the gold's expansion, which is how a program prints an
    exact value.
    """
    error = abs(gold.value - answer.value)
    if gold.places and gold.digits >= 3:
        unit = Fraction(1, 10**gold.places)
        if answer.places is None:
            return error < unit and abs(answer.value) >= abs(gold.value) or error <= unit / 2
        return answer.places > gold.places and error <= unit / 2
    return bool(answer.places) and answer.digits >= 12 and error <= Fraction(1, 10**answer.places)


def _equal_quantities(gold: Num, answer: Num) -> bool:
    """Compare numbers with their units and percent signs."""
    factor = units.conversion(gold.unit, answer.unit)
    if factor is None:
        return False
    if factor != 1:
        return gold.number.value == answer.number.value * factor
    if equal_numbers(gold.number, answer.number):
        return True
    factors = _percent_factors(gold, answer)
    return any(gold.number.value == answer.number.value * factor for factor in factors)


def _percent_factors(gold: Num | Expr, answer: Num | Expr) -> tuple[Fraction, ...]:
    """Return what the answer may be multiplied by to be the gold: "%" is a unit, or a hundredth."""
    if gold.percent == answer.percent:
        return (Fraction(1),)
    return (Fraction(1), Fraction(100) if gold.percent else Fraction(1, 100))


# --- based digits, ratios, words ---------------------------------------------------------------


def _equal_based(based: Based, other: Node) -> bool:
    if isinstance(other, Based):
        if based.base == other.base:
            return based.digits == other.digits
        value = _based_value(based)
        return value is not None and value == _based_value(other)
    if _based_value(based) is None:
        return False
    if isinstance(other, (Num, Word)):  # one side leaves the base out: the digits decide
        return other.key.upper().lstrip("0") == based.digits.lstrip("0")
    return False


def _based_value(node: Based) -> int | None:
    try:
        return int(node.digits, node.base)
    except ValueError:  # the base does not have this digit
        return None


def _equal_ratios(ratio: Ratio, other: Node) -> bool:
    if isinstance(other, Ratio):
        if ratio.time and other.time:
            return _clock(ratio, other.meridiem) == _clock(other, ratio.meridiem)
        if len(ratio.parts) != len(other.parts):
            return False
        first, other_first = ratio.parts[0], other.parts[0]
        pairs = zip(ratio.parts, other.parts, strict=True)
        return all(part * other_first == other_part * first for part, other_part in pairs)
    if isinstance(other, Num) and len(ratio.parts) == 2 and ratio.parts[1]:
        return other.number.value == Fraction(*ratio.parts)
    return False


def _clock(time: Ratio, other_meridiem: str) -> tuple[int, ...]:
    """Return hours, minutes (and seconds), of 24 hours where either side says a.m. or p.m."""
    hour = time.parts[0]
    meridiem = time.meridiem or other_meridiem
    if meridiem and hour <= 12:
        hour = hour % 12 + (12 if meridiem == "p" else 0)
    return (hour, *time.parts[1:])


_SHORT_PRODUCT = re.compile(r"[A-Za-z]{1,3}")


def _equal_words(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Word) and isinstance(answer, Word):
        if gold.words == answer.words:
            return True
        letter = choice_letter(gold.key, _CHOICES)
        if letter and letter == choice_letter(answer.key, _CHOICES):
            return True
    if isinstance(gold, Word) and isinstance(answer, Num):
        return gold.words == str(answer.number.value)
    if isinstance(answer, Word) and isinstance(gold, Num):
        return answer.words == str(gold.number.value)
    gold_product, answer_product = _as_product(gold), _as_product(answer)  # ab and ba
    if gold_product is None or answer_product is None:
        return False
    return _equal_algebra(gold_product, answer_product)


def _as_product(node: Node) -> Expr | None:
    if isinstance(node, Word):
        return Expr(node.key, node.key) if _SHORT_PRODUCT.fullmatch(node.key) else None
    return node if isinstance(node, Expr) else None


# --- expressions -------------------------------------------------------------------------------

_SENTENCE = re.compile(r"(?<![\\a-zA-Z])(?!begin|end|matrix|array)[a-zA-Z]{4,}")
_OPERATORS = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim|gcd|lcm|max|min|[bp]?mod|det|partial|begin)(?![a-zA-Z])"
    r"|\\frac\{d\}"
)
_LITERALS = re.compile(r"(?:[\d.,\s(){}\[\]+/-]|\\cdot|\\times|\\div|\\frac)+", re.ASCII)
_BINARY = re.compile(r"[\d)}]\s*(?:\+|-|\\cdot|\\times|\\div)\s*[-+]?\s*[\d({\\]")
_MIXED = re.compile(r"-?\d+\s*\+\s*(?:\\frac\{\d+\}\{\d+\}|\d+/\d+)", re.ASCII)


def is_sentence(tex: str) -> bool:
    """Return whether a text has words in it, so that it is not an expression."""
    return _SENTENCE.search(tex) is not None


def _is_computation(tex: str) -> bool:
    """Return whether an expression is arithmetic of literals, still to be done: 3 + 4, 12 \\cdot 7.

    Fractions, roots, powers, factorials and what contains them are results.
    """
    if _MIXED.fullmatch(tex):
        return False
    return bool(_LITERALS.fullmatch(tex) and _BINARY.search(tex))


def _equal_algebra(gold: Num | Expr, answer: Num | Expr) -> bool:
    """Compare by the computer algebra; raise Unevaluated for an answer that names a computation."""
    gold_tex, answer_tex = _tex(gold), _tex(answer)
    if is_sentence(gold_tex) or is_sentence(answer_tex):
        return False  # two sentences are the same only when they are spelled the same
    if _OPERATORS.search(answer_tex) and not _OPERATORS.search(gold_tex):
        raise Unevaluated  # without computing it, which may take forever
    if units.conversion(gold.unit, answer.unit) is None:
        return False
    if (
        "°" in (gold.unit, answer.unit)
        and gold.unit != answer.unit
        and "\\pi" in (answer_tex if gold.unit else gold_tex)
    ):
        return expressions.equal_expressions(_radians(gold), _radians(answer))
    if isinstance(gold, Num) and isinstance(answer, Expr):
        same = _equal_number_expression(gold, answer)
        if same and _is_computation(answer_tex):
            raise Unevaluated
        return same
    if isinstance(gold, Expr) and isinstance(answer, Num):
        return _equal_expression_number(gold, answer)
    return expressions.equal_expressions(gold_tex, answer_tex)


def _radians(node: Num | Expr) -> str:
    return rf"({_tex(node)})\cdot \frac{{\pi}}{{180}}" if node.unit == "°" else _tex(node)


def _tex(node: Num | Expr) -> str:
    if isinstance(node, Expr):
        return node.tex
    value = node.number.value
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _equal_number_expression(gold: Num, answer: Expr) -> bool:
    for factor in _percent_factors(gold, answer):
        if expressions.has_value(answer.tex, gold.number.value / factor, "answer"):
            return True
    value = expressions.approximate(answer.tex, "answer")
    return value is not None and _within_tolerance(gold.number, Number(value))


def _equal_expression_number(gold: Expr, answer: Num) -> bool:
    if expressions.has_value(gold.tex, answer.number.value, "gold"):
        return True
    if answer.number.places is None:
        return False
    value = expressions.approximate(gold.tex, "gold")
    return value is not None and equal_numbers(Number(value), answer.number)
