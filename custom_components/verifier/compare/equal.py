"""When two answers are the same. `equal(gold, answer)` compares trees (docs/VERIFIER.md).

Raises Unreadable or TooComplex with `.side` where an expression cannot be read, and Unevaluated
where the answer is only the computation that leads to the gold.
"""

from __future__ import annotations

from custom_components.verifier.compare import expressions, relations
from custom_components.verifier.compare.scalars import equal_values, is_sentence
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read import numbers
from custom_components.verifier.read.nodes import Expr, Matrix, Node, Num, Relation, Seq, Union
from custom_components.verifier.read.parse import parse_cleaned, parse_list


def equal(gold: Node, answer: Node) -> bool:
    """Whether `answer` is the same answer as `gold`."""
    gold, answer = _unwrap(gold), _unwrap(answer)
    if gold.key == answer.key:
        return True
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _equal_relations(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(gold, answer)
    if isinstance(gold, Seq) or isinstance(answer, Seq):
        return _equal_sequences(gold, answer)
    if isinstance(gold, Union) and isinstance(answer, Union):
        return _equal_in_some_order(gold.items, answer.items)
    if isinstance(gold, Union) or isinstance(answer, Union):
        return False
    return equal_values(gold, answer)


def _unwrap(node: Node) -> Node:
    while isinstance(node, Seq) and len(node.items) == 1:
        node = node.items[0]
    return node


# --- several values ----------------------------------------------------------------------------


def _equal_sequences(gold: Node, answer: Node) -> bool:
    gold_list, answer_list = _as_sequence(gold, answer), _as_sequence(answer, gold)
    if gold_list is None or answer_list is None:
        return _equal_other_reading(gold, answer)
    gold, answer = _as_interval(gold_list, answer_list), _as_interval(answer_list, gold_list)
    if gold.is_tuple or answer.is_tuple:
        return _equal_tuples(gold, answer)
    if "{}" in (gold.brackets, answer.brackets):
        return _equal_in_some_order(
            _distinct(gold.items, "gold"), _distinct(answer.items, "answer")
        )
    return _equal_in_some_order(gold.items, answer.items)


def _as_sequence(node: Node, other: Node) -> Seq | None:
    """The node as a sequence; `1,234` is two values where the other side is a list."""
    if isinstance(node, Seq):
        return node
    if isinstance(node, Num) and "," in node.key and isinstance(other, Seq):
        return parse_list(node.key)
    return None


def _equal_other_reading(gold: Node, answer: Node) -> bool:
    """A list against a number with a decimal comma, or against a union of intervals."""
    sequence, other = (gold, answer) if isinstance(gold, Seq) else (answer, gold)
    if isinstance(other, Num) and sequence.brackets == "":
        value = numbers.read_decimal_comma(sequence.key)
        return value is not None and value.value == other.number.value
    joined = relations.joined(sequence) if isinstance(other, Union) else None
    if joined is None:
        return False
    return equal(joined, other) if sequence is gold else equal(other, joined)


def _as_interval(node: Seq, other: Seq) -> Seq:
    """`x > 1 and x < 3` as the interval that it is, where the other side is one."""
    if other.is_tuple and all(isinstance(item, Relation) for item in node.items):
        interval = relations.joined(node)
        if isinstance(interval, Seq):
            return interval
    return node


def _equal_tuples(gold: Seq, answer: Seq) -> bool:
    """In order. The brackets of two values must agree: they may be an interval."""
    if len(gold.items) != len(answer.items):
        return False
    brackets = {seq.brackets if seq.is_tuple else "()" for seq in (gold, answer)}
    if len(brackets) > 1 and (len(gold.items) == 2 or brackets != {"()", "[]"}):
        return False
    return all(equal(g, a) for g, a in zip(gold.items, answer.items, strict=True))


def _equal_in_some_order(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for g in gold:
        position = next((i for i, a in enumerate(left) if equal(g, a)), None)
        if position is None:
            return False
        del left[position]
    return True


def _distinct(items: tuple[Node, ...], side: str) -> tuple[Node, ...]:
    kept: list[Node] = []
    try:
        for item in items:
            if not any(equal(item, other) for other in kept):
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
        return all(equal(g, a) for g, a in pairs)
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    if isinstance(other, Seq) and other.brackets in ("()", "[]"):  # a vector
        cells = _cells(matrix)
        if max(map(len, matrix.rows)) > 1 < len(matrix.rows) or len(cells) != len(other.items):
            return False
        pairs = zip(cells, other.items, strict=True)
        return all(equal(c, o) if matrix is gold else equal(o, c) for c, o in pairs)
    if isinstance(other, Expr):
        return expressions.equal(*(n.key if n is matrix else n.tex for n in (gold, answer)))
    return False


def _cells(matrix: Matrix) -> list[Node]:
    return [cell for row in matrix.rows for cell in row]


# --- relations ---------------------------------------------------------------------------------


def _equal_relations(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if relations.same(gold, answer, equal):
            return True
        stated = relations.values(gold, answer, strict=True) if relations.is_value(gold) else []
        return any(equal(value, answer) for value in stated)
    if isinstance(answer, Relation):
        return any(equal(gold, value) for value in relations.values(answer, gold))
    return any(equal(value, answer) for value in relations.values(gold, answer, strict=True))


def exercise(node: Node) -> None:
    """Reads and evaluates every expression of a gold, as a comparison would."""
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
            if not relations.is_name(side):
                exercise(parse_cleaned(side))
