"""Find the values and sets that equations and inequalities state.

Two inequalities are compared here where the algebra or their spelling decides; equal.py compares
what two relations state.
"""

from __future__ import annotations

import re
from dataclasses import replace

from custom_components.verifier.compare import expressions
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read.intervals import as_set
from custom_components.verifier.read.names import is_name
from custom_components.verifier.read.nodes import FLIPPED, Expr, Node, Num, Relation, Seq, Side

# --- what a relation states --------------------------------------------------------------------


def stated_values(relation: Relation, other: Node, strict: bool = False) -> list[Node]:
    """Return what a relation states, for comparison with a node that is not a relation.

    Args:
        relation: Relation to read.
        other: Node to compare with; a rounded value counts only where it is a decimal.
        strict: Whether only a name on the left states a value. Set it for a gold: `2x + z = 1` is
            not 1.

    Returns:
        Nodes, any of which may be the answer; empty where the relation states no value.
    """
    if relation.is_equation:
        return _equation_values(relation, other, strict)
    if relation.is_membership and not relation.sides[0].is_name:
        return []
    stated_set = as_set(relation)
    return [] if stated_set is None else [stated_set]


def _equation_values(relation: Relation, other: Node, strict: bool) -> list[Node]:
    """Return what `x = 3`, `a = b = 5`, `1/3 \\approx 0.33` end in, if their parts agree."""
    sides, signs = relation.sides, relation.signs
    exact = sides[: signs.index("\\approx") + 1] if "\\approx" in signs else sides
    rounded = sides[-1] if len(exact) < len(sides) else None
    named = sides[0].is_name or (not strict and len(exact) > 1 and _states_value(exact))
    if len(exact) == 1 and named:  # x \approx 11
        return [sides[-1].node]
    values = []
    computed = exact[1:] if named else exact
    states_value = named or len(exact) == 1 or not any(side.letters for side in exact)
    if states_value and _consistent(computed):
        values.append(exact[-1].node)
    wants_decimal = isinstance(other, Num) and other.number.places
    if rounded and wants_decimal and _close(exact[-1], rounded):
        values.append(rounded.node)
    if sides[0].key.startswith("("):  # (x, y) = (1, 2) is a point, no interval
        values = [replace(v, name=sides[0].key) if isinstance(v, Seq) else v for v in values]
    return values


def _states_value(sides: tuple[Side, ...]) -> bool:
    """Return whether `a + b = 7` or `(x+y)^2 = 81` states a value, not an equation to solve."""
    left, value = sides[0], sides[-1].node
    if not left.letters or not isinstance(value, (Num, Expr)):
        return False
    if isinstance(value, Num) and value.number.value == 0:
        return False
    return len(left.letters) >= 2 or re.search(r"[\d^]", left.text) is None


def _consistent(sides: tuple[Side, ...]) -> bool:
    """Return whether all constant sides are equal: `x = 1 = 2` lists candidates."""
    constants = [side.text for side in sides if not side.letters]
    try:
        return all(expressions.equal_expressions(constants[-1], text) for text in constants[:-1])
    except (Unreadable, TooComplex):
        return True


def _close(exact: Side, rounded: Side) -> bool:
    """Return whether a rounded value is within 5 % of the exact one."""
    try:
        a = expressions.approximate(exact.text, "answer")
        b = expressions.approximate(rounded.text, "answer")
    except (Unreadable, TooComplex):
        return False
    return a is not None and b is not None and abs(a - b) <= abs(a) / 20


def has_no_variables(equation: Relation) -> bool:
    """Return whether an equation is between constants: \\frac{2}{3} \\approx 0.67."""
    return equation.is_equation and not any(side.letters for side in equation.sides)


# --- two inequalities --------------------------------------------------------------------------


def equal_inequalities(gold: Relation, answer: Relation) -> bool:
    """Return whether two relations of one sign are multiples of each other, read either way."""
    sign, other = gold.signs[0], answer.signs[0]
    if sign == other:
        return expressions.proportional(gold.texts, answer.texts, directed=sign in FLIPPED)
    if FLIPPED.get(sign) == other:
        return expressions.proportional(gold.texts, answer.texts[::-1], directed=True)
    return False


def equal_chains(gold: Relation, answer: Relation) -> bool:
    """Return whether f(2) < f(1) < f(4) is spelled the same, read from the left or the right."""
    goal = [side.key for side in gold.sides]
    spelled = [side.key for side in answer.sides]
    if (spelled, answer.signs) == (goal, gold.signs):
        return True
    flipped = tuple(FLIPPED.get(sign) for sign in reversed(answer.signs))
    return (spelled[::-1], flipped) == (goal, gold.signs)


# --- inequalities as sets ----------------------------------------------------------------------


def variable(relation: Relation) -> str | None:
    """Return the compact name that an inequality is about; None where there is none."""
    sides = relation.sides[1:2] if len(relation.sides) == 3 else relation.sides
    return next((side.key.strip("|") for side in sides if is_name(side.text.strip("| "))), None)
