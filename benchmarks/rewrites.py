"""Rewrite the golds of MATH and GSM8K mechanically, and count the wrong verdicts by kind.

    python benchmarks/rewrites.py --data ../shared/data
    python benchmarks/rewrites.py --data ../shared/data --math-verify --show 20

A rewrite says the same in another notation (spaces, `\\dfrac`, the decimals of a fraction, a set in
another order, an interval as an inequality, a unit, ...) or something else (a sign, a digit, another
unit or scale, a bracket of an interval, ...). The rewrites are a function of the seed. The table has,
for each kind, the pairs and the wrong verdicts: rewrites that are refused, changes that are accepted.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from custom_components.verifier import VerifierPool

Rewrite = Callable[[str, random.Random], str | None]
EQUAL: dict[str, Rewrite] = {}
CHANGED: dict[str, Rewrite] = {}

INTEGER = re.compile(r"-?\d+")
FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
PAIR = re.compile(r"(\\left)?([\[(])([^\[\](),]+),([^\[\](),]+)(\\right)?([\])])")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
PLAIN_LETTERS = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z])")


def equal(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite that keeps the answer."""
    return lambda rewrite: EQUAL.setdefault(name, rewrite)


def changed(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite that changes the answer."""
    return lambda rewrite: CHANGED.setdefault(name, rewrite)


def is_integer(gold: str) -> bool:
    """Return whether a gold is a plain integer."""
    return INTEGER.fullmatch(gold) is not None


def integers(low: int, high: int, write: Callable[[int, random.Random], str]) -> Rewrite:
    """Return a rewrite of the integer golds from `low` to `high`."""

    def rewrite(gold: str, rng: random.Random) -> str | None:
        if not is_integer(gold) or not low <= int(gold) <= high:
            return None
        return write(int(gold), rng)

    return rewrite


def values(gold: str) -> list[str]:
    """Return the values of a gold that lists plain numbers; empty for another gold."""
    inner = gold.removeprefix("\\{").removesuffix("\\}")
    parts = [part.strip() for part in inner.split(",")]
    if len(parts) < 2 or not all(
        re.fullmatch(r"-?\d{1,3}|-?\\frac\{\d+\}\{\d+\}", p) for p in parts
    ):
        return []
    return parts if len(set(parts)) == len(parts) else []


def interval(gold: str) -> tuple[str, str, str, str] | None:
    """Return (bracket, low, high, bracket) of an interval that can be nothing else."""
    match = PAIR.fullmatch(gold)
    if match is None:
        return None
    opening, low, high, closing = match[2], match[3].strip(), match[4].strip(), match[6]
    certain = "\\infty" in gold or opening + closing in ("[)", "(]")
    return (opening, low, high, closing) if certain else None


def fraction(gold: str) -> Fraction | None:
    """Return the value of a gold that is one fraction."""
    match = FRACTION.fullmatch(gold)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[2]), int(match[3]))
    return -value if match[1] else value


def decimals(value: Fraction) -> str | None:
    """Return the decimals of a fraction where they end within six places."""
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            sign = "-" if scaled < 0 else ""
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{sign}{digits[:-places]}.{digits[-places:]}"
    return None


def period(value: Fraction) -> tuple[str, str] | None:
    """Return the decimals before the period of a positive fraction, and a period of 1 to 6 digits."""
    if value <= 0:
        return None
    whole, rest = divmod(value.numerator, value.denominator)
    digits, seen = "", {}
    while rest and rest not in seen and len(digits) < 12:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, value.denominator)
        digits += str(digit)
    if not rest or rest not in seen or len(digits) - seen[rest] > 6:
        return None
    return f"{whole}.{digits[: seen[rest]]}", digits[seen[rest] :]


# --- rewrites that keep the answer ---------------------------------------------------------------

equal("spaces and $")(lambda gold, rng: f"$ {gold} $")
equal("braces")(lambda gold, rng: f"{{{gold}}}")
equal("boxed with a full stop")(lambda gold, rng: f"{gold}.")
equal("\\dfrac")(lambda gold, rng: gold.replace("\\frac", "\\dfrac") if "\\frac" in gold else None)
equal("\\left and \\right")(
    lambda gold, rng: (
        re.sub(r"([\[(])", r"\\left\1", re.sub(r"([\])])", r"\\right\1", gold))
        if re.search(r"[\[(]", gold)
        and "\\left" not in gold
        and "\\sqrt[" not in gold
        and "\\begin" not in gold
        else None
    )
)
equal("x = value")(
    lambda gold, rng: None if re.search(r"[=<>a-z,]|\\[lg]e", gold) else f"x = {gold}"
)
equal("slash fraction")(
    lambda gold, rng: (
        FRACTION.sub(r"\1\2/\3", gold) if FRACTION.search(gold) and _slash_is_safe(gold) else None
    )
)
equal("slash with brackets")(
    lambda gold, rng: (
        re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)", gold)
        if re.search(r"\\frac\{[^{}]+\}\{[^{}]+\}", gold) and not re.search(r"\d\\frac", gold)
        else None
    )
)
equal("Unicode signs")(
    lambda gold, rng: (
        gold.replace("\\pi", "π").replace("\\infty", "∞").replace("\\cup", "∪").replace("-", "−")
        if re.search(r"\\pi|\\infty|\\cup|-", gold)
        else None
    )
)
equal("thousands")(
    integers(1000, 10**9, lambda n, rng: rng.choice([f"{n:,}", f"{n:,}".replace(",", "{,}")]))
)
equal("integer as decimal")(integers(-(10**6), 10**6, lambda n, rng: f"{n}.0"))
equal("integer as fraction")(
    integers(-500, 500, lambda n, rng: (lambda k: rf"\frac{{{n * k}}}{{{k}}}")(rng.randint(2, 9)))
)
equal("integer in words")(integers(0, 12, lambda n, rng: rf"\text{{{WORDS[n]}}}"))
equal("unit behind an integer")(
    integers(
        0, 10**6, lambda n, rng: rf"{n}\text{{ {rng.choice(['cm', 'apples', 'hours', 'units'])}}}"
    )
)
equal("money")(integers(0, 10**6, lambda n, rng: rng.choice([rf"\${n}", f"{n} dollars"])))
equal("dozens")(lambda gold, rng: _if_multiple(gold, 12, "dozen"))
equal("thousand and million")(
    lambda gold, rng: _if_multiple(gold, 10**6, "million") or _if_multiple(gold, 1000, "thousand")
)
equal("decimals of a fraction")(lambda gold, rng: (v := fraction(gold)) and decimals(v))
equal("recurring decimal")(lambda gold, rng: _recurring(gold, rng))
equal("fraction not reduced")(
    lambda gold, rng: (
        FRACTION.sub(lambda m: _expanded(m, rng.randint(2, 5)), gold)
        if FRACTION.search(gold)
        else None
    )
)
equal("percent of a fraction")(
    lambda gold, rng: (
        f"{decimals(100 * v) or 100 * v.numerator // v.denominator}\\%"
        if (v := fraction(gold)) and (decimals(100 * v) or (100 * v).denominator == 1)
        else None
    )
)
equal("another order")(
    lambda gold, rng: (
        _joined_like(gold, rng.sample(parts, len(parts))) if (parts := values(gold)) else None
    )
)
equal("set for a list")(
    lambda gold, rng: rf"\{{{','.join(parts)}\}}" if (parts := values(gold)) else None
)
equal("or for commas")(
    lambda gold, rng: r"\text{ or }".join(parts) if (parts := values(gold)) else None
)
equal("interval as an inequality")(
    lambda gold, rng: _as_inequality(*ends) if (ends := interval(gold)) else None
)
equal("French interval")(
    lambda gold, rng: (
        f"{']' if ends[0] == '(' else '['}{ends[1]},{ends[2]}{'[' if ends[3] == ')' else ']'}"
        if (ends := interval(gold))
        else None
    )
)
equal("terms in another order")(lambda gold, rng: _terms_reversed(gold))
equal("factor 1 and term 0")(
    lambda gold, rng: (
        f"{gold}+0" if re.fullmatch(r"[a-z\d+^{}-]*[a-z][a-z\d+^{}-]*", gold) else None
    )
)
equal("degrees")(
    lambda gold, rng: (
        gold.replace("^\\circ", rng.choice(["^{\\circ}", "°", "\\text{ degrees}"]))
        if gold.endswith("^\\circ")
        else None
    )
)


# --- rewrites that change the answer --------------------------------------------------------------

changed("sign")(
    lambda gold, rng: (
        f"-{gold}" if re.match(r"(?:[1-9]|\\frac\{|\\sqrt)", gold) and _one_term(gold) else None
    )
)
changed("off by one")(integers(-(10**6), 10**6, lambda n, rng: str(n + rng.choice([-1, 1]))))
changed("a digit")(lambda gold, rng: _other_digit(gold, rng))
changed("ten times")(
    integers(
        1, 10**6, lambda n, rng: rng.choice([f"{n}0", f"{n / 10:.1f}" if n % 10 else f"{n}00"])
    )
)
changed("another unit")(
    lambda gold, rng: (
        re.sub(r"\\(?:text|mbox)\{[^{}]*\}", lambda m: _other_unit(m[0]), gold)
        if re.search(r"\\(?:text|mbox)\{\s*(?:square )?(?:cm|feet|inches|miles|hours|days)", gold)
        else None
    )
)
changed("scale word")(
    integers(
        1, 10**5, lambda n, rng: rf"{n}\text{{ {rng.choice(['thousand', 'million', 'dozen'])}}}"
    )
)
changed("percent sign")(
    lambda gold, rng: f"{gold}\\%" if (v := fraction(gold)) and abs(v) < 1 else None
)
changed("inverted fraction")(
    lambda gold, rng: (
        FRACTION.sub(r"\1\\frac{\3}{\2}", gold)
        if (v := fraction(gold)) and abs(v) != 1 and v != 0
        else None
    )
)
changed("rounded fraction")(
    lambda gold, rng: (
        f"{float(v):.3f}" if (v := fraction(gold)) and (1000 * v).denominator > 1 else None
    )
)
changed("a value missing")(
    lambda gold, rng: _joined_like(gold, parts[:-1]) if (parts := values(gold)) else None
)
changed("a value more")(
    lambda gold, rng: _joined_like(gold, [*parts, "977"]) if (parts := values(gold)) else None
)
changed("brackets of an interval")(lambda gold, rng: _other_brackets(gold, rng))
changed("interval for its ends")(
    lambda gold, rng: f"{ends[1]}, {ends[2]}" if (ends := interval(gold)) else None
)
changed("ray in the other direction")(
    lambda gold, rng: (
        _as_inequality(*ends)
        .replace("<", "#")
        .replace(">", "<")
        .replace("#", ">")
        .replace("\\le", "\\ge")
        if (ends := interval(gold)) and "\\infty" in gold and "\\le" not in _as_inequality(*ends)
        else None
    )
)
changed("tuple in another order")(
    lambda gold, rng: (
        f"({m[4]},{m[3]})"
        if (m := PAIR.fullmatch(gold)) and m[2] + m[6] == "()" and m[3].strip() != m[4].strip()
        else None
    )
)
changed("swapped letters")(lambda gold, rng: _swapped_letters(gold, rng))
changed("letter in another case")(lambda gold, rng: _other_case(gold, rng))
changed("plus for minus")(
    lambda gold, rng: (
        re.sub(r"(?<=[a-z\d})])\s*-", "+", gold, count=1)
        if re.search(r"(?<=[a-z\d})])\s*-\s*[\da-z\\]", gold) and _one_formula(gold)
        else None
    )
)
changed("slash for minus")(
    lambda gold, rng: (
        re.sub(r"(?<=[a-z])\s*-\s*(?=[a-z\d])", "/", gold, count=1)
        if re.search(r"(?<=[a-z])\s*-\s*(?=[a-z\d])", gold) and _one_formula(gold)
        else None
    )
)
changed("a term missing")(
    lambda gold, rng: (
        re.sub(r"[+-]\s*\d+$", "", gold)
        if re.search(r"[a-z}]\s*[+-]\s*[1-9]\d*$", gold) and _one_formula(gold)
        else None
    )
)
changed("root dropped")(
    lambda gold, rng: (
        gold.replace("\\sqrt", "", 1)
        if re.search(r"\\sqrt\{(?!1\})\d+\}", gold)
        and "\\sqrt{0}" not in gold
        and gold.count("\\sqrt") == 1
        else None
    )
)
changed("exponent")(
    lambda gold, rng: (
        re.sub(
            r"(?<=[a-z])\^(?:\{(\d)\}|(\d))",
            lambda m: f"^{{{int(m[1] or m[2]) + 1}}}",
            gold,
            count=1,
        )
        if re.search(r"(?<=[a-z])\^(?:\{\d\}|\d)", gold)
        else None
    )
)
changed("\\pi dropped")(
    lambda gold, rng: gold.replace("\\pi", "") if re.search(r"[\d}]\\pi$", gold) else None
)
changed("degrees as percent")(
    lambda gold, rng: gold.replace("^\\circ", "\\%") if gold.endswith("^\\circ") else None
)
changed("reciprocal ratio")(
    lambda gold, rng: (
        f"{m[2]}:{m[1]}" if (m := re.fullmatch(r"(\d+):(\d+)", gold)) and m[1] != m[2] else None
    )
)


def _slash_is_safe(gold: str) -> bool:
    """Return whether a slash reads as the fraction did: no digit or letter before it."""
    return not re.search(r"[\d)}a-z]\s*\\frac|\\frac\{\d+\}\{\d+\}\s*[\d^]", gold)


def _if_multiple(gold: str, size: int, word: str) -> str | None:
    if not is_integer(gold) or int(gold) <= 0 or int(gold) % size:
        return None
    return rf"{int(gold) // size}\text{{ {word}}}"


def _recurring(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    found = period(value) if value else None
    if found is None:
        return None
    head, tail = found
    dotted = (
        rf"\dot{{{tail}}}"
        if len(tail) == 1
        else rf"\dot{{{tail[0]}}}{tail[1:-1]}\dot{{{tail[-1]}}}"
    )
    notations = [
        rf"{head}\overline{{{tail}}}", f"{head}({tail})", head + dotted, f"{head}{tail * 3}\\ldots",
    ]  # fmt: skip
    return rng.choice(notations)


def _expanded(match: re.Match[str], factor: int) -> str:
    return rf"{match[1]}\frac{{{int(match[2]) * factor}}}{{{int(match[3]) * factor}}}"


def _joined_like(gold: str, parts: list[str]) -> str:
    inner = ",".join(parts)
    return rf"\{{{inner}\}}" if gold.startswith("\\{") else inner


def _as_inequality(opening: str, low: str, high: str, closing: str) -> str:
    below = r" \le " if opening == "[" else " < "
    above = r" \le " if closing == "]" else " < "
    if "\\infty" in low and "\\infty" in high:
        return "x \\in \\mathbb{R}"
    if "\\infty" in low:
        return f"x{above}{high}"
    if "\\infty" in high:
        return f"x{below.replace('<', '>').replace('le', 'ge')}{low}"
    return f"{low}{below}x{above}{high}"


def _terms_reversed(gold: str) -> str | None:
    if not re.fullmatch(r"[a-z\d^{}+-]+", gold) or not re.search(r"[a-z]", gold):
        return None
    terms = re.findall(r"[+-]?[a-z\d^{}]+", gold)
    if len(terms) < 2 or "".join(terms) != gold:
        return None
    signed = [term if term[0] in "+-" else f"+{term}" for term in terms]
    return "".join(reversed(signed)).removeprefix("+")


def _one_term(gold: str) -> bool:
    return not re.search(
        r"[,;:=<>+a-zA-Z]|-|\\text|\\mbox|\\pm|\\begin|_",
        re.sub(r"\\(?:frac|sqrt|pi|text\{[^{}]*\}|mbox\{[^{}]*\})", "", gold),
    ) and gold not in ("0",)


def _one_formula(gold: str) -> bool:
    return not re.search(r"\\text|\\mbox|\\begin|=|\\pm|,|\\infty", gold)


def _other_digit(gold: str, rng: random.Random) -> str | None:
    places = list(re.finditer(r"\d", gold))
    if not places or re.search(r"\\begin|\\{0", gold):
        return None
    place = rng.choice(places)
    digit = str((int(place[0]) + rng.randint(1, 8)) % 10)
    return gold[: place.start()] + digit + gold[place.end() :]


def _other_unit(unit: str) -> str:
    for one, other in (
        ("cm", "km"),
        ("feet", "yards"),
        ("inches", "feet"),
        ("miles", "meters"),
        ("hours", "minutes"),
        ("days", "weeks"),
    ):
        if one in unit:
            return unit.replace(one, other)
    return unit


def _other_brackets(gold: str, rng: random.Random) -> str | None:
    match = PAIR.fullmatch(gold)
    if match is None or interval(gold) is None:
        return None
    low, high = match.start(2), match.start(6)
    finite = [place for place, end in ((low, match[3]), (high, match[4])) if "\\infty" not in end]
    if not finite:
        return None
    place = rng.choice(finite)
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}[gold[place]]
    return gold[:place] + other + gold[place + 1 :]


def _swapped_letters(gold: str, rng: random.Random) -> str | None:
    letters = sorted(set(PLAIN_LETTERS.findall(gold)) - {"e", "i"})
    if (
        len(letters) < 2
        or not re.search(r"-|/|\^", gold)
        or not _one_formula(gold)
        or "text" in gold
    ):
        return None
    one, other = rng.sample(letters, 2)
    table = {one: other, other: one}
    swapped = PLAIN_LETTERS.sub(lambda m: table.get(m[0], m[0]), gold)
    return (
        swapped
        if re.fullmatch(r"[a-z\d]\s*-\s*[a-z\d]", gold)
        else None
        if swapped == gold
        else None
    )


def _other_case(gold: str, rng: random.Random) -> str | None:
    if not re.fullmatch(r"[\da-z+^{}()\-/ ]+", gold) or not re.search(r"[a-df-hj-z]", gold):
        return None
    if re.search(r"[a-z]{3}", gold):
        return None
    letter = rng.choice(sorted(set(re.findall(r"[a-df-hj-z]", gold))))
    return gold.replace(letter, letter.upper())


# --- the measurement -------------------------------------------------------------------------------


def golds(data: Path) -> list[str]:
    """Return the distinct golds of MATH and GSM8K in a data folder."""
    answers: dict[str, None] = {}
    for name in ("math/train7500_answers.jsonl", "eval/math500.jsonl"):
        for line in (data / name).open(encoding="utf-8"):
            answers[json.loads(line)["answer"].strip()] = None
    for name in ("gsm8k/train.jsonl", "gsm8k/test.jsonl"):
        for line in (data / name).open(encoding="utf-8"):
            answers[json.loads(line)["answer"].rpartition("####")[2].strip()] = None
    return [answer for answer in answers if answer]


def rewrites(data: Path, count: int, seed: int) -> Iterator[tuple[str, bool, str, str]]:
    """Yield `count` tuples (kind, whether it is equal, gold, answer), the same for a seed."""
    rng = random.Random(seed)
    pool: dict[tuple[str, bool], list[tuple[str, str]]] = {}
    for gold in golds(data):
        for right, kinds in ((True, EQUAL), (False, CHANGED)):
            for kind, rewrite in kinds.items():
                answer = rewrite(gold, rng)
                if answer and answer != gold:
                    pool.setdefault((kind, right), []).append((gold, answer))
    for pairs in pool.values():
        rng.shuffle(pairs)
    taken = 0
    while pool and taken < count:  # the rare kinds whole, the others in equal parts
        for key in list(pool):
            gold, answer = pool[key].pop()
            if not pool[key]:
                del pool[key]
            yield (*key, gold, answer)
            taken += 1
            if taken == count:
                return


def by_math_verify(pairs: list[tuple[str, bool, str, str]]) -> list[bool]:
    """Return math-verify's verdicts on the pairs."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verdicts = []
    for _, _, gold, answer in pairs:
        parsed = [
            parse(text, parsing_timeout=5) for text in (f"${gold}$", rf"$\boxed{{{answer}}}$")
        ]
        verdicts.append(bool(verify(*parsed, timeout_seconds=5)))
    return verdicts


def main() -> None:
    """Verify the rewrites and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="wrong verdicts to print of each kind")
    parser.add_argument("--math-verify", action="store_true", help="the same pairs by math-verify")
    args = parser.parse_args()

    pairs = list(rewrites(args.data, args.pairs, args.seed))
    items = ({"gold": g, "response": rf"So it is $\boxed{{{a}}}$."} for _, _, g, a in pairs)
    with VerifierPool(workers=args.workers) as pool:
        verdicts = [bool(verdict) for verdict in pool.imap(items)]
    theirs = by_math_verify(pairs) if args.math_verify else None
    for right, title in (
        (True, "Equal rewrites that are refused"),
        (False, "Changes that are accepted"),
    ):
        print(f"\n| {title} | pairs | wrong | % |{' math-verify % |' if theirs else ''}")
        print("|---|---|---|---|" + ("---|" if theirs else ""))
        rows = [index for index, pair in enumerate(pairs) if pair[1] == right]
        kinds = [*dict.fromkeys(pairs[index][0] for index in rows), "all"]
        shown: Counter[str] = Counter()
        wrong_pairs = []
        for kind in kinds:
            chosen = [index for index in rows if kind in (pairs[index][0], "all")]
            wrong = [index for index in chosen if verdicts[index] != right]
            line = (
                f"| {kind} | {len(chosen)} | {len(wrong)} | {100 * len(wrong) / len(chosen):.2f} |"
            )
            if theirs:
                missed = sum(theirs[index] != right for index in chosen)
                line += f" {100 * missed / len(chosen):.2f} |"
            print(line)
            for index in wrong:
                if kind != "all" and shown[kind] < args.show:
                    shown[kind] += 1
                    wrong_pairs.append(
                        f"  {kind}: gold {pairs[index][2]!r}, answer {pairs[index][3]!r}"
                    )
        print("\n".join(wrong_pairs))


if __name__ == "__main__":
    main()
