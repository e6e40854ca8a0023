"""Read answers in words: tell them from formulas, fold their spelling, find letters of options."""

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
    r"\\emptyset|\\\{\\\}|(?:the)?empty(?:set)?|(?:there(?:is|are))?no(?:such)?(?:real)?solutions?"
    r"(?:exists?)?|(?:there(?:is|are))?nosuch(?:number|value|integer)s?"
)
_INFINITE = re.compile(r"(?:thereare)?infinite(?:lymany)?|(?:an)?infinitenumber")
_UNDEFINED = re.compile(r"(?:itis)?undefined|(?:it)?doesnotexist|dne|notdefined")
SHORT_WORDS = frozenset(
    "no yes odd all any one two six ten sum max min day way red top low big new old six men boy "
    "the and for not none of in to is it be by or on at up if as an so do we he she his her its "
    "are can may has had was who why how out off per mon tue wed thu fri sat sun jan feb mar apr "
    "jun jul aug sep oct nov dec left only both cat dog cow pig bat car bus sea ice gas oil sky "
    "bob tom sam joe ann amy jim dan kim eve ali leo zoe ian ben ted ron liz pam ray roy jay kay "
    "sue lee max meg mia ava ivy dne nor end net gcf lcm pm am at box bag cup pen hen egg fox ant bee bus tie pie hat "
    "jar pot pan mug kid leg arm eye ear pea nut fig set row lap mph kph".split()
)
"""Words of two and three letters, which a product of letters could be too."""


def fold_words(text: str) -> str:
    """Return a text in lower case, without articles and punctuation, numerals to twenty in digits.

    Letters that are no English word keep their case: `n` and `N`, `Rr` and `rr` are different.
    """
    letter = re.fullmatch(r"\(?([A-Za-z]+)\)?\.?", text.strip())
    if letter:
        return _fold_run(letter[1])
    words = re.findall(r"[a-z0-9]+|/", text.lower().replace("'", ""))
    kept = [_NUMERALS.get(word, word) for word in words if word not in ("the", "a", "an")]
    return " ".join(kept or words)


def _fold_run(run: str) -> str:
    """Return one run of letters, in lower case where it looks like a word."""
    lower = run.lower()
    if lower in _NUMERALS:
        return _NUMERALS[lower]
    if len(run) < 4:
        return lower if lower in SHORT_WORDS or _is_name(run) else run
    has_vowel = re.search("[aeiouy]", lower[1:]) is not None
    return lower if has_vowel and (run.isupper() or run[1:].islower()) else run


def _is_name(run: str) -> bool:
    """Return whether three letters may be a name, capital or not: consonants around a vowel."""
    if len(run) != 3 or not run[1:].islower():
        return False
    return (
        re.fullmatch(r"[^aeiou][aeiouy][^aeiou]|[aeiou][^aeiou][aeiouy]", run.lower()) is not None
    )


def is_prose(text: str) -> bool:
    """Return whether a text of letters, digits and punctuation is words, not a formula.

    A formula has signs, brackets or digits between letters and no run of four letters; a single
    run of letters is a word first.
    """
    runs = re.findall(r"[A-Za-z]+", text)
    if not runs or re.fullmatch(r"\(?[A-Za-z]{2,}\)?[.!]?", text):
        return bool(runs)
    if any(len(run) > 3 for run in runs):
        return True
    short = sum(len(run) > 1 and run.lower() in SHORT_WORDS for run in runs)
    return short > 0 and re.search(r"[A-Za-z][\s.,]+[A-Za-z]", text) is not None


def no_solution(key: str) -> bool:
    """Return whether a compact text says that there is no solution."""
    return _NO_SOLUTION.fullmatch(key) is not None


def infinitely_many(key: str) -> bool:
    """Return whether a compact text says that there are infinitely many."""
    return _INFINITE.fullmatch(key) is not None


def undefined(key: str) -> bool:
    """Return whether a compact text says that the value does not exist."""
    return _UNDEFINED.fullmatch(key) is not None


_INTRODUCTION = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*)+", re.I
)
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
_LETTER_AND_OPTION = re.compile(
    r"(?:\((?P<round>[A-Z])\)\s*(?![-+*/=^_(!'])|(?P<plain>[A-Z])\s*(?P<sign>[.):]|\s-+\s)\s*"
    r"(?![A-Z]\s*(?:[=:]|$)))(?P<rest>\S.*)",
    re.S,
)
_ANOTHER = re.compile(
    r"(?:(?<![A-Za-z])(?i:and|or)|[,;/&])\s*(?:(?i:option)\s*)?\(?[A-Z]\)?(?![A-Za-z])"
)


def choice_letter(cleaned: str, choices: str) -> str | None:
    """Return the one letter of `choices` that a cleaned answer names, in upper case, or None.

    "C", "(c)", "C. x = 42", "(D) Alina", "option C" name one; "B or C" names none.
    """
    folded = _INTRODUCTION.sub("", cleaned.strip(" .:;*\v")).strip(" .:;*\v")
    match = _LETTER.fullmatch(folded)
    if match:
        letter = match[1].upper()
    else:
        option = split_option(folded)
        letter = option and option[0]
    return letter if letter and letter in choices.upper() else None


def split_option(cleaned: str) -> tuple[str, str, str] | None:
    """Return (letter, sign, text) of an option, "C. x = 42", "(D) Alina"; None without a letter."""
    match = _LETTER_AND_OPTION.fullmatch(cleaned)
    if not match or _ANOTHER.search(match["rest"]):
        return None
    letter = match["round"] or match["plain"]
    return letter, ")" if match["round"] else match["sign"].strip()[0], match["rest"]
