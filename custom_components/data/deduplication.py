"""Find near-duplicate problems by MinHash and LSH (rensa)."""

import re
from collections.abc import Iterable, Iterator

from rensa import RMinHashDeduplicator

WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
SLOTS = 64
"""Slots of a signature, 4 bytes each."""


def shingles(text: str, n: int = 3) -> list[str]:
    """Return the text's n-word sequences, each with all numbers of the text in front.

    Problems with the same wording but other numbers therefore have nothing in common. The text is
    lower-cased; every punctuation mark and operator is a word.
    """
    words = WORD.findall(text.lower())
    numbers = " ".join(sorted(w for w in words if w[0].isdigit()))
    count = max(1, len(words) - n + 1)
    return [f"{numbers}|{' '.join(words[i : i + n])}" for i in range(count)]


def near_duplicates(
    problems: Iterable[tuple[int, str]], similarity: float, batch_size: int = 4096
) -> Iterator[tuple[int, int]]:
    """Yield the problems that nearly repeat an earlier one.

    Args:
        problems: (number, text) of each; the first of several similar ones is kept.
        similarity: least Jaccard index of the `shingles` of two near-duplicates, estimated from
            signatures of 64 slots (standard error 0.06).
        batch_size: problems looked up together.

    Yields:
        (number, number of a kept problem that it repeats).
    """
    index = RMinHashDeduplicator(threshold=similarity, num_perm=SLOTS, use_lsh=True)
    batch: list[tuple[str, list[str]]] = []

    def flush() -> Iterator[tuple[int, int]]:
        kept = index.add_pairs(batch)
        repeats = [pair for pair, new in zip(batch, kept, strict=True) if not new]
        originals = index.get_duplicate_sets([tokens for _, tokens in repeats])
        for (number, _), candidates in zip(repeats, originals, strict=True):
            yield int(number), min(map(int, candidates))
        batch.clear()

    for number, text in problems:
        batch.append((str(number), shingles(text)))
        if len(batch) == batch_size:
            yield from flush()
    if batch:
        yield from flush()
