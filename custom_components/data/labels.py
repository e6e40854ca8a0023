"""Guess the domain of a problem by its words, and grade its difficulty by its pass rate."""

import re

DOMAINS = {
    "geometry": r"triangle|circle|polygon|angle|perimeter|area of|radius|diagonal|tangent|sphere|cube\b|"
    r"cylinder|parallel|perpendicular|quadrilateral|rectangle|square with|pyramid|\\angle|\\triangle",
    "probability": r"probabilit|expected (?:value|number)|random|dice|\bdie\b|coin|likel",
    "combinatorics": r"how many (?:ways|different|distinct|arrangements|subsets)|permutation|arrange|"
    r"choose|committee|\\binom|distinguishable|in how many",
    "number theory": r"divis|remainder|prime|modulo|\\pmod|\\gcd|\\lcm|greatest common|least common|"
    r"digit|base \d|integer solutions|multiple of|congruent",
    "calculus": r"derivative|integral|\\int|\\lim|limit|differentia|converge|series|d[xy]/d",
    "linear algebra": r"matri|vector|eigen|determinant|\\begin\{pmatrix\}|linear map",
    "trigonometry": r"\\sin|\\cos|\\tan|\bsin\b|\bcos\b|trigonometr",
    "algebra": r"solve|equation|polynomial|function|f\(x\)|roots?\b|simplify|expand|factor|inequalit|"
    r"\bx\b|\by\b|variable|logarithm|\\log|sequence|expression",
}
_COMPILED = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in DOMAINS.items()}
LEVELS = ((0.75, "easy"), (0.25, "medium"), (0.0, "hard"))


def guess_domain(problem: str) -> str:
    """Return the domain whose words the problem uses most.

    On a tie the earlier domain in `DOMAINS` wins; without any of the words it is arithmetic.
    """
    hits = {name: len(pattern.findall(problem)) for name, pattern in _COMPILED.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] else "arithmetic"


def difficulty_of(pass_rate: float) -> str:
    """Return easy from a pass rate of 75 %, medium from 25 %, hard above 0, and unsolved at 0."""
    return next(
        (name for lowest, name in LEVELS if pass_rate >= lowest and pass_rate > 0), "unsolved"
    )
