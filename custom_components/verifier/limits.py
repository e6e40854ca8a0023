"""Cap the size of what is read: an input beyond a cap is answered at once, without parsing it.

The caps keep `verify` cheap in process; VerifierPool bounds what they cannot foresee.
"""

from __future__ import annotations

import re

MAX_RESPONSE = 4_000_000  # characters of a response; more than any context window yields
MAX_BOXES = 64  # boxes in one final statement
MAX_ANSWER = 2_000  # characters of one answer
MAX_DEPTH = 24  # nesting of brackets in an answer
MAX_ITEMS = 128  # values in a list, entries of a matrix
MAX_DIGITS = 1_000  # digits of one number
MAX_TEX = 600  # characters handed to the LaTeX parser
MAX_ARGUMENT = 10_000  # argument of a factorial or binomial that is evaluated
MAX_PHASE = 1e100  # argument of a sine or a floor that is evaluated
MAX_EXPONENT = 1_000_000  # exponent of a power that is evaluated


class TooComplex(Exception):
    """Signal that a text exceeds a cap; `side` is "gold" where that is known to be the gold's."""

    side = "answer"


class Unreadable(Exception):
    """Signal that a text is not an answer that can be read; `side` as in TooComplex."""

    side = "answer"


_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}", re.ASCII)


def check_size(text: str) -> None:
    """Raise TooComplex when an answer is too long, too deep or has too long a number."""
    if len(text) > MAX_ANSWER:
        raise TooComplex(f"{len(text)} characters")
    depth = 0
    for char in text:
        if char in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                raise TooComplex("nesting")
        elif char in ")]}":
            depth -= 1
    if text.count("^") > 40 or text.count("\\frac") > 40 or text.count(",") > MAX_ITEMS:
        raise TooComplex("too many parts")
    if _DIGITS.search(text):
        raise TooComplex("digits")
