"""Equations and inequalities: what value or set they state, and when two state the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from custom_components.verifier.compare import expressions
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read.latex import compact
from custom_components.verifier.read.nodes import Expr, Node, Num, Relation, Seq, Union
from custom_components.verifier.read.parse import parse_cleaned

_EQUALITIES = {"=", "\\approx", "\\equiv", "\\sim"}
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_INFINITY = "\\infty"


# --- names -------------------------------------------------------------------------------------

_NOT_IN_NAMES = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|frac|sqrt|cdot|times|div|int|sum|pi)(?![a-zA-Z])"
)
_NAME_PARTS = re.compile(r"\\[a-zA-Z]+|_\{[^{}]*\}|_.|\^\{-1\}|\^\{\\[a-z]+\}|'|\([^()]*\)|[\s{}.]")
_GREEK = re.compile(r"\\(alpha|beta|gamma|delta|theta|lambda|mu|phi|omega)(?![a-z])")
_FUNCTION = re.compile(r"y|[a-zA-Z]\([a-zA-Z](?:,[a-zA-Z])*\)")


def is_name(side: str) -> bool:
    """Whether a side of a relation only names something: x, f(2), S_{10}, AB, \\angle A, (x, y)."""
    side = side.strip()
    if not side or side[0] in "0123456789.+-" or _NOT_IN_NAMES.search(side):
        return False
    if re.fullmatch(r"\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)|\|[A-Z]{2}\|", side):
        return True
    if side[0] == "(":
        return False
    return re.fullmatch(r"[A-Za-z]*", _NAME_PARTS.sub("", side)) is not None


def _letters(side: str) -> set[str]:
    """The variables in a side: Latin and Greek letters, not commands."""
    greek = {"\\" + name for name in _GREEK.findall(side)}
    return greek | set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", " ", side)))


def is_value(relation: Relation) -> bool:
    """Whether a relation has no variables: \\frac{2}{3} \\approx 0.67."""
    return set(relation.signs) <= _EQUALITIES and not any(map(_letters, relation.sides))


def _states_value(sides: tuple[str, ...]) -> bool:
    """Whether `a + b = 7` or `(x+y)^2 = 81` states a value and is no equation to solve."""
    left, value = sides[0], parse_cleaned(sides[-1])
    letters = _letters(left)
    if not letters or not isinstance(value, (Num, Expr)):
        return False
    if isinstance(value, Num) and value.number.value == 0:
        return False
    return len(letters) >= 2 or re.search(r"[\d^]", left) is None


# --- what a relation states --------------------------------------------------------------------


def values(relation: Relation, other: Node, strict: bool = False) -> list[Node]:
    """What a relation states, to be compared with a node that is none. May be empty.

    `strict`: only a name on the left states a value (for a gold: `2x + z = 1` is no 1).
    """
    if set(relation.signs) <= _EQUALITIES:
        return _equation_values(relation, other, strict)
    if relation.signs == ("\\in",):
        return [parse_cleaned(relation.sides[1])] if is_name(relation.sides[0]) else []
    as_interval = as_set(relation)
    return [] if as_interval is None else [as_interval]


def _equation_values(relation: Relation, other: Node, strict: bool) -> list[Node]:
    """What `x = 3`, `a = b = 5`, `1/3 \\approx 0.33` end in, if their parts do not contradict."""
    sides, signs = relation.sides, relation.signs
    exact = signs.index("\\approx") + 1 if "\\approx" in signs else len(sides)
    stated = sides[:exact]
    named = is_name(sides[0]) or (not strict and exact > 1 and _states_value(stated))
    if exact == 1 and named:  # x \approx 11
        return [parse_cleaned(sides[-1])]
    found = []
    computed = stated[1:] if named else stated
    if (exact == 1 or named or not any(map(_letters, stated))) and _consistent(computed):
        found.append(parse_cleaned(stated[-1]))
    rounded = exact < len(sides) and isinstance(other, Num) and other.number.places
    if rounded and _close(stated[-1], sides[-1]):
        found.append(parse_cleaned(sides[-1]))
    return found


def _consistent(sides: tuple[str, ...]) -> bool:
    """No two sides are different numbers: `x = 1 = 2` lists candidates."""
    constants = [side for side in sides if not _letters(side)]
    try:
        return all(expressions.equal(constants[-1], side) for side in constants[:-1])
    except (Unreadable, TooComplex):
        return True


def _close(exact: str, rounded: str) -> bool:
    try:
        a, b = expressions.approximate(exact, "answer"), expressions.approximate(rounded, "answer")
    except (Unreadable, TooComplex):
        return False
    return a is not None and b is not None and abs(a - b) <= abs(a) / 20


# --- when two relations state the same ---------------------------------------------------------


def same(gold: Relation, answer: Relation, equal: Callable[[Node, Node], bool]) -> bool:
    """Whether two relations state the same; `equal` compares what they state."""
    if gold.signs == answer.signs == ("\\in",):
        same_name = compact(gold.sides[0]) == compact(answer.sides[0])
        return same_name and equal(parse_cleaned(gold.sides[1]), parse_cleaned(answer.sides[1]))
    if set(gold.signs + answer.signs) <= _EQUALITIES:
        return _same_equations(gold, answer, equal)
    gold_set, answer_set = _any_set(gold), _any_set(answer)
    if gold_set is not None and answer_set is not None:
        return _variable(gold) == _variable(answer) and equal(gold_set, answer_set)
    if len(gold.signs) == len(answer.signs) == 1:
        return _same_inequalities(gold, answer)
    return _same_chain(gold, answer)


def _same_equations(gold: Relation, answer: Relation, equal: Callable[[Node, Node], bool]) -> bool:
    gold_name, answer_name = compact(gold.sides[0]), compact(answer.sides[0])
    if is_name(gold.sides[0]) and is_name(answer.sides[0]):
        functions = _FUNCTION.fullmatch(gold_name) and _FUNCTION.fullmatch(answer_name)
        if gold_name == answer_name or functions:
            stated = values(answer, gold)
            if any(equal(goal, value) for goal in values(gold, answer) for value in stated):
                return True
    if len(gold.sides) != 2 or len(answer.sides) != 2:
        return False
    if is_name(gold.sides[0]) and not _letters(gold.sides[1]):  # x = 2
        if is_name(answer.sides[1]) and not _letters(answer.sides[0]):  # 2 = x
            turned = parse_cleaned(answer.sides[0])
            return gold_name == compact(answer.sides[1]) and equal(
                parse_cleaned(gold.sides[1]), turned
            )
        return False  # 2x = 4 is the question
    return expressions.proportional(gold.sides, answer.sides, directed=False)


def _same_inequalities(gold: Relation, answer: Relation) -> bool:
    sign, other = gold.signs[0], answer.signs[0]
    if sign == other:
        return expressions.proportional(gold.sides, answer.sides, directed=sign in _FLIPPED)
    if _FLIPPED.get(sign) == other:
        return expressions.proportional(gold.sides, answer.sides[::-1], directed=True)
    return False


def _same_chain(gold: Relation, answer: Relation) -> bool:
    """f(2) < f(1) < f(4), also read from the right."""
    goal = [compact(side) for side in gold.sides]
    spelled = [compact(side) for side in answer.sides]
    if (spelled, answer.signs) == (goal, gold.signs):
        return True
    flipped = tuple(_FLIPPED.get(sign) for sign in reversed(answer.signs))
    return (spelled[::-1], flipped) == (goal, gold.signs)


def _variable(relation: Relation) -> str | None:
    sides = relation.sides[1:2] if len(relation.sides) == 3 else relation.sides
    return next((compact(side).strip("|") for side in sides if is_name(side.strip("| "))), None)


# --- inequalities as sets ----------------------------------------------------------------------


def _any_set(relation: Relation) -> Node | None:
    if relation.signs == ("\\in",):
        return parse_cleaned(relation.sides[1])
    return as_set(relation)


def as_set(relation: Relation) -> Seq | Union | None:
    """The interval (or union) of an inequality in one name, None when it is not one."""
    sides, signs = relation.sides, relation.signs
    if signs == ("\\ne",) and is_name(sides[0]):
        below = _interval("-\\infty", False, sides[1], False)
        above = _interval(sides[1], False, _INFINITY, False)
        return Union(f"ne{compact(sides[1])}", (below, above))
    if not set(signs) <= set(_FLIPPED):
        return None
    if len(signs) == 1 and _ABSOLUTE.fullmatch(sides[0]):
        return _band(signs[0], sides[1])
    if len(signs) == 1 and is_name(sides[0]):
        return _ray(signs[0], sides[1])
    if len(signs) == 1 and is_name(sides[1]):
        return _ray(_FLIPPED[signs[0]], sides[0])
    if len(signs) == 2 and is_name(sides[1]):
        if set(signs) <= {"<", "\\le"}:
            return _interval(sides[0], signs[0] == "\\le", sides[2], signs[1] == "\\le")
        if set(signs) <= {">", "\\ge"}:
            return _interval(sides[2], signs[1] == "\\ge", sides[0], signs[0] == "\\ge")
    return None


_ABSOLUTE = re.compile(r"\|\s*[a-z]\s*\|")


def _band(sign: str, bound: str) -> Seq | Union:
    """|x| < 2 is (-2, 2), |x| > 2 is what lies outside."""
    closed = sign in ("\\le", "\\ge")
    if sign in ("<", "\\le"):
        return _interval(f"-({bound})", closed, bound, closed)
    below = _interval("-\\infty", False, f"-({bound})", closed)
    above = _interval(bound, closed, _INFINITY, False)
    return Union(f"outside{compact(bound)}", (below, above))


def _interval(low: str, closed_low: bool, high: str, closed_high: bool) -> Seq:
    brackets = ("[" if closed_low else "(") + ("]" if closed_high else ")")
    key = f"{brackets[0]}{compact(low)},{compact(high)}{brackets[1]}"
    return Seq(key, brackets, (parse_cleaned(low), parse_cleaned(high)))


def _ray(sign: str, bound: str) -> Seq:
    if sign in (">", "\\ge"):
        return _interval(bound, sign == "\\ge", _INFINITY, False)
    return _interval("-\\infty", False, bound, sign == "\\le")


def joined(sequence: Seq) -> Seq | Union | None:
    """`x < 1 or x > 3` as a union, `x > 1 and x < 3` as an interval.

    Two rays that overlap are meant as what they have in common, two that do not as either.
    None when an item is no inequality and no interval.
    """
    items: list[Seq] = []
    for item in sequence.items:
        as_item = _any_set(item) if isinstance(item, Relation) else item
        if isinstance(as_item, Union):
            items.extend(as_item.items)
        elif isinstance(as_item, Seq) and as_item.is_tuple and len(as_item.items) == 2:
            items.append(as_item)
        else:
            return None
    if len(items) == 2:
        for upward, downward in (items, items[::-1]):
            if upward.items[1].key == _INFINITY and downward.items[0].key == "-\\infty":
                low, high = _bound(upward.items[0]), _bound(downward.items[1])
                if low is not None and high is not None and low < high:
                    brackets = upward.brackets[0] + downward.brackets[1]
                    return Seq(sequence.key, brackets, (upward.items[0], downward.items[1]))
    return Union(sequence.key, tuple(items))


def _bound(node: Node) -> Fraction | None:
    if isinstance(node, Num):
        return node.number.value
    try:
        return expressions.approximate(node.tex, "answer") if isinstance(node, Expr) else None
    except (Unreadable, TooComplex):
        return None
