"""Compare sets of real numbers: unions of intervals and points, with or without the integers alone.

A set is brought into one form, so that [0,2] and [1,3] together are [0,3]. The ends are compared
as numbers of 25 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from custom_components.verifier.compare import expressions
from custom_components.verifier.limits import MAX_ITEMS, TooComplex, Unreadable
from custom_components.verifier.read.intervals import as_set
from custom_components.verifier.read.nodes import (
    Difference,
    Domain,
    Expr,
    Intersection,
    Node,
    Num,
    Relation,
    Seq,
    Union,
)

_PRECISION = 10**25
Bound = Fraction | float


@dataclass(frozen=True)
class Piece:
    """Hold an interval; a point is a closed interval from itself to itself."""

    low: Bound
    low_closed: bool
    high: Bound
    high_closed: bool

    @property
    def is_empty(self) -> bool:
        """Return whether there is no number in the interval."""
        return self.low > self.high or (
            self.low == self.high and not (self.low_closed and self.high_closed)
        )


@dataclass(frozen=True)
class Region:
    """Hold a set of real numbers.

    Attributes:
        pieces: Intervals in order; they neither overlap nor touch.
        integers: Whether only the integers in the pieces are meant.
    """

    pieces: tuple[Piece, ...]
    integers: bool = False


_LINE = Region((Piece(-math.inf, False, math.inf, False),))
_DOMAINS = {
    "Z": Region(_LINE.pieces, True),
    "N": Region((Piece(Fraction(1), True, math.inf, False),), True),
    "N0": Region((Piece(Fraction(0), True, math.inf, False),), True),
    "-N": Region((Piece(-math.inf, False, Fraction(-1), True),), True),
}


def equal_sets(gold: Node, answer: Node) -> bool | None:
    """Return whether two nodes are the same set of real numbers; None where one is not known."""
    gold_region = region(gold)
    if gold_region is None:
        return None
    answer_region = region(answer)
    return None if answer_region is None else gold_region == answer_region


def region(node: Node) -> Region | None:
    """Return the set of real numbers that a node states; None for another node."""
    if isinstance(node, Relation):
        if node.signs == ("=",) and node.sides[0].is_name:
            return _points((node.sides[1].node,))
        stated = as_set(node)
        return None if stated is None else region(stated)
    if isinstance(node, Domain):
        return _DOMAINS.get(node.letter)
    if isinstance(node, Seq):
        return _sequence(node)
    if isinstance(node, Union):
        return _combined([region(item) for item in node.items], united)
    if isinstance(node, Intersection):
        return _combined([region(item) for item in node.items], _common)
    if isinstance(node, Difference):
        whole, removed = region(node.whole), region(node.removed)
        if whole is None or removed is None or removed.integers:
            return None
        return _common(whole, _complement(removed))
    return None


def _combined(
    regions: list[Region | None], join: Callable[[Region, Region], Region | None]
) -> Region | None:
    result = regions[0]
    for other in regions[1:]:
        if result is None or other is None:
            return None
        result = join(result, other)
    return result


def _sequence(node: Seq) -> Region | None:
    if node.brackets == "{}":
        return _points(node.items)
    if node.brackets:
        return _interval(node)
    relations = sum(isinstance(item, Relation) for item in node.items)
    if not relations or not all(isinstance(item, (Relation, Domain)) for item in node.items):
        if relations:
            return None
        is_set = (Seq, Union, Intersection, Difference, Domain)
        if not any(isinstance(item, is_set) for item in node.items):
            return _points(node.items)
        return _combined([region(item) for item in node.items], united)
    return _conditions(node)


def _conditions(node: Seq) -> Region | None:
    """Return what inequalities joined by "or", "and" or commas state.

    Rays between commas that have nothing in common are alternatives.
    """
    regions = [region(item) for item in node.items]
    if None in regions or len({_name(item) for item in node.items} - {""}) > 1:
        return None
    if node.joint == "or":
        return _combined(regions, united)
    common = _combined(regions, _common)
    if common is not None and not common.pieces and node.joint == ",":
        return _combined(regions, united)
    return common


def _name(item: Node) -> str:
    sides = item.sides if isinstance(item, Relation) else ()
    return next((side.key.strip("|") for side in sides if side.is_name), "")


def _points(items: tuple[Node, ...]) -> Region | None:
    bounds = [_bound(item) for item in items]
    finite = [bound for bound in bounds if bound is not None and abs(bound) != math.inf]
    if len(finite) < len(bounds):
        return None
    return _normal([Piece(bound, True, bound, True) for bound in finite], False)


def _interval(node: Seq) -> Region | None:
    if len(node.items) != 2 or node.name:
        return None
    low, high = _bound(node.items[0]), _bound(node.items[1])
    if low is None or high is None or low > high:
        return None
    opening, closing = node.brackets
    piece = Piece(low, opening == "[", high, closing == "]")
    return None if piece.is_empty else _normal([piece], False)


def is_interval(node: Seq) -> bool:
    """Return whether a pair in round brackets may be an interval: its ends are in order."""
    return _interval(node) is not None


def _bound(node: Node) -> Bound | None:
    if isinstance(node, Num):
        if node.percent or node.unit.powers:
            return None
        value: Fraction | None = node.number.value
    elif isinstance(node, Expr):
        if node.key.lstrip("+-") == "\\infty":
            return -math.inf if node.key.startswith("-") else math.inf
        try:
            value = expressions.approximate(node.tex, "answer")
        except (Unreadable, TooComplex):
            return None
    else:
        return None
    return None if value is None else Fraction(round(value * _PRECISION), _PRECISION)


def united(one: Region, other: Region) -> Region | None:
    """Return the union of two regions; None where only one is of integers."""
    if one.integers != other.integers:
        return None
    return _normal([*one.pieces, *other.pieces], one.integers)


def _common(one: Region, other: Region) -> Region:
    pieces = []
    for a in one.pieces:
        for b in other.pieces:
            low, low_closed = max((a.low, not a.low_closed), (b.low, not b.low_closed))
            high, high_closed = min((a.high, a.high_closed), (b.high, b.high_closed))
            pieces.append(Piece(low, not low_closed, high, high_closed))
    return _normal(pieces, one.integers or other.integers)


def _complement(removed: Region) -> Region:
    pieces, low, closed = [], -math.inf, False
    for piece in removed.pieces:
        pieces.append(Piece(low, closed, piece.low, not piece.low_closed))
        low, closed = piece.high, not piece.high_closed
    pieces.append(Piece(low, closed, math.inf, False))
    if removed.pieces and removed.pieces[0].low == -math.inf:
        pieces = pieces[1:]
    if removed.pieces and removed.pieces[-1].high == math.inf:
        pieces = pieces[:-1]
    return _normal(pieces, False)


def _normal(pieces: list[Piece], integers: bool) -> Region:
    """Return the region of pieces in any order; bounded sets of integers become points."""
    if len(pieces) > MAX_ITEMS:
        raise TooComplex("pieces")
    if integers:
        return _integers(pieces)
    merged: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.low, not p.low_closed)):
        if piece.is_empty:
            continue
        last = merged[-1] if merged else None
        touches = last is not None and (
            piece.low < last.high
            or piece.low == last.high
            and (piece.low_closed or last.high_closed)
        )
        if last is None or not touches:
            merged.append(piece)
            continue
        high, closed = max((last.high, last.high_closed), (piece.high, piece.high_closed))
        merged[-1] = Piece(last.low, last.low_closed, high, closed)
    return Region(tuple(merged))


def _integers(pieces: list[Piece]) -> Region:
    numbers: set[int] = set()
    for piece in pieces:
        if piece.is_empty:
            continue
        if abs(piece.low) == math.inf or abs(piece.high) == math.inf:
            return _unbounded_integers(pieces)
        low, high = math.ceil(piece.low), math.floor(piece.high)
        low += low == piece.low and not piece.low_closed
        high -= high == piece.high and not piece.high_closed
        if high - low > MAX_ITEMS:
            return _unbounded_integers(pieces)
        numbers.update(range(low, high + 1))
    return Region(tuple(Piece(Fraction(n), True, Fraction(n), True) for n in sorted(numbers)))


def _unbounded_integers(pieces: list[Piece]) -> Region:
    rounded = []
    for piece in pieces:
        low, high = piece.low, piece.high
        if abs(low) != math.inf:
            low = Fraction(math.ceil(low)) + (low == math.ceil(low) and not piece.low_closed)
        if abs(high) != math.inf:
            high = Fraction(math.floor(high)) - (high == math.floor(high) and not piece.high_closed)
        rounded.append(Piece(low, abs(low) != math.inf, high, abs(high) != math.inf))
    rounded.sort(key=lambda p: p.low)
    return Region(tuple(rounded), True)
