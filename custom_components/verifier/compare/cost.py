"""Estimate what evaluating an expression would cost, without evaluating it."""

from __future__ import annotations

import math
from typing import Any

from custom_components.verifier.limits import MAX_ARGUMENT, MAX_EXPONENT, MAX_PHASE, TooComplex

_INFINITY = float("inf")


def check_cost(expression: Any) -> None:
    """Raise TooComplex where evaluating an expression needs huge numbers: 9^(9^9), 100000!."""
    import sympy

    for node in sympy.preorder_traversal(expression):
        if isinstance(node, sympy.Pow):
            if _magnitude(node.exp) > MAX_EXPONENT:
                raise TooComplex("exponent")
        elif isinstance(node, _growing(sympy)):
            if _magnitude(node.args[0]) > MAX_EXPONENT:
                raise TooComplex("exponent")
        elif isinstance(node, (sympy.factorial, sympy.binomial, sympy.gamma)):
            if any(_magnitude(arg) > MAX_ARGUMENT for arg in node.args):
                raise TooComplex("factorial")
        elif isinstance(node, _periodic(sympy)):
            if _magnitude(node.args[0]) > MAX_PHASE:
                raise TooComplex("phase")


def hidden_digits(expression: Any) -> int:
    """Return how many digits a sum may hide: 2^2008 - 2 differs from 2^2008 in its 605th digit."""
    import sympy

    kinds = (sympy.Pow, sympy.factorial, sympy.Integer)
    nodes = (node for node in sympy.preorder_traversal(expression) if isinstance(node, kinds))
    largest = max(map(_magnitude, nodes), default=1.0)
    return 5000 if largest > 1e300 else max(0, int(math.log10(max(largest, 1.0))))


def _magnitude(node: Any) -> float:
    """Return an upper bound of |node|, inf past the range of a float; a symbol counts as 10."""
    import sympy

    if node.is_Number:
        return _number(node)
    if node.is_NumberSymbol or node is sympy.I:
        return 4.0
    if node.is_Symbol:
        return 10.0
    if node.is_Add:
        return sum(map(_magnitude, node.args))
    if node.is_Mul:
        return math.prod(max(1.0, _magnitude(arg)) for arg in node.args)
    if node.is_Pow:
        return _power(node)
    if isinstance(node, _growing(sympy)):
        return math.exp(min(_magnitude(node.args[0]), 700.0))
    if isinstance(node, sympy.factorial):
        argument = _magnitude(node.args[0])
        return math.gamma(argument + 1) if argument <= 170 else _INFINITY
    return max(map(_magnitude, node.args), default=10.0)


def _number(node: Any) -> float:
    if not node.is_finite:
        return 1.0
    try:
        return abs(float(node))
    except OverflowError:
        return _INFINITY


def _power(node: Any) -> float:
    base, exponent = _magnitude(node.base), _magnitude(node.exp)
    if not node.exp.is_positive:
        base = 1 / base if node.base.is_Number and base else 10.0
    try:
        return max(base, 1.0) ** exponent
    except OverflowError:
        return _INFINITY


def _periodic(sympy: Any) -> tuple[Any, ...]:
    """Return the functions that need all digits of their argument."""
    trigonometric = sympy.functions.elementary.trigonometric.TrigonometricFunction
    return (trigonometric, sympy.floor, sympy.ceiling, sympy.Mod)


def _growing(sympy: Any) -> tuple[Any, ...]:
    """Return the functions that grow exponentially."""
    return (sympy.exp, sympy.sinh, sympy.cosh, sympy.tanh, sympy.coth)
