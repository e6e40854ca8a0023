"""What a verdict and an item are. No imports beyond the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Outcome = Literal["correct", "incorrect", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The opinion on one response.

    `verdict` is "correct", "incorrect" or "undecided" (not the response's fault: no caller may
    treat it as correct). `reason` is a short snake_case code (docs/VERIFIER.md lists them).
    `prediction` is the answer that was extracted, None when there was none.

    `bool(verdict)` is True for "correct" only, so that `if verify(...)` is not a trap.
    """

    verdict: Outcome
    reason: str
    prediction: str | None = None

    def __bool__(self) -> bool:
        return self.verdict == "correct"


@dataclass(frozen=True)
class Item:
    """One pair to verify, with the keyword arguments of `verify`."""

    gold: str
    response: str
    reasoning_open: bool = False
    truncated: bool = False
    allow_fallback: bool = False
    choices: str | None = None
    extract: bool = True
    problem: str | None = None

    def __post_init__(self) -> None:
        for name in ("gold", "response"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a string, not {getattr(self, name)!r:.80}")

    @classmethod
    def of(cls, item: Item | Mapping[str, Any]) -> Item:
        """An Item from a mapping; raises TypeError on an unknown or a missing key."""
        if isinstance(item, Item):
            return item
        if not isinstance(item, Mapping):
            raise TypeError(f"an item is a mapping or an Item, not {type(item).__name__}")
        return cls(**item)

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}
