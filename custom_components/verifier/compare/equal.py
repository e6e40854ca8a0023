"""Decide whether two answers are the same by comparing their trees (docs/VERIFIER.md).

`equal_nodes` compares anything, scalars.py single values, expressions.py what needs the computer
algebra. Imports go in that order.
"""

from __future__ import annotations

import re
from fractions import Fraction

from custom_components.verifier.compare import expressions, relations, sets
from custom_components.verifier.compare.scalars import equal_scalars, is_sentence
from custom_components.verifier.limits import TooComplex, Unreadable
from custom_components.verifier.read import numbers
from custom_components.verifier.read.intervals import as_set
from custom_components.verifier.read.nodes import (
    Difference,
    Domain,
    Expr,
    Intersection,
    Matrix,
    Node,
    Num,
    Option,
    Relation,
    Seq,
    Union,
    Word,
)
from custom_components.verifier.read.parse import parse_cleaned, parse_list

_SETS = (Union, Intersection, Difference, Domain)


def equal_nodes(gold: Node, answer: Node) -> bool:
    """Return whether `answer` is the same answer as `gold`.

    Raises:
        Unreadable, TooComplex: when an expression cannot be compared; `side` tells which one.
        Unevaluated: when the answer is only the computation that leads to the gold.
    """
    gold, answer = _unwrap(gold), _unwrap(answer)
    if gold.key == answer.key:
        return True
    if isinstance(gold, Option) or isinstance(answer, Option):
        return _equal_options(gold, answer)
    if isinstance(gold, Relation):
        return _equal_relations(gold, answer)
    if isinstance(answer, Relation):
        return any(equal_nodes(gold, value) for value in relations.stated_values(answer, gold))
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(gold, answer)
    if isinstance(gold, (Seq, *_SETS)) or isinstance(answer, (Seq, *_SETS)):
        return _equal_collections(gold, answer)
    return equal_scalars(gold, answer)


def _equal_options(gold: Node, answer: Node) -> bool:
    """Compare options by their letters and contents, or with a bare letter or content."""
    if isinstance(gold, Option):
        if isinstance(answer, Option):
            return gold.letter == answer.letter and equal_nodes(gold.content, answer.content)
        if _is_letter(answer, gold.letter):
            return gold.sign != ":"
        return equal_nodes(gold.content, answer)
    assert isinstance(answer, Option)
    return _is_letter(gold, answer.letter) or equal_nodes(gold, answer.content)


def _is_letter(node: Node, letter: str) -> bool:
    return isinstance(node, Word) and node.words.isalpha() and node.words.upper() == letter


def exercise(node: Node) -> None:
    """Read and evaluate every expression of a gold, as a comparison would.

    Raises:
        Unreadable, TooComplex: when an expression cannot be compared.
    """
    if isinstance(node, Expr):
        if not is_sentence(node.tex):
            expressions.exercise(node.tex)
    elif isinstance(node, (Seq, Union, Intersection)):
        for item in node.items:
            exercise(item)
    elif isinstance(node, Difference):
        exercise(node.whole)
        exercise(node.removed)
    elif isinstance(node, Option):
        exercise(node.content)
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


def _equal_collections(gold: Node, answer: Node) -> bool:
    """Compare lists, tuples and sets with each other and with single values."""
    if isinstance(gold, Seq) and isinstance(answer, Seq):
        if _equal_sequences(gold, answer):
            return True
    elif isinstance(gold, Union) and isinstance(answer, Union):
        if _equal_in_some_order(gold.items, answer.items):
            return True
    elif isinstance(gold, Difference) and isinstance(answer, Difference):
        if equal_nodes(gold.whole, answer.whole):
            return equal_nodes(gold.removed, answer.removed)
    elif isinstance(gold, Domain) and isinstance(answer, Domain):
        return gold.letter == answer.letter
    elif not isinstance(gold, (Seq, *_SETS)) or not isinstance(answer, (Seq, *_SETS)):
        return _equal_one_and_many(gold, answer)
    return _equal_as_sets(gold, answer)


def _equal_as_sets(gold: Node, answer: Node) -> bool:
    """Compare as sets of real numbers, where at least one side can be nothing else."""
    if not _is_set(gold) and not _is_set(answer):
        return False
    return sets.equal_sets(gold, answer) is True


def _is_set(node: Node) -> bool:
    """Return whether a node is an interval, a union or a condition, not values or a point."""
    if not isinstance(node, Seq):
        return True
    if node.brackets in ("", "{}"):
        return any(isinstance(item, (Relation, *_SETS)) for item in node.items) or (
            node.brackets == "" and all(_is_interval(item) for item in node.items)
        )
    return node.brackets in ("[)", "(]", "[]") or _is_interval(node)


def _is_interval(node: Node) -> bool:
    return isinstance(node, Seq) and node.is_tuple and sets.is_interval(node)


def _equal_one_and_many(gold: Node, answer: Node) -> bool:
    """Compare a single value with several: `1,234`, `2,74`, `\\frac12 or 0.5`, `C(5,2)`."""
    single, several = (answer, gold) if isinstance(gold, (Seq, *_SETS)) else (gold, answer)
    if not isinstance(several, Seq):
        return False
    if isinstance(single, Num) and "," in single.key and several.brackets in ("", "{}"):
        as_list = parse_list(single.key)
        pair = (as_list, several) if single is gold else (several, as_list)
        if _equal_sequences(*pair):
            return True
    if several.name in ("C", "P") and len(several.items) == 2:
        counted = parse_cleaned(_counted(several))
        return equal_nodes(gold, counted) if single is gold else equal_nodes(counted, answer)
    if several is answer and several.brackets == "" and several.joint == "or":
        return all(equal_nodes(gold, item) for item in several.items)
    if _equal_decimals(gold, answer):
        return True
    vector = _as_vector(several)
    return bool(vector) and isinstance(single, Expr) and _equal_unit_vectors(single, vector, gold)


def _counted(seq: Seq) -> str:
    """Return C(5,2), or the number of permutations P(5,2), as an expression."""
    n, k = (item.key for item in seq.items)
    if seq.name == "C":
        return rf"\binom{{{n}}}{{{k}}}"
    return rf"\frac{{({n})!}}{{({n}-{k})!}}"


def _equal_unit_vectors(single: Expr, vector: list[Node], gold: Node) -> bool:
    r"""Compare 2\mathbf{i}-\mathbf{j} with (2,-1)."""
    if "\\vec{" not in single.tex or len(vector) not in (2, 3):
        return False
    texts = [item.key for item in vector if isinstance(item, (Num, Expr))]
    if len(texts) != len(vector):
        return False
    named = zip(texts, "ijk", strict=False)
    total = "+".join(rf"({text})\vec{{{name}}}" for text, name in named)
    pair = (single.tex, total) if single is gold else (total, single.tex)
    return expressions.equal_expressions(*pair)


def _equal_sequences(gold: Seq, answer: Seq) -> bool:
    if gold.is_tuple or answer.is_tuple:
        return _equal_tuples(gold, answer)
    if "{}" in (gold.brackets, answer.brackets):
        return _equal_in_some_order(
            _distinct(gold.items, "gold"), _distinct(answer.items, "answer")
        )
    if {gold.joint, answer.joint} == {"and", "or"} and any(map(_is_inequality, gold.items)):
        return False
    gold_names, answer_names = _names(gold), _names(answer)
    if bool(gold_names) != bool(answer_names):  # x=1, y=2 against 1, 2
        return _equal_in_order(gold.items, answer.items)
    return _equal_in_some_order(gold.items, answer.items)


def _is_inequality(node: Node) -> bool:
    return isinstance(node, Relation) and not node.is_equation and not node.is_membership


def _names(seq: Seq) -> list[str]:
    """Return the names in x=1, y=2, which must all be there and differ; empty otherwise."""
    names = []
    for item in seq.items:
        if not isinstance(item, Relation) or not item.is_equation or not item.sides[0].is_name:
            return []
        names.append(item.sides[0].key)
    return names if len(set(names)) == len(names) > 1 else []


def _equal_decimals(gold: Node, answer: Node) -> bool:
    """Compare a number with a list such as `2,74`, which may be a decimal with a comma."""
    gold_value, answer_value = _decimal_value(gold), _decimal_value(answer)
    return gold_value is not None and gold_value == answer_value


def _decimal_value(node: Node) -> Fraction | None:
    number = node.number if isinstance(node, Num) else None
    if isinstance(node, Seq) and node.brackets == "":
        number = numbers.read_decimal_comma(node.key)
    return None if number is None else number.value


def _equal_tuples(gold: Seq, answer: Seq) -> bool:
    """Compare in order; a tuple is no set, and a pair that may be an interval is no list.

    The brackets of two values must agree, because they may be an interval.
    """
    if len(gold.items) != len(answer.items) or "{}" in (gold.brackets, answer.brackets):
        return False
    if not (gold.is_tuple and answer.is_tuple):
        one, other = (gold, answer) if gold.is_tuple else (answer, gold)
        if len(one.items) == 2 and one.brackets != "()":
            return False
        if other.joint in ("or", "\\pm") or _is_interval(one) and not _names(other):
            return False
        if names := _names(other):  # y = 2, x = 1 is (1, 2)
            in_order = sorted(zip(names, other.items, strict=True), key=lambda pair: pair[0])
            by_name = tuple(item for _, item in in_order)
            pair = (one.items, by_name) if one is gold else (by_name, one.items)
            if _equal_in_order(*pair):
                return True
        return _equal_in_order(gold.items, answer.items)
    brackets = {gold.brackets, answer.brackets}
    if len(brackets) > 1 and (len(gold.items) == 2 or brackets != {"()", "[]"}):
        return False
    if gold.name and answer.name and gold.name != answer.name:
        return False
    return _equal_in_order(gold.items, answer.items)


def _equal_in_order(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    if len(gold) != len(answer):
        return False
    return all(equal_nodes(g, a) for g, a in zip(gold, answer, strict=True))


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
    gold, answer = _nested_as_matrix(gold), _nested_as_matrix(answer)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        pairs = zip(_cells(gold), _cells(answer), strict=True)
        return all(equal_nodes(g, a) for g, a in pairs)
    gold_vector, answer_vector = _as_vector(gold), _as_vector(answer)
    if isinstance(gold, Seq) or isinstance(answer, Seq):
        if gold_vector is None or answer_vector is None or len(gold_vector) != len(answer_vector):
            return False
        return all(equal_nodes(g, a) for g, a in zip(gold_vector, answer_vector, strict=True))
    if isinstance(gold, Expr) and answer_vector and "\\vec{" in gold.tex:
        return _equal_unit_vectors(gold, answer_vector, gold)
    if isinstance(answer, Expr) and gold_vector and "\\vec{" in answer.tex:
        return _equal_unit_vectors(answer, gold_vector, gold)
    gold_tex, answer_tex = _tex(gold), _tex(answer)
    if gold_tex is None or answer_tex is None:
        return False
    return expressions.equal_expressions(gold_tex, answer_tex)


def _nested_as_matrix(node: Node) -> Node:
    """Return [[1,2],[3,4]] as a matrix."""
    if not isinstance(node, Seq) or not node.is_tuple:
        return node
    rows = tuple(item.items for item in node.items if isinstance(item, Seq))
    if len(rows) < len(node.items) or len({len(row) for row in rows}) != 1:
        return node
    return Matrix(node.key, rows)


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
