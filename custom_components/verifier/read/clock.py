"""Read times of day, dates and ratios, which share their notations."""

from __future__ import annotations

import re
from fractions import Fraction

from custom_components.verifier.read import numbers

_TIME = re.compile(
    r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:(?:([ap])\s*\.?\s*m\s*\.?)|o'?\s*clock)?"
    r"(?:\s*(?:in\s+the\s+)?(morning|afternoon|evening))?",
    re.ASCII | re.I,
)
_NOON = re.compile(r"(?:12(?::00)?\s+)?(noon|midnight)", re.I)
_PART = r"(?:-?[\d.]+|\\frac\{\d+\}\{\d+\}|\d+/\d+)"
_RATIO = re.compile(rf"{_PART}(?:\s*:\s*{_PART})+|{_PART}(?:[\s-]+to[\s-]+{_PART})+", re.ASCII)
_RATIO_WORD = re.compile(r"^(?:a\s+|the\s+)?ratio\s+(?:of\s+)?|\s+ratio$")
_OUT_OF = re.compile(r"(\d+)\s+(?:out\s+of|in\s+every)\s+(\d+)", re.ASCII | re.I)
_MONTHS = "january february march april may june july august september october november december"
_NUMBERED = {name: number for number, name in enumerate(_MONTHS.split(), 1)}
_NUMBERED |= {name[:3]: number for name, number in _NUMBERED.items()} | {"sept": 9}
_MONTH = rf"(?P<month>{'|'.join(sorted(_NUMBERED, key=len, reverse=True))})\.?"
_YEAR = r"(?:\s*,?\s*(?P<year>\d{4}))?"
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_DATES = (
    re.compile(rf"{_MONTH}\s+(?:the\s+)?(?P<day>\d{{1,2}})(?:\s*(?:st|nd|rd|th)\b)?{_YEAR}", re.I),
    re.compile(rf"(?P<day>\d{{1,2}})(?:\s*(?:st|nd|rd|th)\b)?\s+(?:of\s+)?{_MONTH}{_YEAR}", re.I),
)


def read_time(text: str) -> tuple[tuple[Fraction, ...], str] | None:
    """Return (hours, minutes and seconds, "a", "p" or "") of a time of day; None without one."""
    noon = _NOON.fullmatch(text)
    if noon:
        return (Fraction(12), Fraction(0)), "p" if noon[1].lower() == "noon" else "a"
    match = _TIME.fullmatch(text)
    if match is None or match[2] is None and not text[-1].isalpha() and text[-1] != ".":
        return None
    if match[2] is None and re.fullmatch(r"[\d\s.]+", text):
        return None
    parts = tuple(Fraction(part) for part in (match[1], match[2] or "0", match[3]) if part)
    meridiem = (match[4] or "").lower()
    if match[5] and not meridiem:
        meridiem = "a" if match[5].lower() == "morning" else "p"
    return parts, meridiem


def read_ratio(text: str) -> tuple[Fraction, ...] | None:
    """Return the parts of `2:3`, `1.5 : 2 : 4`, `3 to 4`; None for another text."""
    text = _RATIO_WORD.sub("", text) if "ratio" in text else text
    match = _OUT_OF.fullmatch(text)
    if match:
        return (Fraction(match[1]), Fraction(match[2]))
    if not _RATIO.fullmatch(text):
        return None
    parts = [numbers.read(part) for part in re.split(r"\s*:\s*|[\s-]+to[\s-]+", text)]
    values = tuple(part.value for part in parts if part is not None)
    return values if len(values) == len(parts) else None


def read_date(text: str) -> str | None:
    """Return `date 6 20 1999`, without the year where there is none; None for another text."""
    iso = _ISO.fullmatch(text)
    if iso:
        return f"date {int(iso[2])} {int(iso[3])} {iso[1]}"
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            month = _NUMBERED[match["month"].lower()]
            return f"date {month} {int(match['day'])} {match['year'] or ''}".strip()
    return None
