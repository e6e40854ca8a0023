"""Represent the kinds of answer as the nodes of a small tree, which parse.py reads from text."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from custom_components.verifier.read.latex import compact
from custom_components.verifier.read.names import is_name, letters
from custom_components.verifier.read.numbers import Number
from custom_components.verifier.read.units import NO_UNIT, Unit

EQUALITIES = frozenset({"=", "\\approx", "\\equiv", "\\sim"})
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
"""Map inequality signs to what they become when the sides change places."""


@dataclass(frozen=True)
class Node:
    """Serve as the base of all nodes; `key` is the compact text, equal for equal spellings."""

    key: str


@dataclass(frozen=True)
class Num(Node):
    """Hold a plain number with the unit and the percent sign behind it.

    Attributes:
        finest: Last unit of a compound quantity (minutes, for 1 hour 30 minutes) in units of the
            first, in which `number` is; 1 for another number.
    """

    number: Number
    unit: Unit = NO_UNIT
    percent: bool = False
    finest: Fraction = Fraction(1)


@dataclass(frozen=True)
class Based(Node):
    """Hold digits with a base, `1061_9`."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio(Node):
    """Hold `2:3`, `1:2:4`, or a time of day `2:30 p.m.` (`meridiem` is "a", "p" or "").

    Attributes:
        time: Whether this can be a time of day; 10:15 can be a ratio as well.
    """

    parts: tuple[Fraction, ...]
    time: bool
    meridiem: str = ""


@dataclass(frozen=True)
class Word(Node):
    """Hold an answer in words; `words` is its folded form.

    Attributes:
        literal: Whether the letters stand in `\\text{...}`, so that they are no product.
    """

    words: str
    literal: bool = False


@dataclass(frozen=True)
class Option(Node):
    """Hold an option with its letter, `(C) 5`; `sign` is what follows the letter: ")", "." or ":"."""

    letter: str
    sign: str
    content: Node


@dataclass(frozen=True)
class Expr(Node):
    """Hold an expression for the computer algebra: LaTeX without its unit and percent sign."""

    tex: str
    unit: Unit = NO_UNIT
    percent: bool = False


@dataclass(frozen=True)
class Seq(Node):
    """Hold several values; `brackets` is "" for a list, "{}" for a set, else as written: "[)".

    Attributes:
        joint: How the items of a list are joined: ",", "or", "and", or "\\pm" for both signs.
        name: Letter before a tuple, as of the point A(1,2) or the binomial C(5,2).
    """

    brackets: str
    items: tuple[Node, ...]
    joint: str = ","
    name: str = ""

    @property
    def is_tuple(self) -> bool:
        """Return whether this is an ordered tuple or an interval, not a list or a set."""
        return self.brackets not in ("", "{}")


@dataclass(frozen=True)
class Union(Node):
    """Hold sets joined by a union sign."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Intersection(Node):
    """Hold sets joined by an intersection sign, or conditions that hold together."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Difference(Node):
    """Hold a set without the elements of another."""

    whole: Node
    removed: Node


@dataclass(frozen=True)
class Domain(Node):
    """Hold a set of numbers by its letter: "Z", "N" (from 1), "Q" or "C"."""

    letter: str


@dataclass(frozen=True)
class Matrix(Node):
    """Hold a matrix or a column vector by rows."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Side:
    """Hold one side of a relation: its cleaned text, for names and the algebra, and its tree."""

    text: str
    node: Node

    @property
    def key(self) -> str:
        """Return the compact text with all its brackets, some of which `node.key` drops."""
        return compact(self.text)

    @property
    def is_name(self) -> bool:
        """Return whether the side only names something: x, f(2), AB."""
        return is_name(self.text)

    @property
    def letters(self) -> set[str]:
        """Return the variables in the side."""
        return letters(self.text)


@dataclass(frozen=True)
class Relation(Node):
    """Hold sides joined by the signs =, <, >, \\le, \\ge, \\ne, \\in, \\approx, \\equiv, \\sim."""

    sides: tuple[Side, ...]
    signs: tuple[str, ...]

    @property
    def is_equation(self) -> bool:
        """Return whether all signs are equalities, exact or approximate."""
        return EQUALITIES.issuperset(self.signs)

    @property
    def is_membership(self) -> bool:
        """Return whether this is one `x \\in S`."""
        return self.signs == ("\\in",)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the cleaned texts of the sides."""
        return tuple(side.text for side in self.sides)
