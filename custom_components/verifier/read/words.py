"""Read answers in words: fold their spelling, and find the letters of multiple-choice options."""

from __future__ import annotations

import re

_NUMERALS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
}
_NO_SOLUTION = re.compile(
    r"\\emptyset|\\\{\\\}|(?:the)?emptyset|(?:there(?:is|are))?no(?:such)?(?:real)?solutions?"
    r"(?:exists?)?|(?:there(?:is|are))?nosuch(?:number|value|integer)s?"
)
_UNDEFINED = re.compile(r"(?:itis)?undefined|(?:it)?doesnotexist|dne|notdefined")


def fold_words(text: str) -> str:
    """Return a text in lower case, without articles and punctuation, numerals to twenty in digits.

    A single letter keeps its case: `n` and `N` are different names.
    """
    letter = re.fullmatch(r"\(?([A-Za-z])\)?\.?", text.strip())
    if letter:
        return letter[1]
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
    kept = [_NUMERALS.get(word, word) for word in words if word not in ("the", "a", "an")]
    return " ".join(kept or words)


def no_solution(key: str) -> bool:
    """Return whether a compact text says that there is no solution."""
    return _NO_SOLUTION.fullmatch(key) is not None


def undefined(key: str) -> bool:
    """Return whether a compact text says that the value does not exist."""
    return _UNDEFINED.fullmatch(key) is not None


_INTRODUCTION = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*)+", re.I
)
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
_LETTER_AND_OPTION = re.compile(r"(?:\(([A-Z])\)\s*(?![-+*/=^_(])|([A-Z])\s*[.):]\s*)(\S.*)", re.S)
_ANOTHER = re.compile(
    r"(?:(?<![A-Za-z])(?i:and|or)|[,;/&])\s*(?:(?i:option)\s*)?\(?[A-Z]\)?(?![A-Za-z])"
)


def choice_letter(cleaned: str, choices: str) -> str | None:
    """Return the one letter of `choices` that a cleaned answer names, in upper case, or None.

    "C", "(c)", "C. x = 42", "(D) Alina", "option C" name one; "B or C" names none.
    """
    folded = _INTRODUCTION.sub("", cleaned.strip(" .:;*")).strip(" .:;*")
    match = _LETTER.fullmatch(folded)
    if match:
        letter = match[1].upper()
    else:
        letter = option_letter(folded)
    return letter if letter and letter in choices.upper() else None


def option_letter(cleaned: str) -> str | None:
    """Return the letter before an option's text, "C. x = 42", "(D) Alina"; None without one."""
    match = _LETTER_AND_OPTION.fullmatch(cleaned)
    if not match or _ANOTHER.search(match[3]):
        return None
    return match[1] or match[2]
