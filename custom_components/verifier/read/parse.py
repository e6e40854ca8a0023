"""Read an answer's text into its tree (nodes.py). Nothing here compares answers."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import lru_cache

from custom_components.verifier.limits import MAX_ITEMS, TooComplex, Unreadable, check_size
from custom_components.verifier.read import clock, numbers, numerals
from custom_components.verifier.read.latex import clean, closing, compact, split_top, split_with
from custom_components.verifier.read.nodes import (
    Based,
    Difference,
    Domain,
    Expr,
    Intersection,
    Matrix,
    Node,
    Num,
    Option,
    Ratio,
    Relation,
    Seq,
    Side,
    Union,
    Word,
)
from custom_components.verifier.read.quantities import (
    Quantity,
    read_quantity,
    split_expression,
    strip_brackets,
)
from custom_components.verifier.read.units import Unit
from custom_components.verifier.read.words import (
    fold_words,
    infinitely_many,
    is_prose,
    no_solution,
    split_option,
    undefined,
)

_LITERAL = re.compile(
    r"[\s$]*\\(?:text(?:bf|it|rm|normal)?|mbox|hbox)\s*\{\s*[A-Za-z]+[\s.]*\}[\s$.]*"
)


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
    if isinstance(node, Word) and _LITERAL.fullmatch(text):
        return replace(node, literal=True)
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
        _number(text, key)
        or _known_words(key)
        or _option(text, key)
        or _system(text)
        or _punctured(text, key)
        or _phrase(text)
        or _list(text, key)
        or _relation(text, key)
        or _set_operation(text, key)
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
    r"|\\therefore|\\implies|\\Rightarrow|\\rightarrow|=|(?:either|both|only|it\s+is)(?=\s)|an?\s+(?=[¤€£\d]))\s*",
    re.I,
)
_TRAILING = " \t\v.,;:\\"
_ONLY = re.compile(r"(?<=\S)[\s]+only$")


def _trim(text: str) -> str:
    """Drop sentence punctuation, an introduction, and braces around everything."""
    text = text.strip()
    previous = None
    while text != previous:
        previous = text
        while text and text[-1] in _TRAILING:
            text = text[:-1]
        text = _LEADING.sub("", text, count=1).strip()
        if text.endswith("only"):
            text = _ONLY.sub("", text)
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            inner = text[1:-1].rstrip(_TRAILING)
            text = text if "," in inner else inner.strip()  # {1, 2} is a set
    return text


_NUMBERS = re.compile(
    r"(?:x\\in)?(?:\\mathbb\{(?P<letter>[RZNQ C])\}(?P<sign>[\^_]\{?(?:\+|-|>0|\\ge0|<0|\\le0|0|\\cdot)\}?)*"
    r"|(?:x(?:is|can?be)?)?(?:any|all)?(?:the)?(?:setof)?(?:any|all|an|a)?(?P<kind>positive|negative"
    r"|non-?negative|non-?zero)?(?P<name>real(?:s|numbers?|x|values?(?:ofx)?)|integers?"
    r"|naturalnumbers?|rationalnumbers?|complexnumbers?))"
)
_SIGN_OF = {"positive": "+", "negative": "-", "nonnegative": "0+", "nonzero": "*"}


def _known_words(key: str) -> Node | None:
    """Read the names of the sets of numbers, no solution, undefined, and an ellipsis."""
    folded = key.lower() if "\\" not in key else key
    match = _NUMBERS.fullmatch(folded)
    if match:
        return _numbers(key, match)
    if key == "\\ldots":
        return Word(key, "...")
    if no_solution(folded):
        return Word(key, "no solution")
    if infinitely_many(folded):
        return Word(key, "infinitely many")
    return Word(key, "undefined") if undefined(folded) else None


def _numbers(key: str, match: re.Match[str]) -> Node | None:
    """Return the real line or a half of it as an interval, another set of numbers as a Domain."""
    letter = match["letter"] or {"i": "Z", "n": "N", "c": "C", "r": "Q"}[match["name"][0]]
    if (match["name"] or "").startswith("real"):
        letter = "R"
    sign = _SIGN_OF.get((match["kind"] or "").replace("-", ""), "")
    if match["sign"]:
        written = re.sub(r"[\^_{}]", "", key[key.index("}") + 1 :])
        sign = {
            "+": "+",
            ">0": "+",
            "-": "-",
            "<0": "-",
            "\\ge0": "0+",
            "0": "0+",
            "\\cdot": "*",
        }.get(written, "?")
    if sign == "?" or letter in "QC" and sign:
        return None
    if letter == "R":
        return _half_line(key, sign)
    if letter == "N":
        return Domain(key, "N0" if sign == "0+" else "N")
    return Domain(key, {"": "Z", "+": "N", "0+": "N0", "-": "-N", "*": "Z*"}[sign])


def _half_line(key: str, sign: str) -> Node:
    low, zero, high = (Expr(t, t) for t in ("-\\infty", "0", "\\infty"))
    zero = parse_cleaned("0")
    if sign == "*":
        below, above = Seq(key, "()", (low, zero)), Seq(key, "()", (zero, high))
        return Union(key, (below, above))
    if sign == "-":
        return Seq(key, "()", (low, zero))
    return Seq(key, "[)" if sign == "0+" else "()", (zero if sign else low, high))


def _option(text: str, key: str) -> Node | None:
    """Read an option with its letter: `(C) 5`, `C. 5`, `C: 5`."""
    if text[0] != "(" and not text[0].isupper():
        return None
    option = split_option(text)
    if option is None or option[1] == "-":
        return None
    letter, sign, content = option
    return Option(key, letter, sign, parse_cleaned(content))


# --- numbers -----------------------------------------------------------------------------------

_BASED = re.compile(
    r"(-?)\s*\(?\s*([0-9A-Z]*[0-9][0-9A-Z]*|[A-Z]{2,})\s*\)?\s*_\{?\s*(\d{1,2}|[a-z]+)\s*\}?",
    re.ASCII,
)
_MODULUS = re.compile(
    r"(.*?)(?:\\pmod|\\mod|\\bmod|\(\s*\\?mod(?![a-z]))\s*\{?\s*(\d+)\s*\}?\s*\)?", re.S
)
_PLAIN_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)


def _number(text: str, key: str) -> Node | None:
    if not _PLAIN_NUMBER.fullmatch(text):
        special = _special_number(text, key)
        if special is not None:
            return special
    quantity = read_quantity(strip_brackets(text)) or _negative(text)
    if quantity is None:
        return None
    return Num(key, quantity.number, quantity.unit, quantity.percent, quantity.finest)


def _special_number(text: str, key: str) -> Node | None:
    """Read digits with a base or a modulus, times of day, dates and ratios."""
    if "_" in text:
        based = _based(text, key)
        if based:
            return based
    if "mod" in text:
        modulus = _MODULUS.fullmatch(text)
        quantity = read_quantity(modulus[1].strip()) if modulus else None
        if modulus and quantity:
            number = numbers.modulo(quantity.number, int(modulus[2]))
            return Num(key, number, Unit(words=frozenset({f"mod {modulus[2]}"})))
    time = clock.read_time(text)
    if time:
        return Ratio(key, time[0], True, time[1])
    ratio = clock.read_ratio(text)
    if ratio:
        return Ratio(key, ratio, False)
    date = clock.read_date(text)
    return Word(key, date) if date else None


def _based(text: str, key: str) -> Based | None:
    r"""Read `1061_9`, `1011_{\text{two}}`, `FF_{16}`."""
    match = _BASED.fullmatch(text)
    if not match:
        return None
    base, digits = numerals.small(match[3]), match[2].lstrip("0") or "0"
    if base is None or not 2 <= base <= 36:
        return None
    if digits.isalpha() and any(int(digit, 36) >= base for digit in digits):
        return None  # the length AB_1
    return Based(key, match[1] + digits, base)


def _negative(text: str) -> Quantity | None:
    """Read `-(1/2)`."""
    if not re.fullmatch(r"-\s*\([^(),]+\)", text):
        return None
    return read_quantity(f"-{text.lstrip('- ')[1:-1].strip()}") if "(-" not in text else None


# --- several values ----------------------------------------------------------------------------

_AND_OR = re.compile(
    r"\s*,?\s*(?:(?<![a-zA-Z\\])(?P<word>and/or|and|or)(?![a-zA-Z])|\\(?P<sign>land|lor)(?![a-z])"
    r"|(?P<han>[或和与]))\s*",
    re.I,
)
_LIST = frozenset({",", ";", "\\land", "\\lor"})
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:,\d{3})+)(?!\d)", re.ASCII)
_SYSTEM = re.compile(r"\\begin\{(cases|aligned|align|gathered)\*?\}(.*)\\end\{\1\*?\}", re.S)
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "{": "}"}
_PLAIN = {"\\{": "{", "\\}": "}", "\\langle": "(", "\\rangle": ")"}


def _joint(match: re.Match[str]) -> str:
    spelled = (match["word"] or match["sign"] or match["han"]).lower()
    return r" \land " if spelled in ("and", "land", "和", "与") else r" \lor "


def _split_list(text: str) -> tuple[list[str], str]:
    """Split at commas, semicolons, "and" and "or", but not at thousands separators.

    Returns:
        Parts, and what joins them: ",", "or" or "and"; "or" binds the least.
    """
    protected = _THOUSANDS.sub(lambda m: m[1] + m[2].replace(",", "\0"), text)
    protected = _AND_OR.sub(_joint, protected)
    parts, signs = split_with(protected, _LIST)
    joint = "and" if "\\land" in signs else ","
    if "\\lor" in signs:
        joint = "or"
        if "\\land" in signs:
            parts = split_top(protected, {"\\lor"})
    parts = [part.replace("\0", ",") for part in parts]
    return [part for part in parts if _trim(part)], joint


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
    points = _alternative_points(text, key)
    if points is not None:
        return points
    parts, joint = _split_list(text)
    parts = _without_domain(parts)
    if len(parts) < 2:
        return parse_cleaned(parts[0]) if parts and parts[0] != text else None
    return Seq(key, "", _items(parts), joint)


_NAMED = re.compile(r"\s*([a-zA-Z])\s*=([^=]+)")


def _alternative_points(text: str, key: str) -> Seq | None:
    """Read `x=1, y=2 or x=2, y=1` as two points."""
    if "=" not in text or "or" not in text:
        return None
    points, named = [], set()
    for part in split_top(_AND_OR.sub(_joint, text), {"\\lor"}):
        values = [_NAMED.fullmatch(value) for value in split_top(part, _LIST)]
        if len(values) < 2 or not all(values):
            return None
        named.add(tuple(value[1] for value in values if value))
        points.append(f"({','.join(value[2] for value in values if value)})")
    if len(points) < 2 or len(named) > 1 or len(set(*named)) < 2:
        return None
    return Seq(key, "", tuple(map(parse_cleaned, points)))


_REAL = re.compile(r"[a-z]\s*\\in\s*\\mathbb\{R\}|(?:x\s*)?(?:is\s*)?real")
_INTEGER = re.compile(
    r"(?:where|for|with|any)?\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*[ZN]\s*\}?"
    r"|is an integer|an integer)"
)
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-z])")


def _without_domain(parts: list[str]) -> list[str]:
    r"""Drop `x \in \mathbb{R}`, and `n \in \mathbb{Z}` after renaming that integer k elsewhere.

    An integer between bounds, `1 \le n \le 3, n \in \mathbb{Z}`, keeps its domain.
    """
    if len(parts) > 1:
        parts = [part for part in parts if not _REAL.fullmatch(part)] or parts
    match = _INTEGER.fullmatch(parts[-1].strip()) if len(parts) > 1 else None
    if not match:
        return parts
    if any(_INEQUALITY.search(part) for part in parts):
        return [*parts[:-1], f"{match[1]} \\in \\mathbb{{Z}}"]
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
    if isinstance(first, Relation) and not any(isinstance(node, Relation) for node in nodes[1:]):
        if first.signs == ("=",):
            nodes[0] = first.sides[1].node  # "n = 2, 3, 4": the name belongs to all values
        elif first.signs == ("\\ne",):
            name = first.sides[0].text  # x \ne 1, 2
            nodes[1:] = [parse_cleaned(rf"{name} \ne {part}") for part in parts[1:]]
    return tuple(nodes)


_SET_BUILDER = re.compile(
    r"(?P<name>[a-zA-Z])\s*(?:\\in\s*(?P<domain>\\mathbb\{[A-Z]\}[^|:]*))?[|:]"
    r"\s*(?P<condition>.*(?:<|>|\\le|\\ge|\\ne|=|\\in).*)",
    re.S,
)
_POINT = re.compile(r"([A-Z])'?\s*(\(.*,.*\))", re.S)


def _bracketed(text: str, key: str) -> Node | None:
    """Read a tuple, an interval or a set; drop a bracket around one value."""
    point = _POINT.fullmatch(text)
    if point and _encloses(point[2]):
        node = parse_cleaned(point[2])
        return replace(node, key=key, name=point[1]) if isinstance(node, Seq) else None
    opener = next((b for b in _BRACKETS if text.startswith(b)), None)
    closer = next((b for b in _BRACKETS.values() if text.endswith(b)), None)
    if opener is None or closer is None or not _encloses(text):
        return None
    inner = text[len(opener) : -len(closer)].strip()
    condition = _SET_BUILDER.fullmatch(inner) if opener == "\\{" else None
    if condition:
        return _set_builder(key, condition)
    parts = _split_list(inner)[0]
    if len(parts) < 2:
        parts = split_top(_AND_OR.sub(_joint, inner), _LIST)
    if not all(parts):
        return None
    brackets = _PLAIN.get(opener, opener) + _PLAIN.get(closer, closer)
    if len(parts) > 1:
        ordered = brackets != "{}" and len(parts) == 2
        if "\\pm" in inner and brackets == "()":
            return Seq(key, "", tuple(map(parse_cleaned, _signs_chosen(text))), "and")
        items = tuple(map(parse_cleaned, parts)) if ordered else _items(parts)
        return Seq(key, brackets, items)
    if brackets == "()":
        return parse_cleaned(inner)
    return Seq(key, brackets, _items([inner])) if brackets in ("{}", "[]") else None


def _set_builder(key: str, match: re.Match[str]) -> Node:
    """Read `\\{x \\in \\mathbb{Z} \\mid 1 \\le x \\le 3\\}`."""
    condition = parse_cleaned(match["condition"])
    domain = parse_cleaned(match["domain"]) if match["domain"] else None
    if domain is None or domain.key == "\\mathbb{R}":
        return replace(condition, key=key)
    return Intersection(key, (domain, condition))


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


_SIGN_PAIR = re.compile(r"\\(pm|mp)(?![a-zA-Z])")


def _plus_minus(text: str, key: str) -> Node | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    return Seq(key, "", tuple(map(parse_cleaned, _signs_chosen(text))), "\\pm")


def _signs_chosen(text: str) -> list[str]:
    """Return a text for every choice of its plus-minus signs, which are free unless there is a \\mp."""
    count = len(_SIGN_PAIR.findall(text))
    linked = "\\mp" in text or count > 3
    signs = {"pm": "+-", "mp": "-+"}
    chosen = []
    for choice in itertools.product((0, 1), repeat=1 if linked else count):
        choices = itertools.cycle(choice)
        picked = _SIGN_PAIR.sub(lambda m, c=choices: signs[m[1]][next(c)], text)
        chosen.append(re.sub(r"(^|[(,])\s*\+", r"\1", picked))
    return chosen


# --- sets and relations ------------------------------------------------------------------------

_SIGNS = frozenset({"=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx", "\\equiv", "\\sim"})
_PUNCTURED = re.compile(
    r"(?:x\s*\\in\s*)?(?:\\mathbb\{R\}|all\s+real\s+(?:numbers|x)|all\s+reals)\s*"
    r"(?:(?:\\setminus|-)\s*\\\{(.*)\\\}|(?:,\s*)?except\s*(?:for\s*)?(?:when\s*)?(?:x\s*=\s*)?(.*))",
    re.S,
)
_PHRASE = re.compile(
    r"(?:(?:all|any)\s+)?(?:real\s+(?:numbers?|values?)|reals|numbers|values)?\s*(?:of\s+)?(?P<name>[a-z])?"
    r"\s*(?:that\s+(?:is|are)|such\s+that|with|where|is|are)?\s*(?P<again>[a-z])?\s*(?:is|are)?\s*"
    r"(?P<sign>(?:strictly\s+)?(?:greater|more|less|smaller)\s+than(?:\s+or\s+equal\s+to)?|at\s+least"
    r"|at\s+most)\s+(?P<bound>\S.*)",
    re.S,
)


def _phrase(text: str) -> Node | None:
    """Read "all real numbers greater than 2", "x is at least 2" as an inequality."""
    phrase = _PHRASE.fullmatch(text) if "than" in text or "at " in text else None
    if not phrase or phrase.start("sign") == 0 or _AND_OR.search(phrase["bound"]):
        return None
    words = phrase["sign"]
    sign = "\\ge" if re.search("least|greater|more", words) else "\\le"
    if "than" in words and "equal" not in words:
        sign = {"\\ge": ">", "\\le": "<"}[sign]
    return parse_cleaned(f"{phrase['name'] or 'x'} {sign} {phrase['bound']}")


def _relation(text: str, key: str) -> Node | None:
    sides, signs = split_with(text, _SIGNS)
    if not signs or not all(sides):
        return None
    return Relation(key, tuple(Side(side, parse_cleaned(side)) for side in sides), tuple(signs))


def _punctured(text: str, key: str) -> Node | None:
    """Read "all real numbers except 3" as the union of the intervals on both sides."""
    match = _PUNCTURED.fullmatch(text)
    if not match:
        return None
    removed = _split_list(match[1] or match[2])[0]
    removed = [re.sub(r"^\s*x\s*=", "", part) for part in removed]
    if len(removed) != 1:
        whole, points = parse_cleaned("\\mathbb{R}"), parse_cleaned(rf"\{{{','.join(removed)}\}}")
        return Difference(key, whole, points)
    pieces = (f"(-\\infty,{removed[0]})", f"({removed[0]},\\infty)")
    return Union(key, tuple(map(parse_cleaned, pieces)))


_MINUS_POINTS = re.compile(r"(\\mathbb\{[RZN]\}|[(\[].*[)\]])\s*-\s*(\\\{.*\\\})", re.S)


def _set_operation(text: str, key: str) -> Node | None:
    """Read sets joined by `\\cup`, `\\cap`, `\\setminus`; the first binds the least."""
    for sign, kind in (("\\cup", Union), ("\\cap", Intersection)):
        parts = split_top(text, {sign})
        if len(parts) > 1 and all(parts):
            return kind(key, tuple(map(parse_cleaned, parts)))
    parts = split_top(text, {"\\setminus"})
    minus = _MINUS_POINTS.fullmatch(text)
    if len(parts) != 2 and minus:
        parts = [minus[1], minus[2]]
    if len(parts) == 2 and all(parts):
        return Difference(key, parse_cleaned(parts[0]), parse_cleaned(parts[1]))
    return None


# --- matrices ----------------------------------------------------------------------------------

_MATRIX = re.compile(
    r"\\begin\{(?P<env>[pbB]?matrix|smallmatrix|array)\*?\}\s*(?:\{[clr| ]*\})?"
    r"(?P<body>(?:(?!\\begin|\\end).)*)\\end\{(?P=env)\*?\}",
    re.S,
)


_TRANSPOSED = re.compile(
    r"(?P<vector>[(\[].*[)\]]|\\begin.*)\s*\^\s*\{?\s*(?:T|t|\\top|\\intercal|\\prime)\s*\}?", re.S
)


def _matrix(text: str, key: str) -> Node | None:
    transposed = _TRANSPOSED.fullmatch(text)
    if transposed:
        return _transpose(parse_cleaned(transposed["vector"]), key)
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


def _transpose(node: Node, key: str) -> Node | None:
    if isinstance(node, Seq) and node.brackets in ("()", "[]"):
        return Matrix(key, tuple((item,) for item in node.items))
    if not isinstance(node, Matrix) or len({len(row) for row in node.rows}) != 1:
        return None
    return Matrix(key, tuple(zip(*node.rows, strict=True)))


# --- words and expressions ---------------------------------------------------------------------

_WORDS = re.compile(r"[A-Za-z0-9\s.,:;'\"!?()/&\-]+")


def _words(text: str, key: str) -> Node | None:
    """Read an answer in words: what is no formula, or one run of letters."""
    if not _WORDS.fullmatch(text) or re.fullmatch(r"[A-Za-z]\(.*\)|\d+!.*", text):
        return None
    if not re.fullmatch(r"\(?[A-Za-z]\)?\.?", text) and not is_prose(text):
        return None
    sign = "-" if re.match(r"-\s*[A-Za-z]", text) else ""
    return Word(key, sign + fold_words(text))


def _expression(text: str, key: str) -> Node:
    body, unit, percent = split_expression(text)
    return Expr(key, body, unit, percent)
