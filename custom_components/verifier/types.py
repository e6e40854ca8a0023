"""Define the verdict and the item, with imports from the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Outcome = Literal["correct", "incorrect", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """Hold the verdict on one response; it is true in a condition only when it is "correct".

    Attributes:
        verdict: "correct", "incorrect" or "undecided". The last is not the response's fault, and no
            caller may treat it as correct.
        reason: Short code in snake case (docs/VERIFIER.md lists them).
        prediction: Answer that was extracted; None without one.
    """

    verdict: Outcome
    reason: str
    prediction: str | None = None

    def __bool__(self) -> bool:
        return self.verdict == "correct"


@dataclass(frozen=True)
class Item:
    """Hold one pair to verify, with the keyword arguments of `verify`.

    Raises:
        TypeError: when `gold` or `response` is not a string.
    """

    gold: str
    response: str
    reasoning_open: bool = False
    truncated: bool = False
    allow_fallback: bool = False
    choices: str | None = None
    extract: bool = True
    problem: str | None = None
    rounding: bool = False

    def __post_init__(self) -> None:
        for name in ("gold", "response"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a string, not {getattr(self, name)!r:.80}")

    @classmethod
    def of(cls, item: Item | Mapping[str, Any]) -> Item:
        """Return an item from a mapping with its fields; an Item is returned as it is.

        Raises:
            TypeError: when a key is unknown or missing, or `item` is not a mapping.
        """
        if isinstance(item, Item):
            return item
        if not isinstance(item, Mapping):
            raise TypeError(f"an item is a mapping or an Item, not {type(item).__name__}")
        return cls(**item)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
