"""Decide whether two answers are the same by comparing their trees (docs/VERIFIER.md).

`equal_nodes` compares anything, scalars.py single values, expressions.py what needs the computer
algebra. Imports go in that order.
"""

from __future__ import annotations

import re
from fractions import Fraction

from custom_components.verifier.compare import expressions, relations
from custom_components.verifier.compare.scalars import equal_scalars, is_sentence
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read import numbers
from custom_components.verifier.read.intervals import as_set
from custom_components.verifier.read.nodes import Expr, Matrix, Node, Num, Relation, Seq, Union
from custom_components.verifier.read.parse import parse_list


def equal_nodes(gold: Node, answer: Node) -> bool:
    """Return whether `answer` is the same answer as `gold`.

    Raises:
        Unreadable, TooComplex: when an expression cannot be compared; `side` tells which one.
        Unevaluated: when the answer is only the computation that leads to the gold.
    """
    gold, answer = _unwrap(gold), _unwrap(answer)
    if gold.key == answer.key:
        return True
    if isinstance(gold, Relation):
        return _equal_relations(gold, answer)
    if isinstance(answer, Relation):
        return any(equal_nodes(gold, value) for value in relations.stated_values(answer, gold))
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(gold, answer)
    if isinstance(gold, Seq) or isinstance(answer, Seq):
        return _equal_sequences(gold, answer)
    if isinstance(gold, Union) and isinstance(answer, Union):
        return _equal_in_some_order(gold.items, answer.items)
    if isinstance(gold, Union) or isinstance(answer, Union):
        return False
    return equal_scalars(gold, answer)


def exercise(node: Node) -> None:
    """Read and evaluate every expression of a gold, as a comparison would.

    Raises:
        Unreadable, TooComplex: when an expression cannot be compared.
    """
    if isinstance(node, Expr):
        if not is_sentence(node.tex):
            expressions.exercise(node.tex)
    elif isinstance(node, (Seq, Union)):
        for item in node.items:
            exercise(item)
    elif isinstance(node, Matrix):
        for cell in _cells(node):
            exercise(cell)
    elif isinstance(node, Relation):
        for side in node.sides:
            if not side.is_name:
                exercise(side.node)


def _unwrap(node: Node) -> Node:
    while isinstance(node, Seq) and len(node.items) == 1:
        node = node.items[0]
    return node


# --- several values ----------------------------------------------------------------------------


def _equal_sequences(gold: Node, answer: Node) -> bool:
    gold_list, answer_list = _as_sequence(gold, answer), _as_sequence(answer, gold)
    if gold_list is None or answer_list is None:
        return _equal_decimals(gold, answer) or _equal_unions(gold, answer)
    gold, answer = _as_interval(gold_list, answer_list), _as_interval(answer_list, gold_list)
    if gold.is_tuple or answer.is_tuple:
        return _equal_tuples(gold, answer)
    if "{}" in (gold.brackets, answer.brackets):
        return _equal_in_some_order(
            _distinct(gold.items, "gold"), _distinct(answer.items, "answer")
        )
    return _equal_in_some_order(gold.items, answer.items)


def _as_sequence(node: Node, other: Node) -> Seq | None:
    """Return the node as a sequence; `1,234` is two values where the other side is a list."""
    if isinstance(node, Seq):
        return node
    if isinstance(node, Num) and "," in node.key and isinstance(other, Seq):
        return parse_list(node.key)
    return None


def _equal_decimals(gold: Node, answer: Node) -> bool:
    """Compare a number with a list such as `2,74`, which may be a decimal with a comma."""
    gold_value, answer_value = _decimal_value(gold), _decimal_value(answer)
    return gold_value is not None and gold_value == answer_value


def _decimal_value(node: Node) -> Fraction | None:
    number = node.number if isinstance(node, Num) else None
    if isinstance(node, Seq) and node.brackets == "":
        number = numbers.read_decimal_comma(node.key)
    return None if number is None else number.value


def _equal_unions(gold: Node, answer: Node) -> bool:
    """Compare a union of intervals with a list of inequalities or intervals."""
    gold_union, answer_union = _as_union(gold), _as_union(answer)
    if gold_union is None or answer_union is None:
        return False
    return equal_nodes(gold_union, answer_union)


def _as_union(node: Node) -> Seq | Union | None:
    if isinstance(node, Seq):
        return relations.list_as_set(node)
    return node if isinstance(node, Union) else None


def _as_interval(node: Seq, other: Seq) -> Seq:
    """Return `x > 1 and x < 3` as the interval that it states, where the other side is one."""
    if other.is_tuple and all(isinstance(item, Relation) for item in node.items):
        interval = relations.list_as_set(node)
        if isinstance(interval, Seq):
            return interval
    return node


def _equal_tuples(gold: Seq, answer: Seq) -> bool:
    """Compare in order. The brackets of two values must agree, because they may be an interval."""
    if len(gold.items) != len(answer.items):
        return False
    brackets = {seq.brackets if seq.is_tuple else "()" for seq in (gold, answer)}
    if len(brackets) > 1 and (len(gold.items) == 2 or brackets != {"()", "[]"}):
        return False
    return all(equal_nodes(g, a) for g, a in zip(gold.items, answer.items, strict=True))


def _equal_in_some_order(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for g in gold:
        position = next((i for i, a in enumerate(left) if equal_nodes(g, a)), None)
        if position is None:
            return False
        del left[position]
    return True


def _distinct(items: tuple[Node, ...], side: str) -> tuple[Node, ...]:
    kept: list[Node] = []
    try:
        for item in items:
            if not any(equal_nodes(item, other) for other in kept):
                kept.append(item)
    except (Unreadable, TooComplex) as error:
        error.side = side
        raise
    return tuple(kept)


# --- matrices ----------------------------------------------------------------------------------


def _equal_matrices(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        pairs = zip(_cells(gold), _cells(answer), strict=True)
        return all(equal_nodes(g, a) for g, a in pairs)
    if isinstance(gold, Seq) or isinstance(answer, Seq):
        gold_vector, answer_vector = _as_vector(gold), _as_vector(answer)
        if gold_vector is None or answer_vector is None or len(gold_vector) != len(answer_vector):
            return False
        return all(equal_nodes(g, a) for g, a in zip(gold_vector, answer_vector, strict=True))
    gold_tex, answer_tex = _tex(gold), _tex(answer)
    if gold_tex is None or answer_tex is None:
        return False
    return expressions.equal_expressions(gold_tex, answer_tex)


def _cells(matrix: Matrix) -> list[Node]:
    return [cell for row in matrix.rows for cell in row]


def _as_vector(node: Node) -> list[Node] | None:
    """Return the entries of a tuple, or of a matrix of one row or one column."""
    if isinstance(node, Matrix) and (len(node.rows) == 1 or max(map(len, node.rows)) == 1):
        return _cells(node)
    if isinstance(node, Seq) and node.brackets in ("()", "[]"):
        return list(node.items)
    return None


def _tex(node: Node) -> str | None:
    if isinstance(node, Matrix):
        return node.key
    return node.tex if isinstance(node, Expr) else None


# --- relations ---------------------------------------------------------------------------------


def _equal_relations(gold: Relation, answer: Node) -> bool:
    if isinstance(answer, Relation):
        if _equal_statements(gold, answer):
            return True
        if not relations.has_no_variables(gold):
            return False
    values = relations.stated_values(gold, answer, strict=True)
    return any(equal_nodes(value, answer) for value in values)


def _equal_statements(gold: Relation, answer: Relation) -> bool:
    if gold.is_membership and answer.is_membership:
        same_name = gold.sides[0].key == answer.sides[0].key
        return same_name and equal_nodes(gold.sides[1].node, answer.sides[1].node)
    if gold.is_equation and answer.is_equation:
        return _equal_equations(gold, answer)
    gold_set, answer_set = as_set(gold), as_set(answer)
    if gold_set is not None and answer_set is not None:
        same_variable = relations.variable(gold) == relations.variable(answer)
        return same_variable and equal_nodes(gold_set, answer_set)
    if len(gold.signs) == len(answer.signs) == 1:
        return relations.equal_inequalities(gold, answer)
    return relations.equal_chains(gold, answer)


_FUNCTION = re.compile(r"y|[a-zA-Z]\([a-zA-Z](?:,[a-zA-Z])*\)")


def _equal_equations(gold: Relation, answer: Relation) -> bool:
    gold_left, answer_left = gold.sides[0], answer.sides[0]
    if gold_left.is_name and answer_left.is_name:
        functions = _FUNCTION.fullmatch(gold_left.key) and _FUNCTION.fullmatch(answer_left.key)
        if gold_left.key == answer_left.key or functions:
            stated = relations.stated_values(answer, gold)
            goals = relations.stated_values(gold, answer)
            if any(equal_nodes(goal, value) for goal in goals for value in stated):
                return True
    if len(gold.sides) != 2 or len(answer.sides) != 2:
        return False
    gold_right, answer_right = gold.sides[1], answer.sides[1]
    if gold_left.is_name and not gold_right.letters:  # x = 2
        if answer_right.is_name and not answer_left.letters:  # 2 = x
            same_name = gold_left.key == answer_right.key
            return same_name and equal_nodes(gold_right.node, answer_left.node)
        return False  # 2x = 4 is the question
    return expressions.proportional(gold.texts, answer.texts, directed=False)
