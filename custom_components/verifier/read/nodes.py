"""The kinds of answer, as the nodes of a small tree (answer.py reads them from text)."""

from __future__ import annotations

from dataclasses import dataclass

from custom_components.verifier.read.numbers import Number


@dataclass(frozen=True)
class Node:
    """Base of all nodes; `key` is the compact text, equal for equal spellings."""

    key: str


@dataclass(frozen=True)
class Num(Node):
    """A plain number with what stood behind it."""

    number: Number
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Based(Node):
    """Digits with a base, `1061_9`."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio(Node):
    """`2:3`, `1:2:4`, or a time of day `2:30 p.m.` (`meridiem` is "a", "p" or "")."""

    parts: tuple[int, ...]
    time: bool
    meridiem: str = ""


@dataclass(frozen=True)
class Word(Node):
    """An answer in words; `words` is its folded form."""

    words: str


@dataclass(frozen=True)
class Expr(Node):
    """An expression for the computer algebra: LaTeX without unit and percent sign."""

    tex: str
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Seq(Node):
    """Several values. `brackets` is "" for a bare list, "{}" for a set, else as written: "[)"."""

    brackets: str
    items: tuple[Node, ...]

    @property
    def is_tuple(self) -> bool:
        """An ordered tuple or an interval, not a list or a set."""
        return self.brackets not in ("", "{}")


@dataclass(frozen=True)
class Union(Node):
    """Sets joined by a union sign."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Matrix(Node):
    """A matrix or a column vector, by rows."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Relation(Node):
    """Cleaned sides joined by =, <, >, \\le, \\ge, \\ne, \\in, \\approx, ..."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]
