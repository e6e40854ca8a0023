"""Compare expressions, given as cleaned LaTeX, by the computer algebra.

Only math-verify's LaTeX parser (latex2sympy2_extended) reads the text; nothing is evaluated as
code. Evaluation to 40 digits decides equality, at random points where there are free symbols
(Schwartz-Zippel): it is faster than `simplify`, and does not take 1/2004! for 1/2006!.
math-verify's own comparison decides where evaluation has no result.

The first call imports sympy, so importing this module costs nothing.
"""

from __future__ import annotations

import logging
import math
import random
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from custom_components.verifier.compare import evaluate
from custom_components.verifier.compare.cost import check_cost, hidden_digits
from custom_components.verifier.limits import MAX_DEPTH, MAX_TEX, TooComplex, Unreadable
from custom_components.verifier.read.latex import TEXT_SPACE, closing

_DIGITS = 40  # digits of every evaluation
_COMMANDS = frozenset(
    "frac sqrt pi cdot times div pm mp le ge ne infty cup cap in setminus emptyset binom sum prod "
    "int lim to log ln lg exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh alpha "
    "beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi "
    "Psi Omega overline bar vec hat tilde lfloor rfloor lceil rceil angle circ triangle ldots "
    "mathbb gcd lcm max min begin end langle rangle arccot arcsec arccsc ell hbar mod pmod bmod "
    "det overrightarrow partial dots coth widehat widetilde dot ddot neg star".split()
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_EVALUATED = re.compile(r"\\binom\s*\{[^{}]*\d{5}|\\[gG]amma[\s{(]*\d{5}")
_WARM_UP = (r"\frac{1}{2}x^{2}+3\sqrt{2}", r"(a+b)(a-2b)\pi", r"\sin{x}-\log{3}", r"2^{10}-5y")


def load() -> None:
    """Import the computer algebra and fill the parser's tables, so that later calls are fast."""
    for tex in _WARM_UP:
        _to_sympy(tex)


@lru_cache(maxsize=4096)
def _to_sympy(tex: str) -> Any:
    """Return the sympy object of a cleaned LaTeX expression.

    Raises:
        Unreadable: when the text is not an expression.
        TooComplex: when a cap is exceeded.
    """
    _check(tex)
    import sympy

    try:
        expression = _exact(_from_latex(tex))
        check_cost(expression)
    except (MemoryError, TooComplex):
        raise
    except RecursionError as error:
        raise TooComplex("nesting") from error
    except Exception as error:  # a parser and sympy may raise anything on text that is not LaTeX
        raise Unreadable(str(error).split("\n")[0][:80]) from error
    if not isinstance(expression, sympy.Basic):
        raise Unreadable("not an expression")
    return expression


def _from_latex(tex: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    return latex2sympy(
        _for_parser(tex),
        is_real=True,
        convert_degrees=True,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )


_SPELLINGS = (
    ("°", r"^{\circ}"), ("'", "_{prime}"), ("%", r"\%"), ("¤", ""), (TEXT_SPACE, " "),
)  # fmt: skip
_COEFFICIENT = re.compile(
    r"(?<![\w.}\])^/])(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)(?![\d.^])(?=\s*(?:[a-zA-Z(\[|]"
    r"|\\(?!cdot|times|div|le|ge|ne|in|cup|cap|pm|mp|lor|land|to|rangle|rfloor|rceil|end)[a-zA-Z]))"
)
_FACTOR = re.compile(r"\s*(?:[a-zA-Z(]|\\(?:pi|sqrt|frac|triangle|sin|cos|tan|ln|log)(?![a-zA-Z]))")
_BEFORE_BRACKET = re.compile(r"/\s*((?![fg]\()[a-zA-Z]+|\d+(?:\.\d+)?)\s*(?=\()")
_DERIVATIVE = re.compile(r"\\(?:i*int|oint|begin|partial)(?![a-zA-Z])|\\frac\{d")
_LETTER_D = re.compile(r"(\\[a-zA-Z]+)|d(?=\s*[a-zA-Z])")  # `db` is a product, not a differential
_DOUBLE_FACTORIAL = re.compile(r"(?<!\d)(\d{1,2})!!(?!!)")


def _for_parser(tex: str) -> str:
    """Return a cleaned text as the parser must see it to read it as a person does.

    A fraction of numbers with a slash is a coefficient (2/3x is two thirds of x), and a slash ends
    at the bracket behind its divisor: 1/h(h-x) is (1/h)(h-x), and 1/(2)x is (1/2)x.
    """
    for sign, spelling in _SPELLINGS:
        tex = tex.replace(sign, spelling)
    if "!!" in tex:
        tex = _DOUBLE_FACTORIAL.sub(lambda m: str(math.prod(range(int(m[1]), 0, -2))), tex)
    if "d" in tex and not _DERIVATIVE.search(tex):
        tex = _LETTER_D.sub(lambda m: m[1] or "{d}", tex)
    if "/" not in tex:
        return tex
    tex = _COEFFICIENT.sub(r"\\frac{\1}{\2}", tex)
    tex = _BEFORE_BRACKET.sub(r"/\1\\cdot ", tex)
    for match in reversed(list(re.finditer(r"/\s*\(", tex))):
        end = closing(tex, match.end() - 1, "(", ")")
        if end > 0 and _FACTOR.match(tex, end + 1):
            tex = f"{tex[: end + 1]}\\cdot {tex[end + 1 :]}"
    return tex


def _check(tex: str) -> None:
    """Raise Unreadable for an unknown command, TooComplex for what would take the parser long."""
    if len(tex) > MAX_TEX:
        raise TooComplex("length")
    depth = deepest = 0
    for char in tex:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise TooComplex("nesting")
    for command in _COMMAND.findall(tex):
        if command not in _COMMANDS:
            raise Unreadable(f"\\{command}")
    # The parser evaluates binomials, the gamma function and determinants while it reads them.
    if _EVALUATED.search(tex) or tex.count("&") > 40 or "vmatrix" in tex and tex.count("&") > 9:
        raise TooComplex("arguments")


def _exact(expression: Any) -> Any:
    """Replace decimals by exact rationals, i by the imaginary unit and e by Euler's number."""
    import sympy

    if isinstance(expression, sympy.MatrixBase):
        expression = sympy.ImmutableMatrix(expression)
    constants = {"i": sympy.I, "e": sympy.E}
    replaced = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    replaced |= {
        symbol: constants[symbol.name]
        for symbol in expression.free_symbols
        if symbol.name in constants
    }
    return expression.xreplace(replaced) if replaced else expression


@lru_cache(maxsize=4096)
def equal_expressions(gold: str, answer: str) -> bool:
    """Return whether two expressions are the same function of the same symbols.

    Raises:
        Unreadable, TooComplex: when an expression cannot be read; `side` is "gold" or "answer".
    """
    import sympy

    g, a = _read(gold, "gold"), _read(answer, "answer")
    if g == a:
        return True
    if isinstance(g, sympy.Expr) and isinstance(a, sympy.Expr):
        same = _equal_at_points(g, a)
        if same is not None:
            return same
    return _math_verify(g, a)


@lru_cache(maxsize=4096)
def has_value(tex: str, value: Fraction, side: str) -> bool:
    """Return whether an expression has exactly this value.

    Raises:
        Unreadable, TooComplex: when the expression cannot be read; `side` is this side.
    """
    import sympy

    expression = _read(tex, side)
    goal = sympy.Rational(value.numerator, value.denominator)
    if expression == goal:
        return True
    return isinstance(expression, sympy.Expr) and _equal_at_points(goal, expression) is True


def approximate(tex: str, side: str) -> Fraction | None:
    """Return the value of a constant real expression to 25 digits; None where it is not one.

    Raises:
        Unreadable, TooComplex: when the expression cannot be read; `side` is this side.
    """
    import sympy

    expression = _read(tex, side)
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    number = evaluate.evaluate(expression, {}, _DIGITS)
    if number is None or not evaluate.is_real(number) or abs(number) > 1e30:
        return None
    return evaluate.to_fraction(number.real)


def proportional(gold: tuple[str, ...], answer: tuple[str, ...], directed: bool) -> bool:
    """Return whether two equations or inequalities are multiples of each other.

    Args:
        gold: Left and right side of the gold.
        answer: Left and right side of the answer.
        directed: Whether only positive multiples count, as for inequalities with the same sign.

    Raises:
        Unreadable, TooComplex: when a side cannot be read; `side` is "gold" or "answer".
    """
    g, a = _difference(gold, "gold"), _difference(answer, "answer")
    if g.free_symbols != a.free_symbols or not g.free_symbols:
        return False
    ratios: list[Any] = []
    gold_values: set[Any] = set()
    for point in _points(g, a):
        gold_value = evaluate.evaluate(g, point, _DIGITS)
        answer_value = evaluate.evaluate(a, point, _DIGITS)
        if gold_value and answer_value:
            ratios.append(gold_value / answer_value)
            gold_values.add(gold_value)
    if len(gold_values) < 2:  # 0x = 3 is not an equation in x
        return False
    if not all(evaluate.equal_values(ratios[0], ratio, _DIGITS) for ratio in ratios[1:]):
        return False
    return not directed or evaluate.is_real(ratios[0]) and ratios[0].real > 0


def exercise(tex: str) -> None:
    """Read and evaluate a gold as `equal_expressions` would.

    Raises:
        Unreadable, TooComplex: when the expression cannot be read; `side` is "gold".
    """
    import sympy

    expression = _read(tex, "gold")
    if isinstance(expression, sympy.Expr):
        points = _points(expression, expression)
        values = [evaluate.evaluate(expression, point, _DIGITS) for point in points]
        if all(value is None for value in values):
            _math_verify(expression, sympy.Mul(2, expression))


def _read(tex: str, side: str) -> Any:
    """Return the sympy object of a text; name its side in the error where it cannot be read."""
    try:
        return _to_sympy(tex)
    except (Unreadable, TooComplex) as error:
        error.side = side
        raise


def _difference(sides: tuple[str, ...], side: str) -> Any:
    left, right = (_read(tex, side) for tex in sides)
    try:
        return left - right
    except TypeError as error:  # sets and relations have no difference
        unreadable = Unreadable("no difference")
        unreadable.side = side
        raise unreadable from error


def _points(g: Any, a: Any) -> list[dict[Any, Fraction]]:
    """Return values for the free symbols: three positive points, and two of mixed signs.

    They are the same in every run; without free symbols there is one empty point.
    """
    symbols = sorted(g.free_symbols | a.free_symbols, key=lambda symbol: symbol.name)
    if not symbols:
        return [{}]
    rng = random.Random(20)
    points = []
    for index in range(5):
        values = [Fraction(rng.randint(101, 4999), 1009) for _ in symbols]
        if index >= 3:
            values = [-value if rng.random() < 0.6 else value for value in values]
        points.append(dict(zip(symbols, values, strict=True)))
    return points


def _equal_at_points(g: Any, a: Any) -> bool | None:
    """Return whether two expressions agree at all points; None where they cannot be evaluated."""
    points = _points(g, a)
    digits = _DIGITS + (max(hidden_digits(g), hidden_digits(a)) if points == [{}] else 0)
    agreed = 0
    for index, point in enumerate(points):
        gold = evaluate.evaluate(g, point, digits)
        answer = evaluate.evaluate(a, point, digits)
        if gold is None or answer is None:
            continue  # the point is outside the domain
        if not evaluate.equal_values(gold, answer, digits):
            real = evaluate.is_real(gold) and evaluate.is_real(answer)
            if index >= 3 and agreed and not real:
                continue  # the two may be branches of one root or logarithm
            return False
        agreed += 1
    return True if agreed >= min(2, len(points)) else None


def _math_verify(gold: Any, answer: Any) -> bool:
    """Compare by math-verify, without its signal alarms."""
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that alarms are off
    return verify(gold, answer, timeout_seconds=None)
