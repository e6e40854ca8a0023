"""Evaluate sympy expressions to numbers of many digits, each node once.

The time that sympy's own `evalf` takes is exponential in the depth of a continued fraction. Here a
sum whose terms cancel to the last digits is zero, so that sqrt(8) - 2 sqrt(2) is 0 and not 1e-41.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

_NOISE = 12  # last digits of a computation, which are not trusted
_local = threading.local()

_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "asin": "asin", "acos": "acos", "atan": "atan", "acot": "acot", "asec": "asec",
    "acsc": "acsc", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "exp": "exp", "log": "log",
    "Abs": "fabs", "factorial": "factorial", "binomial": "binomial", "gamma": "gamma",
    "floor": "floor", "ceiling": "ceil", "re": "re", "im": "im", "conjugate": "conj",
    "Max": "max", "Min": "min",
}  # fmt: skip


class NoValue(Exception):
    """Signal that an expression has no value at a point, or a part unknown to this module."""


def evaluate(expression: Any, point: dict[Any, Fraction], digits: int) -> Any:
    """Return the value of an expression at a point as a finite mpmath number.

    Args:
        expression: Sympy expression.
        point: Values of its free symbols.
        digits: Digits to compute with; the result has about 12 good digits fewer.

    Returns:
        Number (mpf or mpc), or None where the expression has no value.
    """
    context = _context(digits)
    tiny = context.mpf(10) ** (_NOISE - digits)
    values = {symbol: _fraction(value, context) for symbol, value in point.items()}
    try:
        return _finite(_value(expression, values, context, tiny), context, tiny)
    except MemoryError:
        raise
    except Exception:  # mpmath's many errors for a pole, a logarithm of zero, a complex maximum
        return None


def _context(digits: int) -> Any:
    """Return this thread's mpmath context: it holds the precision, so threads cannot share one."""
    import mpmath

    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
    _local.context.dps = digits
    return _local.context


def _fraction(value: Fraction, context: Any) -> Any:
    return context.mpf(value.numerator) / value.denominator


def _value(node: Any, values: dict[Any, Any], context: Any, tiny: Any) -> Any:
    """Return the value of a node; `values` keeps those of all nodes seen."""
    if node not in values:
        arguments = [_value(argument, values, context, tiny) for argument in node.args]
        values[node] = _finite(_apply(node, arguments, context, tiny), context, tiny)
    return values[node]


def _apply(node: Any, arguments: list[Any], context: Any, tiny: Any) -> Any:
    if node.is_Rational:
        return context.mpf(node.p) / node.q
    if node.is_Add:
        total = context.fsum(arguments)
        return context.mpf(0) if abs(total) <= tiny * max(map(abs, arguments)) else total
    if node.is_Mul:
        return context.fprod(arguments)
    if node.is_Pow:
        base, exponent = arguments
        return _power(node.exp, base, exponent, context)
    name = type(node).__name__
    if not arguments:
        return _constant(name, context)
    if name == "UnevaluatedExpr":
        return arguments[0]
    if name not in _FUNCTIONS:
        raise NoValue(name)
    if name in ("floor", "ceiling"):  # 2.999... differs from 3 in untrusted digits only
        nearest = context.nint(arguments[0])
        if abs(arguments[0] - nearest) <= tiny * (1 + abs(nearest)):
            return nearest
    if name == "log" and len(arguments) == 2:
        return context.log(arguments[0]) / context.log(arguments[1])
    if name in ("Max", "Min"):
        return (max if name == "Max" else min)(arguments)
    result = getattr(context, _FUNCTIONS[name])(*arguments)
    trigonometric = name in ("sin", "cos", "tan", "cot")
    return context.mpf(0) if trigonometric and abs(result) <= tiny else result


def _power(exponent: Any, base: Any, value: Any, context: Any) -> Any:
    """Return a power; an odd root of a negative number is real, as \\sqrt[3]{-8} = -2."""
    if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and not base.imag and base < 0:
        root = context.power(-base, value)
        return -root if exponent.p % 2 else root
    return context.power(base, value)


def _constant(name: str, context: Any) -> Any:
    constants = {
        "Pi": context.pi,
        "Exp1": context.e,
        "ImaginaryUnit": context.j,
        "GoldenRatio": context.phi,
        "EulerGamma": context.euler,
    }
    if name not in constants:
        raise NoValue(name)
    return +constants[name]


def _finite(number: Any, context: Any, tiny: Any) -> Any:
    """Return the number, real if its imaginary part is noise; raise NoValue if it is not finite."""
    if not context.isfinite(number):
        raise NoValue("not finite")
    if isinstance(number, context.mpc) and abs(number.imag) <= tiny * abs(number):
        return number.real
    return number


def equal_values(a: Any, b: Any, digits: int) -> bool:
    """Return whether two results of `evaluate` with so many digits are equal but for the noise."""
    return bool(abs(a - b) <= max(abs(a), abs(b)) * type(abs(a))(10) ** (_NOISE + 3 - digits))


def is_real(number: Any) -> bool:
    """Return whether a result of `evaluate` has no imaginary part."""
    return not number.imag


def to_fraction(number: Any) -> Fraction:
    """Return the exact value of a finite real mpmath number."""
    sign, mantissa, exponent, _ = number._mpf_
    value = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -value if sign else value
