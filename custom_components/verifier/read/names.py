"""Tell a name (x, f(2), AB) from an expression, and list the variables in a cleaned text."""

from __future__ import annotations

import re

_NOT_IN_NAMES = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|frac|sqrt|cdot|times|div|int|sum|pi)(?![a-zA-Z])"
)
_NAME_PARTS = re.compile(r"\\[a-zA-Z]+|_\{[^{}]*\}|_.|\^\{-1\}|\^\{\\[a-z]+\}|'|\([^()]*\)|[\s{}.]")
_POINT_OR_LENGTH = re.compile(r"\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)|\|[A-Z]{2}\|")
_RATIO = re.compile(r"[a-zA-Z]{1,2}(?:\s*:\s*[a-zA-Z]{1,2})+")
_GREEK = re.compile(r"\\(alpha|beta|gamma|delta|theta|lambda|mu|phi|omega)(?![a-z])")


def is_name(text: str) -> bool:
    """Return whether a text only names something: x, f(2), S_{10}, AB, \\angle A, (x, y), |AB|, A:B."""
    text = text.strip()
    if not text or text[0] in "0123456789.+-" or _NOT_IN_NAMES.search(text):
        return False
    if _POINT_OR_LENGTH.fullmatch(text) or _RATIO.fullmatch(text):
        return True
    if text[0] == "(":
        return False
    return re.fullmatch(r"[A-Za-z]*", _NAME_PARTS.sub("", text)) is not None


def letters(text: str) -> set[str]:
    """Return the variables in a text: its Latin and Greek letters, without the commands."""
    greek = {"\\" + name for name in _GREEK.findall(text)}
    return greek | set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", " ", text)))
