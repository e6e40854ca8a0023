"""Rewrite the golds of MATH and GSM8K mechanically, and count the wrong verdicts by kind.

    python benchmarks/rewrites.py --data ../shared/data
    python benchmarks/rewrites.py --data ../shared/data --math-verify --show 20

A rewrite says the same in another notation (spaces, `\\dfrac`, the decimals of a fraction, a set in
another order, an interval as an inequality, a unit, ...) or something else (a sign, a digit, another
unit or scale, a bracket of an interval, ...). The rewrites are a function of the seed. The tables
have, for each kind, the pairs and the wrong verdicts: rewrites refused, and changes accepted.
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

FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
PAIR = re.compile(r"(?:\\left)?([\[(])([^\[\](),]+),([^\[\](),]+?)(?:\\right)?([\])])")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
OTHER_UNITS = {
    "cm": "km",
    "feet": "yards",
    "inches": "feet",
    "miles": "meters",
    "hours": "minutes",
    "days": "weeks",
    "cents": "dollars",
}


def equal(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite that keeps the answer."""
    return lambda rewrite: EQUAL.setdefault(name, rewrite)


def changed(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite that changes the answer."""
    return lambda rewrite: CHANGED.setdefault(name, rewrite)


# --- what a gold is ------------------------------------------------------------------------------


def integer(gold: str) -> int | None:
    """Return the value of a gold that is a plain integer of at most nine digits."""
    return int(gold) if re.fullmatch(r"-?\d{1,9}", gold) else None


def fraction(gold: str) -> Fraction | None:
    """Return the value of a gold that is one fraction, and no integer."""
    match = FRACTION.fullmatch(gold)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[1] + match[2]), int(match[3]))
    return value if value.denominator > 1 else None


def values(gold: str) -> list[str]:
    """Return the values of a gold that lists different plain numbers; empty for another gold."""
    inner = gold.removeprefix("\\{").removesuffix("\\}")
    parts = [part.strip() for part in inner.split(",")]
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+", gold) or len(set(parts)) < max(2, len(parts)):
        return []
    number = re.compile(r"-?\d{1,3}|-?\\frac\{\d+\}\{\d+\}")
    return parts if all(map(number.fullmatch, parts)) else []


def joined(gold: str, parts: list[str]) -> str:
    """Return values between commas, in braces where the gold has them."""
    inner = ",".join(parts)
    return rf"\{{{inner}\}}" if gold.startswith("\\{") else inner


def interval(gold: str) -> tuple[str, str, str, str] | None:
    """Return (bracket, low, high, bracket) of an interval that can be nothing else."""
    match = PAIR.fullmatch(gold)
    if match is None or gold.count("\\infty") == 2:
        return None
    opening, low, high, closing = (part.strip() for part in match.groups())
    certain = "\\infty" in gold or opening + closing in ("[)", "(]")
    return (opening, low, high, closing) if certain else None


def inequality(opening: str, low: str, high: str, closing: str) -> str:
    """Return an interval as an inequality in x."""
    below = r"\le" if opening == "[" else "<"
    above = r"\le" if closing == "]" else "<"
    if "\\infty" in low:
        return f"x {above} {high}"
    if "\\infty" in high:
        return f"{low} {below} x"
    return f"{low} {below} x {above} {high}"


def formula(gold: str) -> bool:
    """Return whether a gold is one expression of letters and numbers."""
    commands = set(re.findall(r"\\[a-zA-Z]+", gold))
    return not re.search(r"[=,;:<>]", gold) and commands <= {"\\frac", "\\sqrt", "\\pi"}


def decimals(value: Fraction) -> str | None:
    """Return the decimals of a fraction where they end within six places."""
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{'-' if scaled < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return None


def period(value: Fraction) -> tuple[str, str] | None:
    """Return the decimals of a positive fraction before its period, and the period, if short."""
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


@equal("spaces, braces and $")
def _(gold: str, rng: random.Random) -> str | None:
    return rng.choice([f"$ {gold} $", f"{{{gold}}}", f"{gold}.", rf"\, {gold} \,"])


@equal("\\dfrac")
def _(gold: str, rng: random.Random) -> str | None:
    return gold.replace("\\frac", "\\dfrac")


@equal("\\left and \\right")
def _(gold: str, rng: random.Random) -> str | None:
    if "\\left" in gold or "\\sqrt[" in gold or "\\begin" in gold:
        return None
    return re.sub(r"([\[(])", r"\\left\1", re.sub(r"([\])])", r"\\right\1", gold))


@equal("x = value")
def _(gold: str, rng: random.Random) -> str | None:
    return None if re.search(r"[=<>a-z,]|\\[lg]e", gold) else f"x = {gold}"


@equal("slash fraction")
def _(gold: str, rng: random.Random) -> str | None:
    if re.search(r"[\d)}a-z]\s*\\frac|\\frac\{\d+\}\{\d+\}\s*[\d^]", gold):
        return None
    return FRACTION.sub(r"\1\2/\3", gold)


@equal("slash with brackets")
def _(gold: str, rng: random.Random) -> str | None:
    if re.search(r"\d\s*\\frac|\\(?:sin|cos|tan|sec)", gold):
        return None
    return re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)", gold)


@equal("Unicode signs")
def _(gold: str, rng: random.Random) -> str | None:
    signs = {"\\pi": "π", "\\infty": "∞", "\\cup": "∪", "-": "−"}
    for command, sign in signs.items():
        gold = gold.replace(command, sign)
    return gold


@equal("thousands")
def _(gold: str, rng: random.Random) -> str | None:
    value = integer(gold)
    if value is None or abs(value) < 1000:
        return None
    return f"{value:,}".replace(",", rng.choice([",", "{,}", r",\!"]))


@equal("integer as decimal or fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value, factor = integer(gold), rng.randint(2, 9)
    if value is None:
        return None
    return rng.choice([f"{value}.0", f"{value}.00", rf"\frac{{{value * factor}}}{{{factor}}}"])


@equal("integer in words")
def _(gold: str, rng: random.Random) -> str | None:
    value = integer(gold)
    return None if value is None or not 0 <= value <= 12 else rf"\text{{{WORDS[value]}}}"


@equal("unit behind an integer")
def _(gold: str, rng: random.Random) -> str | None:
    unit = rng.choice(["cm", "apples", "hours", "units", "dollars", "square feet"])
    return None if integer(gold) is None else rf"{gold}\text{{ {unit}}}"


@equal("money")
def _(gold: str, rng: random.Random) -> str | None:
    return None if (integer(gold) or -1) < 0 else rng.choice([rf"\${gold}", rf"\${gold}.00"])


@equal("dozen, thousand and million")
def _(gold: str, rng: random.Random) -> str | None:
    value = integer(gold) or 0
    for size, word in ((10**6, "million"), (1000, "thousand"), (12, "dozen")):
        if value > 0 and value % size == 0:
            return rf"{value // size}\text{{ {word}}}"
    return None


@equal("decimals of a fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    return decimals(value) if value else None


@equal("recurring decimals of a fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    notation = period(value) if value and value > 0 else None
    if notation is None:
        return None
    head, tail = notation
    dotted = rf"\dot{{{tail}}}"
    if len(tail) > 1:
        dotted = rf"\dot{{{tail[0]}}}{tail[1:-1]}\dot{{{tail[-1]}}}"
    ends = [rf"\overline{{{tail}}}", f"({tail})", dotted, f"{tail * 3}\\ldots"]
    return head + rng.choice(ends)


@equal("fraction not reduced")
def _(gold: str, rng: random.Random) -> str | None:
    factor = rng.randint(2, 5)
    return FRACTION.sub(
        lambda m: rf"{m[1]}\frac{{{int(m[2]) * factor}}}{{{int(m[3]) * factor}}}", gold
    )


@equal("percent of a fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    digits = decimals(100 * value) if value else None
    return rf"{digits}\%" if digits else None


@equal("values in another order")
def _(gold: str, rng: random.Random) -> str | None:
    parts = values(gold)
    return joined(gold, rng.sample(parts, len(parts))) if parts else None


@equal("set or words for a list")
def _(gold: str, rng: random.Random) -> str | None:
    parts = values(gold)
    if not parts:
        return None
    return rng.choice([rf"\{{{','.join(parts)}\}}", r"\text{ or }".join(parts)])


@equal("interval as an inequality")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    return inequality(*ends) if ends else None


@equal("interval with reversed brackets")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    if ends is None:
        return None
    opening, low, high, closing = ends
    return f"{']' if opening == '(' else '['}{low},{high}{'[' if closing == ')' else ']'}"


@equal("interval in two parts")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    if ends is None or "\\infty" not in ends[2] or integer(ends[1]) is None:
        return None
    middle = int(ends[1]) + rng.randint(1, 9)
    return rf"{ends[0]}{ends[1]},{middle}] \cup ({middle},\infty)"


@equal("terms in another order")
def _(gold: str, rng: random.Random) -> str | None:
    terms = re.findall(r"[+-]?[a-z\d^{}]+", gold)
    if len(terms) < 2 or "".join(terms) != gold or not re.search("[a-z]", gold):
        return None
    signed = [term if term[0] in "+-" else f"+{term}" for term in terms]
    return "".join(reversed(signed)).removeprefix("+")


@equal("letters in another order")
def _(gold: str, rng: random.Random) -> str | None:
    if not re.fullmatch(r"[a-z\d+^{}()-]+", gold):
        return None
    swapped = re.sub(r"(?<![a-z])([a-df-hj-z])([a-df-hj-z])(?![a-z^(])", r"\2\1", gold)
    return swapped


@equal("degrees")
def _(gold: str, rng: random.Random) -> str | None:
    if not gold.endswith("^\\circ"):
        return None
    return gold.replace("^\\circ", rng.choice(["^{\\circ}", "°", "\\text{ degrees}"]))


# --- rewrites that change the answer -------------------------------------------------------------


@changed("sign")
def _(gold: str, rng: random.Random) -> str | None:
    bare = re.sub(r"\\(?:frac|sqrt|pi)", "", gold)
    return f"-{gold}" if re.fullmatch(r"[\d{}.]*[1-9][\d{}.]*", bare) else None


@changed("off by one")
def _(gold: str, rng: random.Random) -> str | None:
    value = integer(gold)
    return None if value is None else str(value + rng.choice([-1, 1]))


@changed("a digit")
def _(gold: str, rng: random.Random) -> str | None:
    places = list(re.finditer(r"\d", gold))
    if not places or re.search(r"\\begin|\^\{?\d\}?$", gold):
        return None
    place = rng.choice(places)
    digit = str((int(place[0]) + rng.randint(1, 8)) % 10)
    return gold[: place.start()] + digit + gold[place.end() :]


@changed("ten times")
def _(gold: str, rng: random.Random) -> str | None:
    value = integer(gold)
    return f"{gold}0" if value else None


@changed("another unit")
def _(gold: str, rng: random.Random) -> str | None:
    match = re.search(r"\\(?:text|mbox)\{\s*(?:square )?(\w+)", gold)
    if match is None or match[1] not in OTHER_UNITS:
        return None
    return gold.replace(match[1], OTHER_UNITS[match[1]])


@changed("scale word")
def _(gold: str, rng: random.Random) -> str | None:
    return (
        rf"{gold}\text{{ {rng.choice(['thousand', 'million', 'dozen'])}}}"
        if integer(gold)
        else None
    )


@changed("percent sign")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    return rf"{gold}\%" if value and abs(value) < 1 else None


@changed("degrees as percent")
def _(gold: str, rng: random.Random) -> str | None:
    return gold.replace("^\\circ", "\\%") if gold.endswith("^\\circ") else None


@changed("inverted fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    return FRACTION.sub(r"\1\\frac{\3}{\2}", gold) if value else None


@changed("rounded fraction")
def _(gold: str, rng: random.Random) -> str | None:
    value = fraction(gold)
    return f"{float(value):.3f}" if value and (1000 * value).denominator > 1 else None


@changed("a value missing or more")
def _(gold: str, rng: random.Random) -> str | None:
    parts = values(gold)
    return joined(gold, rng.choice([parts[:-1], [*parts, "977"]])) if parts else None


@changed("bracket of an interval")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    if ends is None:
        return None
    opening, low, high, closing = ends
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if "\\infty" in low or "\\infty" not in high and rng.random() < 0.5:
        return f"{opening}{low},{high}{other[closing]}"
    return f"{other[opening]}{low},{high}{closing}"


@changed("interval for its ends")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    if ends is None:
        return None
    return rng.choice([f"{ends[1]}, {ends[2]}", rf"\{{{ends[1]}, {ends[2]}\}}"])


@changed("ray in the other direction")
def _(gold: str, rng: random.Random) -> str | None:
    ends = interval(gold)
    if ends is None or "\\infty" not in gold:
        return None
    other = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
    return " ".join(other.get(word, word) for word in inequality(*ends).split(" "))


@changed("tuple in another order")
def _(gold: str, rng: random.Random) -> str | None:
    match = re.fullmatch(r"\(([^(),\\]+),([^(),\\]+)\)", gold)
    if match is None or match[1].strip() == match[2].strip():
        return None
    return f"({match[2]},{match[1]})"


@changed("swapped letters")
def _(gold: str, rng: random.Random) -> str | None:
    match = re.fullmatch(r"(\d*)([a-df-hj-z])(\s*(?:-|/)\s*)(\d*)([a-df-hj-z])", gold)
    if match is None or match[2] == match[5]:
        return None
    return f"{match[1]}{match[5]}{match[3]}{match[4]}{match[2]}"


@changed("letter in another case")
def _(gold: str, rng: random.Random) -> str | None:
    letters = sorted(set(re.findall(r"[a-df-hj-z]", gold)))
    if not letters or not re.fullmatch(r"[\da-z+^{}()/ -]+", gold) or re.search("[a-z]{3}", gold):
        return None
    letter = rng.choice(letters)
    return gold.replace(letter, letter.upper())


@changed("plus or slash for minus")
def _(gold: str, rng: random.Random) -> str | None:
    if not formula(gold) or re.search(r"-\s*[a-z\d]*\s*$", gold) is None:
        return None
    sign = rng.choice("+/")
    if sign == "/" and not re.search(r"[a-z]\s*-\s*[a-z2-9]", gold):
        sign = "+"
    return re.sub(r"(?<=[a-z\d})])\s*-(?=\s*[a-z\d]+\s*$)", sign, gold)


@changed("a term missing")
def _(gold: str, rng: random.Random) -> str | None:
    return re.sub(r"(?<=[a-z}])\s*[+-]\s*[1-9]\d*$", "", gold) if formula(gold) else None


@changed("root dropped")
def _(gold: str, rng: random.Random) -> str | None:
    roots = re.findall(r"\\sqrt\{(\d+)\}", gold)
    if len(roots) != 1 or roots[0] in "01" or gold.count("\\sqrt") != 1:
        return None
    return gold.replace("\\sqrt", "")


@changed("exponent")
def _(gold: str, rng: random.Random) -> str | None:
    return re.sub(
        r"(?<=[a-z])\^(?:\{(\d)\}|(\d))", lambda m: f"^{{{int(m[1] or m[2]) + 1}}}", gold, count=1
    )


@changed("\\pi dropped")
def _(gold: str, rng: random.Random) -> str | None:
    return re.sub(r"(?<=[\d}])\s*\\pi$", "", gold)


@changed("ratio turned round")
def _(gold: str, rng: random.Random) -> str | None:
    match = re.fullmatch(r"(\d+):(\d+)", gold)
    return f"{match[2]}:{match[1]}" if match and match[1] != match[2] else None


# --- the measurement -----------------------------------------------------------------------------


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
    while pool and taken < count:  # the rare kinds are taken whole, the others in equal parts
        for kind, right in list(pool):
            gold, answer = pool[kind, right].pop()
            if not pool[kind, right]:
                del pool[kind, right]
            yield kind, right, gold, answer
            taken += 1
            if taken == count:
                return


def math_verify_verdicts(pairs: list[tuple[str, bool, str, str]]) -> list[bool]:
    """Return math-verify's verdicts on the pairs."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verdicts = []
    for _, _, gold, answer in pairs:
        texts = (f"${gold}$", rf"$\boxed{{{answer}}}$")
        parsed = [parse(text, parsing_timeout=5) for text in texts]
        verdicts.append(bool(verify(*parsed, timeout_seconds=5)))
    return verdicts


def print_table(
    title: str, pairs: list[tuple[str, bool, str, str]], columns: dict[str, list[bool]], right: bool
) -> None:
    """Print the wrong verdicts of each column by kind, on the pairs that are equal, or are not."""
    print(f"\n| {title} | pairs | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * len(columns))
    total: Counter[str] = Counter(pair[0] for pair in pairs if pair[1] == right)
    wrong: Counter[tuple[str, str]] = Counter()
    for name, verdicts in columns.items():
        for (kind, is_equal, _, _), verdict in zip(pairs, verdicts, strict=True):
            wrong[name, kind] += is_equal == right and verdict != right
    for kind, count in [*total.items(), ("all", total.total())]:
        cells = []
        for name in columns:
            number = wrong[name, kind]
            if kind == "all":
                number = sum(n for (column, _), n in wrong.items() if column == name)
            cells.append(f"{number} ({100 * number / count:.2f} %)")
        print(f"| {kind} | {count} | {' | '.join(cells)} |")


def main() -> None:
    """Verify the rewrites and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="wrong verdicts to print")
    parser.add_argument("--math-verify", action="store_true", help="the same pairs by math-verify")
    args = parser.parse_args()

    pairs = list(rewrites(args.data, args.pairs, args.seed))
    items = ({"gold": g, "response": rf"So it is $\boxed{{{a}}}$."} for _, _, g, a in pairs)
    with VerifierPool(workers=args.workers) as pool:
        columns = {"wrong": [bool(verdict) for verdict in pool.imap(items)]}
    if args.math_verify:
        columns["math-verify wrong"] = math_verify_verdicts(pairs)
    print_table("Equal rewrites, refused", pairs, columns, right=True)
    print_table("Changes, accepted", pairs, columns, right=False)
    wrong = [pair for pair, v in zip(pairs, columns["wrong"], strict=True) if v != pair[1]]
    for kind, _, gold, answer in wrong[: args.show]:
        print(f"{kind}: gold {gold!r}, answer {answer!r}")


if __name__ == "__main__":
    main()
