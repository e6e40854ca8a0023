"""Read an inequality in one name as the interval, or the union of intervals, that it states."""

from __future__ import annotations

import re

from custom_components.verifier.read import numbers
from custom_components.verifier.read.nodes import FLIPPED, Node, Relation, Seq, Side, Union
from custom_components.verifier.read.parse import parse_cleaned

_ABSOLUTE = re.compile(
    r"\|\s*[a-z]\s*(?:(?P<sign>[-+])\s*(?P<centre>\d[\d./]*|\\frac\{\d+\}\{\d+\})\s*)?\|"
)


def _side(text: str) -> Side:
    return Side(text, parse_cleaned(text))


_INFINITY = _side("\\infty")
_MINUS_INFINITY = _side("-\\infty")


def as_set(relation: Relation) -> Node | None:
    r"""Return the set that a relation states; None where it states none.

    `x \in S` states S, an inequality in one name states an interval or a union of two.
    """
    sides, signs = relation.sides, relation.signs
    if relation.is_membership:
        return sides[1].node
    if signs == ("\\ne",) and sides[0].is_name:
        below = _interval(_MINUS_INFINITY, False, sides[1], False)
        above = _interval(sides[1], False, _INFINITY, False)
        return Union(f"ne{sides[1].key}", (below, above))
    if not FLIPPED.keys() >= set(signs):
        return None
    if len(signs) == 1:
        absolute = _ABSOLUTE.fullmatch(sides[0].text)
        if absolute:
            return _band(signs[0], sides[1], absolute)
        if sides[0].is_name:
            return _ray(signs[0], sides[1])
        if sides[1].is_name:
            return _ray(FLIPPED[signs[0]], sides[0])
    if len(signs) == 2 and sides[1].is_name:
        if set(signs) <= {"<", "\\le"}:
            return _interval(sides[0], signs[0] == "\\le", sides[2], signs[1] == "\\le")
        if set(signs) <= {">", "\\ge"}:
            return _interval(sides[2], signs[1] == "\\ge", sides[0], signs[0] == "\\ge")
    return None


def _band(sign: str, bound: Side, absolute: re.Match[str]) -> Seq | Union:
    """Return (-2, 2) for |x| < 2, what lies outside for |x| > 2, (1, 5) for |x - 3| < 2."""
    closed = sign in ("\\le", "\\ge")
    centre = absolute["centre"] or ""
    if absolute["sign"] == "+":
        centre = f"-{centre}"
    low = _side(f"{centre}-({bound.text})")
    high = _side(f"{centre}+({bound.text})") if centre else bound
    middle, radius = numbers.read(centre), numbers.read(bound.text)
    if middle and radius:
        low, high = (_side(str(middle.value + r)) for r in (-radius.value, radius.value))
    if sign in ("<", "\\le"):
        return _interval(low, closed, high, closed)
    below = _interval(_MINUS_INFINITY, False, low, closed)
    above = _interval(high, closed, _INFINITY, False)
    return Union(f"outside{low.key},{high.key}", (below, above))


def _ray(sign: str, bound: Side) -> Seq:
    if sign in (">", "\\ge"):
        return _interval(bound, sign == "\\ge", _INFINITY, False)
    return _interval(_MINUS_INFINITY, False, bound, sign == "\\le")


def _interval(low: Side, closed_low: bool, high: Side, closed_high: bool) -> Seq:
    brackets = ("[" if closed_low else "(") + ("]" if closed_high else ")")
    key = f"{brackets[0]}{low.key},{high.key}{brackets[1]}"
    return Seq(key, brackets, (low.node, high.node))
