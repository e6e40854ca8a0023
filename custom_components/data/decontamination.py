"""Decide from its text whether a training problem is an evaluation problem.

Three rules apply, the surest first. "exact": the same text except for case, spacing, punctuation
and the look of LaTeX. "ngram": 13 words in a row in common (Brown et al. 2020, arXiv:2005.14165,
App. C). "similar": much the same words, formulas and numbers in any order, whatever the length. The
last rule leaves out people's names and treats variables as equal. It is blind to meaning: it does
not find a problem that is retold in other words.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sparse

from custom_components.config import UserError
from custom_components.verifier.read import clean

NGRAM = 13
SIMILARITY = 0.45
"""Least score of an altered copy; benchmarks/decontamination.py measures the scores around it."""

_BATCH = 512
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL | re.IGNORECASE)
_LAYOUT = re.compile(
    r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[lcr|\s]*\})?|\\\\(?![a-z]{2})|\\hline(?![a-z])|&"
)
_TOKEN = re.compile(
    r"\\?[^\W\d_]+|\d+(?:\.\d+)?|(?<=[\d)])!|(?<=[^a-z][a-z])!|[-+*/=<>^_|°%()\[\]]"
)
_CAPITALISED = re.compile(r"(?<![\\A-Za-z])(?:[A-Z][a-z]+|[A-Z]{2,})(?![A-Za-z])")
_UNITS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
_NUMBER_WORDS = {word: str(n) for n, word in enumerate(_UNITS.split(), 2)} | {
    word: str(10 * n) for n, word in enumerate(_TENS.split(), 2)
}
# Phrases on how to give the answer occur in problems that have nothing else in common.
_STOCK = [
    re.compile(pattern)
    for pattern in (
        r"(?:can be |be )?(?:written|expressed|uniquely expressed) (?:in the form|as)\b",
        r"\b(?:where |with )?(?:and )*(?:are )?(?:relatively prime|coprime)(?: positive)? integers\b",
        r"\b(?:where |and )*are(?: positive)? integers(?: and)* (?:are )?relatively prime\b",
        r"\b(?:where |and )*are(?: positive)? integers\b",
        r"\b(?:and )*(?:is|are) not divisible by (?:the )?(?:square|cube) of any prime(?: number)?\b",
        r"\b(?:express|enter|give|write) your answer (?:in|as|to)\b(?: the)?(?: form)?",
        r"\benter the letter of the correct (?:option|answer)\b",
    )
]


@dataclass(frozen=True, slots=True)
class Match:
    """Tell which evaluation problem a training problem matches, and why.

    Attributes:
        reason: first rule that holds.
        evaluation_set: name of the evaluation set.
        evaluation_problem: text of the evaluation problem (the most similar one for "similar").
        score: 1 for "exact"; for "ngram" the share of the evaluation problem's n-grams that are
            in common; for "similar" the similarity.
    """

    reason: Literal["exact", "ngram", "similar"]
    evaluation_set: str
    evaluation_problem: str
    score: float


def tokens(text: str) -> list[str]:
    """Return words, numbers, LaTeX commands and operators, lower-cased, without layout.

    >>> tokens(r"What is $\\dfrac{3}{4} + 1,200$?")
    ['what', 'is', '\\\\frac', '3', '4', '+', '1200']
    """
    text = _LAYOUT.sub(" ", text.lower()).replace("!=", "! =")  # 5!=120 is not an inequality
    return _TOKEN.findall(clean(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)))


def ngrams(text: str, n: int) -> list[str]:
    """Return the distinct sequences of `n` words, without drawings and stock phrases.

    A word is a number or has at least two letters; variables and LaTeX commands are not words.
    """
    words = [
        t
        for t in tokens(_DRAWING.sub(" ", text))
        if t[0].isdigit() or (t[0].isalpha() and len(t) > 1)
    ]
    if len(words) < n:
        return []
    joined = " ".join(words)
    for phrase in _STOCK:
        joined = phrase.sub("", joined)
    words = joined.split()
    return list(dict.fromkeys(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)))


def features(text: str, known: set[str]) -> tuple[set[str], set[str]]:
    """Return the features that the similarity compares.

    Args:
        text: text of a problem.
        known: words that occur in lower case; a capitalised word that is not among them is
            taken for a name and left out.

    Returns:
        (contents, numbers). Contents are words without their plural s, single formula tokens and
        pairs of neighbouring ones, with one letter in place of every variable. Numbers are "7#0"
        for the first 7, "7#1" for the second, ...
    """

    def unnamed(match: re.Match[str]) -> str:
        if match[0].isupper():  # points of a figure, as in ABC, unless a letter occurs twice
            return " v " if len(set(match[0])) == len(match[0]) else match[0]
        return match[0] if match[0].lower() in known else " "

    words: set[str] = set()
    formulas: set[str] = set()
    numbers: Counter[str] = Counter()
    previous = ""
    for token in tokens(_CAPITALISED.sub(unnamed, _DRAWING.sub(" ", text))):
        token = _NUMBER_WORDS.get(token, token)
        if token.isalpha() and len(token) > 1:
            words.add(token[:-1] if token.endswith("s") and len(token) > 3 else token)
            previous = ""
            continue
        if token.isalpha():
            token = "v"
        else:
            formulas.add(f"~{token}")
        if token[0].isdigit():
            numbers[token] += 1
        if previous:
            formulas.add(f"~{previous} {token}")
        previous = token
    return words | formulas, {f"{n}#{i}" for n, count in numbers.items() for i in range(count)}


class _Overlap:
    """Compute the weighted Jaccard index of feature sets with the sets that it was fitted on.

    A feature in `df` of `N` fitted sets has the weight 1 + log(N / df), and one in none of them
    1 + log N.

    Args:
        fitted: sets to compare with.
        weighted: whether features have these weights; otherwise every weight is 1.
    """

    def __init__(self, fitted: list[set[str]], weighted: bool) -> None:
        counts = Counter(f for features in fitted for f in features)
        self.column = {f: i for i, f in enumerate(counts)}
        total = len(fitted)
        self.weight = {f: 1 + math.log(total / c) if weighted else 1.0 for f, c in counts.items()}
        self.unseen = 1 + math.log(max(total, 1)) if weighted else 1.0
        self.fitted, self.sizes = self._matrix(fitted)

    def _matrix(self, sets: list[set[str]]) -> tuple[sparse.csr_matrix, np.ndarray]:
        indices: list[int] = []
        data: list[float] = []
        ends = [0]
        sizes: list[float] = []
        for features in sets:
            known = [f for f in features if f in self.column]
            weights = [self.weight[f] for f in known]
            indices += [self.column[f] for f in known]
            data += weights
            ends.append(len(indices))
            sizes.append(math.fsum(weights) + self.unseen * (len(features) - len(known)))
        shape = (len(sets), len(self.column))
        rows = sparse.csr_matrix((np.sqrt(np.array(data)), indices, ends), shape)
        return rows, np.array(sizes)

    def index(self, sets: list[set[str]]) -> np.ndarray:
        """Return the Jaccard indices, [sets, fitted] float64; 1 where both sets are empty."""
        rows, sizes = self._matrix(sets)
        common = (rows @ self.fitted.T).toarray()
        union = sizes[:, None] + self.sizes[None, :] - common
        return np.divide(common, union, out=np.ones_like(common), where=union > 0)


class Decontaminator:
    """Look up training problems among the problems of evaluation sets.

    The similarity is the Jaccard index of words and formulas, in which rare ones weigh more, times
    the Jaccard index of the numbers: a template with other numbers is another problem.

    Args:
        evaluation: (name of the set, text of the problem) for each evaluation problem.
        ngram: words in a row that must not be in common.
        similarity: least similarity of an altered copy, above 0; more than 1 turns this rule off.

    Raises:
        UserError: if there is no evaluation problem, or a number is out of range.
    """

    def __init__(
        self,
        evaluation: Iterable[tuple[str, str]],
        ngram: int = NGRAM,
        similarity: float = SIMILARITY,
    ) -> None:
        if ngram < 1 or similarity <= 0:
            raise UserError("decontamination: ngram must be at least 1, similarity above 0")
        self.ngram = ngram
        self.similarity = similarity
        self.problems = [(name, text) for name, text in evaluation if tokens(text)]
        if not self.problems:
            raise UserError("decontamination: no evaluation problem to compare with")
        texts = [text for _, text in self.problems]
        self._keys: dict[str, int] = {}
        self._ngrams: dict[str, list[int]] = {}
        self._ngram_counts: list[int] = []
        self._known: set[str] = set()
        for i, text in enumerate(texts):
            self._keys.setdefault("".join(tokens(text)), i)
            grams = ngrams(text, ngram)
            self._ngram_counts.append(len(grams))
            for gram in grams:
                self._ngrams.setdefault(gram, []).append(i)
            self._known.update(re.findall(r"(?<![\\A-Za-z])[a-z]{2,}", text))
        contents, numbers = zip(*(features(text, self._known) for text in texts), strict=True)
        self._contents = _Overlap(list(contents), weighted=True)
        self._numbers = _Overlap(list(numbers), weighted=False)

    def check(self, problems: Sequence[str]) -> list[Match | None]:
        """Return a match for each contaminated problem, None for each clean one."""
        matches = [self._exact(text) or self._shared_words(text) for text in problems]
        rest = [i for i, match in enumerate(matches) if match is None]
        for start in range(0, len(rest), _BATCH):
            batch = rest[start : start + _BATCH]
            for i, match in zip(batch, self._similar([problems[i] for i in batch]), strict=True):
                matches[i] = match
        return matches

    def _exact(self, text: str) -> Match | None:
        index = self._keys.get("".join(tokens(text)))
        return None if index is None else Match("exact", *self.problems[index], 1.0)

    def _shared_words(self, text: str) -> Match | None:
        shared = Counter(i for g in ngrams(text, self.ngram) for i in self._ngrams.get(g, ()))
        if not shared:
            return None
        # On a tie the first problem wins, hence the minus.
        share, index = max((n / self._ngram_counts[i], -i) for i, n in shared.items())
        evaluation_set, problem = self.problems[-index]
        return Match("ngram", evaluation_set, problem, share)

    def _similar(self, texts: list[str]) -> list[Match | None]:
        contents, numbers = zip(*(features(text, self._known) for text in texts), strict=True)
        scores = self._contents.index(list(contents)) * self._numbers.index(list(numbers))
        return [
            Match("similar", name, problem, float(row[index]))
            if row[index] >= self.similarity
            else None
            for row, index in zip(scores, scores.argmax(axis=1), strict=True)
            for name, problem in [self.problems[index]]
        ]
