r"""Measure what the decontaminator finds and what it removes needlessly.

The benchmark checks copies of MATH-500 and AIME problems, verbatim and altered in known ways, and
counts recall for each kind of alteration. It lists what is flagged in GSM8K train and MATH train
without having been planted, with its score, to be judged by eye.

    python benchmarks/decontamination.py --data DATA

It prints Markdown tables. It does not cover translations, nor problems retold in other words except
for ten that were written by hand, most of which no rule finds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from custom_components.data.decontamination import SIMILARITY, Decontaminator, Match
from eval.sets import evaluation_problems

Problem = tuple[str, str]
Alteration = Callable[[str, random.Random], str]

MATH = re.compile(
    r"(\[asy\].*?\[/asy\]|(?<!\\)\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{align\*?\}.*?\\end\{align\*?\}"
    r"|(?<!\\)\$(?:\\.|[^$\\])*\$)",
    re.DOTALL,
)
NAMES = """Alice Bob Denali Nate Jack Rosa Steve Yann Camille Ringo Louis Amy Chris Jon Jen Betty
Jim Martha Pierre Thomas Daniel Rick Baker Frank Sam Ben Susan Pam Juan Dan Freddie Navin Luka Ian
Wilma Linda Sherry Connie Tom Aya Silas Bill Remmy Brennan Suzanne Zach Hillary Paul Jesse Mikka
Oscar Pat Charlie Donald Bernie William Sydney Kathy Roslyn Karla Alex June Mary John Sarah Jane
Kate Peter Emily Anna Max Henry Carol George Lisa Emma Michael David Robert Mark Tim Joe Mike Ann
Catherine Jenny Johnny Sally Ella Carla Evan Cassie Ryan Jill Tony Harry Adam Larry Julia Kelly
Roger Greg Fred Megan Jason Eric Luke Laura Lucy Grace Josh Andy Matt Nick Rachel Ed Bella""".split()
OTHER_NAMES = """Priya Olumide Svetlana Hiroshi Fatima Esteban Ingrid Kwame Leilani Dmitri Noor
Anselm Beatriz Cheng Dalia Emeka Farid Gudrun Haruka Imani""".split()
SYNONYMS = [
    (r"find the value of", "determine what equals"),
    (r"what is the value of", "evaluate"),
    (r"how many", "what is the number of"),
    (r"what is the number of", "how many"),
    (r"what is", "determine"),
    (r"find|compute", "determine"),
    (r"determine|calculate|evaluate", "find"),
    (r"simplify", "reduce to simplest form"),
    (r"express", "write"),
    (r"enter", "give"),
    (r"positive integers", "natural numbers"),
    (r"positive integer", "natural number"),
    (r"integers", "whole numbers"),
    (r"integer", "whole number"),
    (r"value", "amount"),
    (r"smallest", "least"),
    (r"least", "smallest"),
    (r"largest", "greatest"),
    (r"greatest", "largest"),
    (r"maximum", "largest"),
    (r"minimum", "smallest"),
    (r"such that", "so that"),
    (r"suppose|assume", "let us say"),
    (r"equal to", "the same as"),
    (r"distinct", "different"),
    (r"different", "distinct"),
    (r"exactly", "precisely"),
    (r"side lengths", "lengths of the sides"),
    (r"total", "sum"),
    (r"contains", "has"),
    (r"divided by", "over"),
    (r"probability", "chance"),
    (r"chosen|selected", "picked"),
    (r"each", "every"),
    (r"satisfying|satisfies", "fulfilling"),
    (r"circle", "disk boundary"),
    (r"people|persons", "individuals"),
    (r"expression", "formula"),
    (r"solutions", "roots"),
    (r"begins|starts", "commences"),
    (r"buys", "purchases"),
    (r"area", "surface"),
]

# Each of these retells one problem of MATH-500 or AIME 2024/25 by hand.
RETOLD = [
    "A beaker shaped like a cylinder stands 8 cm tall, its radius being 3 cm. To fill a tank that "
    "is a sphere with 6 cm radius, how many beakers full of water are needed?",
    "At Baker Middle School, 834 pupils study music, which is two-thirds of all pupils. What is "
    "the size of the school's student body?",
    "Eleven dimes and nickels make up Sara's 75 cents. Find how many of them are nickels.",
    "We are given the sum of the first $N$ odd positive numbers: it equals 121. Determine $N$.",
    "A rectangular field is 300 ft wide and 400 ft long. Two friends stand in a corner; one "
    "crosses along the diagonal, the other walks along the sides to the same spot. By how many "
    "feet is the second path longer?",
    "Sum all integers b greater than 9 such that $17_b$ divides $97_b$.",
    "Polar coordinates (r, theta), with r>0 and 0 <= theta < 2 pi, of the rectangular point (0,3)?",
    "Ten boxes belong to Roslyn: pencils are in five, pens in four, and two hold both. In how many "
    "of them are there no pens and no pencils?",
    "Choosing one element of $S=\\{1,2,\\ldots,100\\}$ at random, how likely is it to be even but "
    "not a multiple of 3? (Give a common fraction.)",
    "Sixteen chairs stand in a line. Eight persons sit down, one on each chair, such that nobody "
    "has neighbours on both sides. If N counts the possible subsets of chairs, what is N mod 1000?",
]


def words_only(change: Callable[[str], str], text: str) -> str:
    """Apply `change` to the text outside formulas and drawings."""
    return "".join(p if i % 2 else change(p) for i, p in enumerate(MATH.split(text)))


def verbatim(text: str, rng: random.Random) -> str:
    """Return the text as it is."""
    return text


def respaced(text: str, rng: random.Random) -> str:
    """Change white space, LaTeX spacing and delimiters, case and punctuation."""

    def formula(part: str) -> str:
        if part.startswith(("[asy]", r"\begin")):
            return part.replace("\n", "\n\n")
        body = re.sub(r"^(\$+|\\[\[(])|(\$+|\\[\])])$", "", part)
        spaces = [" {} ", r"\,{}\;", "{}"]
        body = re.sub(r"(?<!\\)([=+<>,])", lambda m: rng.choice(spaces).format(m[1]), body)
        opening, closing = rng.choice([("$", "$"), (r"\(", r"\)"), ("$$", "$$"), ("", "")])
        return f"{opening} {body}{closing}"

    def words(part: str) -> str:
        part = rng.choice([str.upper, str.lower, str])(part)
        if rng.random() < 0.5:
            part = re.sub(r"[,;:.](?=\s|$)", "", part)
        else:
            part = re.sub(r"\.(?=\s|$)", " ;", part)
        return re.sub(r"\s+", lambda _: rng.choice([" ", "  ", "\n", "\t "]), part)

    return "".join((formula if i % 2 else words)(p) for i, p in enumerate(MATH.split(text)))


def renamed(text: str, rng: random.Random) -> str:
    """Give people other names, and the same person the same name everywhere."""
    names = iter(rng.sample(OTHER_NAMES, len(OTHER_NAMES)))
    chosen: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        if match[0] not in chosen:
            chosen[match[0]] = next(names)
        return chosen[match[0]]

    return re.sub(rf"(?<![\\A-Za-z])({'|'.join(NAMES)})(?![A-Za-z])", other, text)


def relettered(text: str, rng: random.Random) -> str:
    """Replace the letters of variables and points in formulas one by one."""
    letters = [list("abcdfghjkmnpqrstuvwxyz"), list("ABCDEFGHJKLMNPQRSTUVWXYZ")]
    table = {}
    for alphabet in letters:
        moved = alphabet[7:] + alphabet[:7]
        table |= dict(zip(alphabet, moved, strict=True))

    def formula(part: str) -> str:
        if part.startswith("[asy]"):
            return part
        pieces = re.split(r"(\\(?:text|mbox|mathrm|begin|end)\s*\{[^}]*\}|\\[A-Za-z]+)", part)
        return "".join(
            p if i % 2 else "".join(table.get(c, c) for c in p) for i, p in enumerate(pieces)
        )

    return "".join(formula(p) if i % 2 else p for i, p in enumerate(MATH.split(text)))


def synonyms(text: str, rng: random.Random) -> str:
    """Replace every phrase of the table that occurs, each place once."""
    table = {}
    for pattern, word in SYNONYMS:
        for phrase in pattern.split("|"):
            table.setdefault(phrase, word)

    def other(match: re.Match[str]) -> str:
        word = table[match[0].lower()]
        return word[0].upper() + word[1:] if match[0][0].isupper() else word

    pattern = re.compile(rf"\b({'|'.join(sorted(table, key=len, reverse=True))})\b", re.I)
    return words_only(lambda part: pattern.sub(other, part), text)


def sentences(text: str) -> list[str]:
    """Split a text into sentences; a full stop inside a formula or drawing does not end one."""
    formulas = iter(MATH.findall(text))
    marked = MATH.sub("\x00", text)
    parts = []
    for part in re.split(r"(?<=[.?!])\s+|(?<=[.,]\x00)\s+(?=[A-Z])|\n\n+", marked.strip()):
        parts.append(re.sub("\x00", lambda _: next(formulas), part))
    return [p for p in parts if p.strip()]


def reordered(text: str, rng: random.Random) -> str:
    """Put the last sentence first and swap the others in pairs; swap clauses if there is one."""
    parts = sentences(text)
    if len(parts) > 1:
        *rest, last = parts
        swapped = [p for i in range(0, len(rest), 2) for p in reversed(rest[i : i + 2])]
        return " ".join([last, *swapped])
    hidden = MATH.findall(text)
    marked = MATH.sub("\x00", text.strip()).rstrip(".?! ")
    for split in (
        r",\s+(?=what|how|find|compute|then|where|determine|which|who)",
        r"\s+(?=if |given that |when |where |such that |so that |for which )",
        r",\s+",
        r"\s+(?=of |in |for |from |by |to )",
    ):
        first, *second = re.split(split, marked, maxsplit=1, flags=re.I)
        if second and first.strip():
            count = first.count("\x00")
            swapped = f"{second[0]}, {first}.".split("\x00")
            formulas = [*hidden[count:], *hidden[:count], ""]
            return "".join(a + b for a, b in zip(swapped, formulas, strict=True))
    return text


def combined(text: str, rng: random.Random) -> str:
    """Change names, synonyms and order, all at once."""
    return reordered(synonyms(renamed(text, rng), rng), rng)


def renumbered(text: str, rng: random.Random) -> str:
    """Change every number except 0, 1 and 2, which makes it a different problem."""

    def other(match: re.Match[str]) -> str:
        number = match[0]
        return number if int(number) <= 2 else str(int(number) + rng.randint(1, int(number)))

    parts = re.split(r"(\[asy\].*?\[/asy\])", text, flags=re.DOTALL)
    return "".join(p if i % 2 else re.sub(r"\d+", other, p) for i, p in enumerate(parts))


KINDS: dict[str, Alteration] = {
    "verbatim": verbatim,
    "re-spaced": respaced,
    "names changed": renamed,
    "variables changed": relettered,
    "synonyms": synonyms,
    "word order changed": reordered,
    "names, synonyms, order": combined,
}
ALTERED = ("names changed", "synonyms", "word order changed")


def planted(
    problems: list[Problem], kind: str, count: int | None, seed: int = 0
) -> list[tuple[Problem, str]]:
    """Return altered copies of a random sample of those problems that the alteration changes.

    Args:
        problems: (set, text) pairs to draw from.
        kind: Key of `KINDS`, or "other numbers".
        count: Number of copies; None for all.
        seed: Seed of the draw and of the alterations.

    Returns:
        Pairs of the original problem and the copy's text.
    """
    alter = KINDS.get(kind, renumbered)
    rng = random.Random(f"{seed} {kind}")
    copies = [(p, alter(p[1], rng)) for p in rng.sample(problems, len(problems))]
    return [(p, c) for p, c in copies if kind == "verbatim" or c != p[1]][:count]


def table(header: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    print("\n| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def brief(text: str, length: int = 150) -> str:
    """Return a problem on one line, fit for a table."""
    text = " ".join(text.split()).replace("|", r"\|")
    return text if len(text) <= length else text[:length] + "..."


def recall_row(
    kind: str, findings: list[Match | None], without_ngrams: list[Match | None]
) -> list[object]:
    """Return the table row of one kind of copy: how many each rule finds."""
    reasons = Counter(f.reason for f in findings if f)
    caught = [len(c) - c.count(None) for c in (findings, without_ngrams)]
    shares = [f"{100 * n / max(1, len(findings)):.1f} %" for n in caught]
    return [kind, len(findings), reasons["exact"], reasons["ngram"], reasons["similar"], *shares]


def measure_recall(decontaminator: Decontaminator, targets: list[Problem], count: int) -> None:
    """Print tables of the planted copies that are found and of those that are missed."""
    # No problem has this many words, which turns the n-gram rule off.
    without_ngrams = Decontaminator(decontaminator.problems, 10**6, decontaminator.similarity)
    rows, missed = [], []
    for kind in [*KINDS, "other numbers"]:
        copies = planted(targets, kind, count)
        texts = [text for _, text in copies]
        findings = decontaminator.check(texts)
        rows.append(recall_row(kind, findings, without_ngrams.check(texts)))
        if kind in KINDS:
            missed += [
                [kind, name, brief(original), brief(text)]
                for ((name, original), text), f in zip(copies, findings, strict=True)
                if f is None
            ]
    print("\n## Planted copies\n\nThe last row is not a copy: there, fewer is better.")
    header = ["kind", "planted", "exact", "ngram", "similar", "found", "found without n-grams"]
    table(header, rows)
    loose = Decontaminator(decontaminator.problems, similarity=1e-6)
    retold = loose.check(RETOLD)
    scores = ", ".join(f"{f.score:.2f}" for f in retold if f)
    print(f"\nRetold by hand, {len(RETOLD)} problems; their scores: {scores}")
    print(f"\n## Missed: {len(missed)}")
    table(["kind", "set", "problem", "copy"], missed)


def measure_removals(
    decontaminator: Decontaminator, sets: dict[str, list[str]], shown: int
) -> None:
    """Print tables of what is flagged in training sets, and how fast."""
    summary, examples = [], []
    for name, texts in sets.items():
        start = time.perf_counter()
        findings = decontaminator.check(texts)
        seconds = time.perf_counter() - start
        flagged = [(f, text) for f, text in zip(findings, texts, strict=True) if f]
        reasons = Counter(f.reason for f, _ in flagged)
        summary.append(
            [
                name,
                len(texts),
                *(reasons[r] for r in ("exact", "ngram", "similar")),
                f"{100 * len(flagged) / len(texts):.2f} %",
                f"{len(texts) / seconds:.0f}",
            ]
        )
        sample = random.Random(0).sample(flagged, min(shown, len(flagged)))
        sample.sort(key=lambda pair: (pair[0].reason, pair[0].score))
        examples += [
            [
                name,
                f.reason,
                f"{f.score:.2f}",
                f.evaluation_set,
                brief(text),
                brief(f.evaluation_problem),
            ]
            for f, text in sample
        ]
    print("\n## Flagged in training sets")
    header = ["set", "problems", "exact", "ngram", "similar", "flagged", "problems/s"]
    table(header, summary)
    print("\n## A sample of them")
    table(
        ["set", "rule", "score", "like one of", "training problem", "evaluation problem"], examples
    )


def measure_thresholds(
    problems: list[Problem], targets: list[Problem], sets: dict[str, list[str]]
) -> None:
    """Print a table of the third rule's threshold: copies found, training problems flagged."""
    loose = Decontaminator(problems, similarity=0.3)
    groups = {
        kind: [c for _, c in planted(targets, kind, None)]
        for kind in (*ALTERED, "names, synonyms, order", "other numbers")
    } | sets
    findings = {name: loose.check(texts) for name, texts in groups.items()}
    rows = []
    for threshold in (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7):
        shares = [
            sum(f is not None and (f.reason != "similar" or f.score >= threshold) for f in fs)
            / len(fs)
            for fs in findings.values()
        ]
        rows.append([threshold, *(f"{100 * share:.2f} %" for share in shares)])
    print("\n## Thresholds: share flagged, all problems that an alteration changes")
    table(["similarity", *groups], rows)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--planted", type=int, default=200, help="copies of each kind, at most")
    parser.add_argument("--similarity", type=float, default=SIMILARITY)
    parser.add_argument("--shown", type=int, default=20, help="flagged problems listed per set")
    args = parser.parse_args()
    os.environ["REASONTUNE_DATA"] = str(args.data)
    problems = list(evaluation_problems(["math500", "aime24", "aime25", "gsm8k"]))
    targets = [p for p in problems if p[0] != "gsm8k"]
    sets = {
        name: [json.loads(line)[column] for line in (args.data / path).open(encoding="utf-8")]
        for name, path, column in (
            ("GSM8K train", "gsm8k/train.jsonl", "question"),
            ("MATH train", "math/train7500_answers.jsonl", "problem"),
        )
        if (args.data / path).is_file()
    }
    start = time.perf_counter()
    decontaminator = Decontaminator(problems, similarity=args.similarity)
    print(
        f"{len(problems)} evaluation problems, indexed in {time.perf_counter() - start:.1f} s; "
        f"similarity {args.similarity}"
    )
    measure_recall(decontaminator, targets, args.planted)
    measure_removals(decontaminator, sets, args.shown)
    measure_thresholds(problems, targets, sets)


if __name__ == "__main__":
    main()
