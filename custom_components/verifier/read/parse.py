"""Read an answer's text into its tree (nodes.py). Nothing here compares answers."""

from __future__ import annotations

import re
from functools import lru_cache

from custom_components.verifier.limits import MAX_ITEMS, TooComplex, Unreadable, check_size
from custom_components.verifier.read import numbers
from custom_components.verifier.read.latex import clean, closing, compact, split_top, split_with
from custom_components.verifier.read.nodes import (
    Based,
    Expr,
    Matrix,
    Node,
    Num,
    Ratio,
    Relation,
    Seq,
    Side,
    Union,
    Word,
)
from custom_components.verifier.read.units import is_unit, split_unit
from custom_components.verifier.read.words import fold_words, no_solution, undefined


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Return the tree of an answer.

    Raises:
        Unreadable: when there is nothing to read.
        TooComplex: when a cap is exceeded.
    """
    check_size(text)
    cleaned = clean(text)
    check_size(cleaned)
    node = parse_cleaned(cleaned)
    if not node.key:
        raise Unreadable("empty")
    return node


@lru_cache(maxsize=4096)
def parse_cleaned(text: str) -> Node:
    """Return the tree of a text that `clean` has seen; an empty text gives an empty Word.

    Raises:
        TooComplex: when a list or a matrix has too many entries.
    """
    text = _trim(text)
    key = compact(text)
    if not text:
        return Word("", "")
    return (
        _known_words(key)
        or _number(text, key)
        or _ratio(text, key)
        or _system(text)
        or _punctured(text, key)
        or _list(text, key)
        or _relation(text, key)
        or _union(text, key)
        or _matrix(text, key)
        or _bracketed(text, key)
        or _plus_minus(text, key)
        or _words(text, key)
        or _expression(text, key)
    )


def parse_list(text: str) -> Seq:
    """Read a cleaned text as values between commas, even where it could be one number (`1,234`)."""
    return Seq(text, "", tuple(parse_cleaned(part) for part in split_top(text, _LIST)))


_LEADING = re.compile(
    r"^(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:=]?|[:：]|approximately|about|exactly|\\approx"
    r"|\\therefore|\\implies|\\Rightarrow|\\rightarrow|=)\s*",
    re.I,
)
_TRAILING = " \t.,;:\\"


def _trim(text: str) -> str:
    """Drop sentence punctuation, an introduction, and braces around everything."""
    text = text.strip()
    previous = None
    while text != previous:
        previous = text
        while text and text[-1] in _TRAILING:
            text = text[:-1]
        text = _LEADING.sub("", text, count=1).strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            inner = text[1:-1].rstrip(_TRAILING)
            text = text if "," in inner else inner.strip()  # {1, 2} is a set
    return text


_REALS = re.compile(
    r"\\mathbb\{R\}|(?:theset(?:of)?|setof)?(?:all|any)?(?:the)?real(?:s|numbers?|x|values?(?:ofx)?)"
)


def _known_words(key: str) -> Node | None:
    """Read the words for the real line, for no solution and for undefined, and an ellipsis."""
    folded = key.lower() if "\\" not in key else key
    if _REALS.fullmatch(folded):
        ends = (Expr("-\\infty", "-\\infty"), Expr("\\infty", "\\infty"))
        return Seq(key, "()", ends)
    if key == "\\ldots":
        return Word(key, "...")
    if no_solution(folded):
        return Word(key, "no solution")
    return Word(key, "undefined") if undefined(folded) else None


# --- numbers -----------------------------------------------------------------------------------

_BASED = re.compile(
    r"(-?)\s*\(?\s*([0-9A-Z]*[0-9][0-9A-Z]*)\s*\)?\s*_\{?\s*(\d{1,2})\s*\}?", re.ASCII
)
_MODULUS = re.compile(
    r"(.*?)(?:\\pmod|\\mod|\\bmod|\(\s*\\?mod(?![a-z]))\s*\{?\s*(\d+)\s*\}?\s*\)?", re.S
)
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\s*\.?\s*m\s*\.?)?", re.ASCII | re.I)


def _number(text: str, key: str) -> Node | None:
    match = _BASED.fullmatch(text)
    if match and 2 <= int(match[3]) <= 36:
        return Based(key, match[1] + (match[2].lstrip("0") or "0"), int(match[3]))
    body, unit, percent = split_unit(text)
    modulus = _MODULUS.fullmatch(text)
    if modulus:
        body, unit = modulus[1].strip(), f"mod {modulus[2]}"
    if body.startswith("(") and "," not in body and closing(body, 0, "(", ")") == len(body) - 1:
        body = body[1:-1]
    value = numbers.read(body)
    if value is None and re.fullmatch(r"-\s*\([^(),]+\)", body):
        value = numbers.negate(numbers.read(body.lstrip("- ")[1:-1]))
    return Num(key, value, unit, percent) if value else None


def _ratio(text: str, key: str) -> Node | None:
    match = _TIME.fullmatch(text)
    if match:
        parts = tuple(int(part) for part in match.groups()[:3] if part)
        return Ratio(key, parts, True, (match[4] or "").lower())
    if _RATIO.fullmatch(text):
        return Ratio(key, tuple(int(part) for part in text.split(":")), False)
    return None


# --- several values ----------------------------------------------------------------------------

_AND_OR = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:and/or|and|or)(?![a-zA-Z])\s*|[或和与]", re.I)
_LIST = frozenset({",", ";"})
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:,\d{3})+)(?!\d)", re.ASCII)
_SYSTEM = re.compile(r"\\begin\{(cases|aligned|align|gathered)\*?\}(.*)\\end\{\1\*?\}", re.S)
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "{": "}"}
_PLAIN = {"\\{": "{", "\\}": "}", "\\langle": "(", "\\rangle": ")"}


def _split_list(text: str) -> list[str]:
    """Split at commas and semicolons, but not at thousands separators."""
    protected = _THOUSANDS.sub(lambda m: m[1] + m[2].replace(",", "\0"), text)
    return [part.replace("\0", ",") for part in split_top(protected, _LIST)]


def _system(text: str) -> Node | None:
    r"""Read equations under each other; a definition by cases (with `&`) is one expression."""
    match = _SYSTEM.fullmatch(text)
    if not match:
        return None
    rows = [row.replace("&", "").strip() for row in match[2].split("\\\\")]
    rows = [row for row in rows if row]
    if not rows or any("=" not in row for row in rows):
        return None
    return parse_cleaned(" ; ".join(rows))


def _list(text: str, key: str) -> Node | None:
    """Read values separated by commas, semicolons, "and" or "or" outside all brackets."""
    parts = [part for part in _split_list(_AND_OR.sub(" ; ", text)) if _trim(part)]
    parts = _without_domain(parts)
    if len(parts) < 2:
        return parse_cleaned(parts[0]) if parts and parts[0] != text else None
    return Seq(key, "", _items(parts))


_REAL = re.compile(r"[a-z]\s*\\in\s*\\mathbb\{R\}")
_INTEGER = re.compile(
    r"(?:where|for|with|any)?\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*[ZN]\s*\}?"
    r"|is an integer|an integer)"
)


def _without_domain(parts: list[str]) -> list[str]:
    r"""Drop `x \in \mathbb{R}`, and `n \in \mathbb{Z}` after renaming that integer k elsewhere."""
    if len(parts) > 1:
        parts = [part for part in parts if not _REAL.fullmatch(part)] or parts
    match = _INTEGER.fullmatch(parts[-1].strip()) if len(parts) > 1 else None
    if not match:
        return parts
    letter = re.compile(rf"(?<![\\a-zA-Z]){match[1]}(?![a-zA-Z])")
    return [letter.sub("k", part) for part in parts[:-1]]


def _items(parts: list[str]) -> tuple[Node, ...]:
    if len(parts) > MAX_ITEMS:
        raise TooComplex("too many values")
    nodes: list[Node] = []
    for part in parts:
        node = parse_cleaned(part)
        if isinstance(node, Seq) and node.brackets == "":
            nodes.extend(node.items)  # "1 \pm 2, 5": three values
        else:
            nodes.append(node)
    first = nodes[0]
    if isinstance(first, Relation) and first.signs == ("=",):
        if not any(isinstance(node, Relation) for node in nodes[1:]):
            nodes[0] = first.sides[1].node  # "n = 2, 3, 4": the name belongs to all values
    return tuple(nodes)


_SET_BUILDER = re.compile(
    r"[a-zA-Z]\s*(?:\\in\s*\\mathbb\{[A-Z]\}\s*)?[|:]\s*(.*(?:<|>|\\le|\\ge|\\ne|=).*)", re.S
)


def _bracketed(text: str, key: str) -> Node | None:
    """Read a tuple, an interval or a set; drop a bracket around one value."""
    opener = next((b for b in _BRACKETS if text.startswith(b)), None)
    closer = next((b for b in _BRACKETS.values() if text.endswith(b)), None)
    if opener is None or closer is None or not _encloses(text):
        return None
    inner = text[len(opener) : -len(closer)].strip()
    condition = _SET_BUILDER.fullmatch(inner) if opener == "\\{" else None
    if condition:
        return parse_cleaned(condition[1])
    joined = _AND_OR.sub(" , ", inner)
    parts = _split_list(joined)
    if len(parts) < 2:
        parts = split_top(joined, _LIST)
    if not all(parts):
        return None
    brackets = _PLAIN.get(opener, opener) + _PLAIN.get(closer, closer)
    if len(parts) > 1:
        ordered = brackets != "{}" and len(parts) == 2
        items = tuple(map(parse_cleaned, parts)) if ordered else _items(parts)
        return Seq(key, brackets, items)
    if brackets == "()":
        return parse_cleaned(inner)
    return Seq(key, brackets, _items([inner])) if brackets in ("{}", "[]") else None


def _encloses(text: str) -> bool:
    """Return whether the last bracket of the text closes its first one."""
    depth = 0
    tokens = re.findall(r"\\[a-zA-Z]+|\\.|.", text, re.S)
    for position, token in enumerate(tokens):
        if token in _BRACKETS or token in ("\\lfloor", "\\lceil", "\\begin"):
            depth += 1
        elif token in _BRACKETS.values() or token in ("\\rfloor", "\\rceil", "\\end"):
            depth -= 1
            if depth == 0 and position < len(tokens) - 1:
                return False
    return depth == 0


def _plus_minus(text: str, key: str) -> Node | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return Seq(key, "", (parse_cleaned(upper.strip().removeprefix("+")), parse_cleaned(lower)))


# --- sets and relations ------------------------------------------------------------------------

_SIGNS = frozenset({"=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx", "\\equiv", "\\sim"})
_PUNCTURED = re.compile(
    r"(?:x\s*\\in\s*)?(?:\\mathbb\{R\}|all\s+real\s+numbers|all\s+reals)\s*"
    r"(?:(?:\\setminus|-)\s*\\\{(.*)\\\}|except\s*(?:for\s*)?(?:x\s*=\s*)?(.*))",
    re.S,
)


def _relation(text: str, key: str) -> Node | None:
    sides, signs = split_with(text, _SIGNS)
    if not signs or not all(sides):
        return None
    return Relation(key, tuple(Side(side, parse_cleaned(side)) for side in sides), tuple(signs))


def _punctured(text: str, key: str) -> Node | None:
    """Read "all real numbers except" as the union of intervals between the exceptions."""
    match = _PUNCTURED.fullmatch(text)
    if not match:
        return None
    removed = split_top(match[1] or match[2], _LIST)
    ends = ["-\\infty", *removed, "\\infty"]
    pieces = [f"({low},{high})" for low, high in zip(ends, ends[1:], strict=False)]
    return Union(key, tuple(map(parse_cleaned, pieces)))


def _union(text: str, key: str) -> Node | None:
    parts = split_top(text, {"\\cup"})
    if len(parts) < 2 or not all(parts):
        return None
    return Union(key, tuple(map(parse_cleaned, parts)))


# --- matrices ----------------------------------------------------------------------------------

_MATRIX = re.compile(
    r"\\begin\{(?P<env>[pbB]?matrix|smallmatrix|array)\*?\}\s*(?:\{[clr| ]*\})?"
    r"(?P<body>(?:(?!\\begin|\\end).)*)\\end\{(?P=env)\*?\}",
    re.S,
)


def _matrix(text: str, key: str) -> Node | None:
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        text = text[1:-1].strip()
    match = _MATRIX.fullmatch(text)
    if not match:
        return None
    body = match["body"].replace("\\hline", " ").strip().removesuffix("\\\\")
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", body)]
    if sum(map(len, rows)) > MAX_ITEMS:
        raise TooComplex("matrix")
    return Matrix(key, tuple(tuple(map(parse_cleaned, row)) for row in rows))


# --- words and expressions ---------------------------------------------------------------------

_WORDS = re.compile(r"[A-Za-z0-9\s.,:;'\"!?()/&\-]+")
_TEX_WITH_UNIT = re.compile(
    r"(.*(?:[\d})]|\\pi|(?<![\\A-Za-z])[a-z]))\s+(([A-Za-z]{2,}|m|g|s)(?:[ /.A-Za-z]|\^\{?\d\}?)*)",
    re.S,
)


def _words(text: str, key: str) -> Node | None:
    """Read an answer in words: letters and punctuation, with two letters in a row or just one."""
    if not _WORDS.fullmatch(text) or re.fullmatch(r"[A-Za-z]\(.*\)", text):
        return None
    if not re.search(r"[A-Za-z]{2}", text) and not re.fullmatch(r"\(?[A-Za-z]\)?\.?", text):
        return None
    sign = "-" if re.match(r"-\s*[A-Za-z]", text) else ""
    return Word(key, sign + fold_words(text))


def _expression(text: str, key: str) -> Node:
    body, unit, percent = text, "", False
    if text.endswith("%"):
        body, percent = text[:-1].strip(), True
    elif text.endswith("°") and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        body, unit = text[:-1].strip(), "°"
    match = _TEX_WITH_UNIT.fullmatch(body)
    if match and "\\" in match[1] and (len(match[3]) > 3 or is_unit(match[3])):
        body, unit = match[1].strip(), match[2]
    if body.startswith("¤"):
        body, unit = body[1:].strip(), "¤"
    return Expr(key, body, unit, percent)
