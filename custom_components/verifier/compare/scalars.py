"""Decide whether two single values are the same: numbers, ratios, words, expressions.

Numbers are exact fractions, so equality is exact; a tolerance applies to decimals alone
(`equal_numbers`).
"""

from __future__ import annotations

import re
from collections import Counter
from contextvars import ContextVar
from fractions import Fraction

from custom_components.verifier.compare import expressions
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read import units
from custom_components.verifier.read.nodes import Based, Expr, Node, Num, Ratio, Word
from custom_components.verifier.read.numbers import Number
from custom_components.verifier.read.units import DEGREES, Unit
from custom_components.verifier.read.words import SHORT_WORDS, choice_letter

_CHOICES = "ABCDEFGHIJ"
ROUNDING: ContextVar[bool] = ContextVar("rounding", default=False)
"""Whether a gold that is a decimal accepts any decimal that rounds to it (`verify(rounding=)`)."""


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


_FLOAT_DIGITS = 15  # significant digits from which a decimal may be a printed float
_FLOAT_ERROR = Fraction(1, 10**14)


def _within_tolerance(gold: Number, answer: Number) -> bool:
    """Return whether an inexact answer stands for the gold.

    It does in three cases. The gold is a decimal of at least three significant digits, and the
    answer rounds to it and is given with at least two more decimals (one more where the gold has a
    power of ten or `rounding` is set); an answer that is no decimal may also have been cut off
    after the gold's last digit. Or the answer is a decimal of at least twelve significant digits
    that is the gold's expansion, which is how a program prints an exact value. Or either is a float
    with the error of its last digits, 0.30000000000000004.
    """
    error = abs(gold.value - answer.value)
    if max(gold.digits, answer.digits) >= _FLOAT_DIGITS and error <= abs(gold.value) * _FLOAT_ERROR:
        return bool(gold.places if gold.digits >= _FLOAT_DIGITS else answer.places)
    if gold.digits >= 3 and gold.places is not None and (gold.places > 0 or gold.scientific):
        unit = Fraction(10) ** -gold.places
        places = _decimal_places(answer)
        if places is None:
            return error < unit and abs(answer.value) >= abs(gold.value) or error <= unit / 2
        more = 1 if gold.scientific or ROUNDING.get() else 2
        return places >= gold.places + more and error <= unit / 2
    return bool(answer.places) and answer.digits >= 12 and error <= Fraction(1, 10**answer.places)


def _decimal_places(number: Number) -> int | None:
    """Return the number of decimals, of a fraction too; None where they do not end."""
    if number.places is not None:
        return number.places
    rest, places = number.value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0 and count < 40:
            rest //= prime
            count += 1
        places = max(places, count)
    return places if rest == 1 else None


def _equal_quantities(gold: Num, answer: Num) -> bool:
    """Compare numbers with their units and percent signs."""
    factor = units.conversion(gold.unit, answer.unit)
    if factor is None:
        return _equal_temperatures(gold, answer)
    if not _same_kind(gold, answer):
        return False
    if factor != 1:
        converted = Number(answer.number.value * factor)
        return gold.number.value == converted.value or _within_tolerance(gold.number, converted)
    scaled = (Number(answer.number.value * f) for f in _percent_factors(gold, answer) if f != 1)
    if any(equal_numbers(gold.number, number) for number in scaled):
        return True
    if gold.percent != answer.percent and not _sign_may_be_left_out(gold.number.value):
        return False
    if equal_numbers(gold.number, answer.number):
        return True
    return _equal_compounds(gold, answer)


def _equal_temperatures(gold: Num, answer: Num) -> bool:
    goal = units.temperature(gold.number.value, gold.unit)
    return goal is not None and goal == units.temperature(answer.number.value, answer.unit)


def _equal_compounds(gold: Num, answer: Num) -> bool:
    """Compare `1 hour 30 minutes` with a bare 90, whose unit is left out."""
    if gold.unit and answer.unit:
        return False
    value, finest = gold.number.value, gold.finest * answer.finest
    return finest != 1 and value == answer.number.value * (
        finest if answer.unit else Fraction(1) / finest
    )


def _same_kind(gold: Num | Expr, answer: Num | Expr) -> bool:
    """Return whether a percentage is not compared with a quantity that has a unit."""
    if gold.percent == answer.percent:
        return True
    return not (answer if gold.percent else gold).unit.powers


def _percent_factors(gold: Num | Expr, answer: Num | Expr) -> tuple[Fraction, ...]:
    """Return what the answer may be multiplied by to be the gold: "%" is a hundredth, or left out."""
    if gold.percent == answer.percent:
        return (Fraction(1),)
    return (Fraction(1), Fraction(100) if gold.percent else Fraction(1, 100))


def _sign_may_be_left_out(value: Fraction) -> bool:
    """Return whether 28 may stand for 28 %; 0.28 and 1.2 are ratios themselves."""
    return abs(value) >= 2


# --- based digits, ratios, words ---------------------------------------------------------------


def _equal_based(based: Based, other: Node) -> bool:
    if isinstance(other, Based):
        if based.base == other.base:
            return based.digits == other.digits
        value = _based_value(based)
        return value is not None and value == _based_value(other)
    if _based_value(based) is None:
        return False
    if isinstance(other, (Num, Word, Expr)):  # one side leaves the base out: the digits decide
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
            if _clock(ratio, other.meridiem) == _clock(other, ratio.meridiem):
                return True
            if ratio.meridiem or other.meridiem:
                return False
        if len(ratio.parts) != len(other.parts):
            return False
        first, other_first = sum(ratio.parts), sum(other.parts)
        if not all((*ratio.parts, *other.parts)) or not first * other_first:
            return ratio.parts == other.parts
        pairs = zip(ratio.parts, other.parts, strict=True)
        return all(part * other_first == other_part * first for part, other_part in pairs)
    if isinstance(other, Num) and not other.unit and not other.percent:
        if ratio.meridiem and not any(ratio.parts[1:]):  # 3 p.m.
            return other.number.value == ratio.parts[0]
        if len(ratio.parts) == 2 and ratio.parts[1] and not ratio.meridiem:
            return other.number.value == ratio.parts[0] / ratio.parts[1]
    return False


def _clock(time: Ratio, other_meridiem: str) -> tuple[Fraction, ...]:
    """Return hours, minutes (and seconds), of 24 hours where either side says a.m. or p.m."""
    hour = time.parts[0]
    meridiem = time.meridiem or other_meridiem
    if meridiem and hour <= 12:
        hour = hour % 12 + (12 if meridiem == "p" else 0)
    return (hour, *time.parts[1:])


_ROMAN = re.compile(r"[IVX]+")
_FORMULA = re.compile(r"[A-Za-z\d+\-/().]*[a-zA-Z\d)]")


def _equal_words(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Word) and isinstance(answer, Word):
        if gold.words == answer.words:
            return True
        letter = choice_letter(gold.key, _CHOICES) if gold.words.isupper() else None
        if letter and letter == choice_letter(answer.key, _CHOICES):
            return True
        if gold.words.startswith("date ") and answer.words.startswith("date "):
            shorter, longer = sorted((gold.words, answer.words), key=len)
            return longer.startswith(shorter + " ")  # the year is left out
    if isinstance(gold, Word) and isinstance(answer, Num):
        if gold.key == "e":
            return _equal_expression_number(Expr("e", "e"), answer)
        return gold.words == str(answer.number.value) and not answer.unit
    if isinstance(answer, Word) and isinstance(gold, Num):
        return answer.words == str(gold.number.value) and not gold.unit
    return _equal_formulas(gold, answer)


def _equal_formulas(gold: Node, answer: Node) -> bool:
    """Compare runs of letters as products, `ab` and `ba`, where neither is a word in `\\text{}`."""
    gold_formula, answer_formula = _as_formula(gold), _as_formula(answer)
    if gold_formula is None or answer_formula is None:
        return False
    if isinstance(gold, Word) and isinstance(answer, Word):
        runs = (gold.key + answer.key).isalpha()
        if runs and Counter(gold.key) != Counter(answer.key):
            return False
    if is_sentence(gold_formula.tex) and not isinstance(gold, Word):
        return False
    if is_sentence(answer_formula.tex) and not isinstance(answer, Word):
        return False
    if gold_formula.unit or answer_formula.unit or answer_formula.percent or gold_formula.percent:
        return False
    try:
        return expressions.equal_expressions(gold_formula.tex, answer_formula.tex)
    except (Unreadable, TooComplex):
        return False


def _as_formula(node: Node) -> Expr | None:
    """Return a Word of at most four letters, or of short runs with signs, as an expression."""
    if isinstance(node, Expr):
        return node
    if not isinstance(node, Word) or node.literal or not _FORMULA.fullmatch(node.key):
        return None
    longest = max(map(len, re.findall(r"[A-Za-z]+", node.key)), default=0)
    if node.key.isalpha() and (longest > 4 or node.key.isupper() and longest > 2):
        return None
    if node.key.lower() in SHORT_WORDS or _ROMAN.fullmatch(node.key):
        return None
    return Expr(node.key, node.key) if longest <= 4 else None


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
    factor = _angle_factor(gold, answer)
    if factor is not None:
        scaled = rf"({answer_tex})\cdot {factor}"
        return expressions.equal_expressions(gold_tex, scaled)
    ratio = units.conversion(gold.unit, answer.unit)
    if ratio is None or not _same_kind(gold, answer):
        return False
    if ratio != 1:
        scaled = rf"({answer_tex})\cdot {_fraction_tex(ratio)}"
        return expressions.equal_expressions(gold_tex, scaled)
    if isinstance(gold, Num) and isinstance(answer, Expr):
        same = _equal_number_expression(gold, answer)
        if same and _is_computation(answer_tex):
            raise Unevaluated
        return same
    if isinstance(gold, Expr) and isinstance(answer, Num):
        return _equal_expression_number(gold, answer)
    if gold.percent != answer.percent and not _large(gold_tex, "gold"):
        side = gold if gold.percent else answer
        return expressions.equal_expressions(
            _hundredth(gold_tex, side is gold), _hundredth(answer_tex, side is answer)
        )
    return expressions.equal_expressions(gold_tex, answer_tex)


def _hundredth(tex: str, percent: bool) -> str:
    return rf"\frac{{{tex}}}{{100}}" if percent else tex


def _large(tex: str, side: str) -> bool:
    value = expressions.approximate(tex, side)
    return value is None or _sign_may_be_left_out(value)


def _angle_factor(gold: Num | Expr, answer: Num | Expr) -> str | None:
    """Return the factor from the answer's angle to the gold's, of degrees and radians."""
    kinds = []
    for node in (gold, answer):
        if node.unit == DEGREES:
            kinds.append("degrees")
        elif node.unit == _RADIANS or not node.unit and "\\pi" in _tex(node) and not node.percent:
            kinds.append("radians")
    if kinds == ["degrees", "radians"]:
        return r"\frac{180}{\pi}"
    return r"\frac{\pi}{180}" if kinds == ["radians", "degrees"] else None


_RADIANS = Unit((("radian", 1),))


def _tex(node: Num | Expr) -> str:
    return node.tex if isinstance(node, Expr) else _fraction_tex(node.number.value)


def _fraction_tex(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _equal_number_expression(gold: Num, answer: Expr) -> bool:
    for factor in _allowed_factors(gold, answer, gold.number.value):
        if expressions.has_value(answer.tex, gold.number.value / factor, "answer"):
            return True
    value = expressions.approximate(answer.tex, "answer")
    if value is None:
        return False
    factors = _allowed_factors(gold, answer, gold.number.value)
    return any(_within_tolerance(gold.number, Number(value * factor)) for factor in factors)


def _equal_expression_number(gold: Expr, answer: Num) -> bool:
    value = expressions.approximate(gold.tex, "gold")
    for factor in _allowed_factors(gold, answer, answer.number.value):
        if expressions.has_value(gold.tex, answer.number.value * factor, "gold"):
            return True
        if value is None or answer.number.places is None:
            continue
        if equal_numbers(Number(value / factor), answer.number):
            return True
    return False


def _allowed_factors(gold: Num | Expr, answer: Num | Expr, value: Fraction) -> tuple[Fraction, ...]:
    factors = _percent_factors(gold, answer)
    return factors if len(factors) == 1 or _sign_may_be_left_out(value) else factors[1:]
