"""Tokenised examples and packs in memory-mapped Arrow, made once and shared by all ranks."""

import bisect
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm

from custom_components.config import UserError
from custom_components.data.rows import Reject, read_rows
from custom_components.io import atomic_path, write_jsonl
from custom_components.tokenizer.hf import ChatTokenizer

IGNORE = -100
FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "lengths": datasets.List(datasets.Value("int32")),
        "num_scored": datasets.Value("int64"),
    }
)


@dataclass
class TokenCounts:
    """What became of a split's rows on the way to tokens."""

    rows: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    too_long: int = 0
    rejected: list[Reject] = field(default_factory=list)

    def as_dict(self) -> dict[str, int]:
        return {
            "rows": self.rows, "tokens": self.tokens, "scored_tokens": self.scored_tokens,
            "too_long": self.too_long, "rejected": len(self.rejected),
        }  # fmt: skip


def tokenize(
    path: str | Path,
    tokenizer: ChatTokenizer,
    max_seq_len: int,
    train_on_prompt: bool,
    counts: TokenCounts,
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of a split's rows (column `messages`).

    Args:
        path: Parquet file of the split.
        tokenizer: renders and encodes the turns.
        max_seq_len: longer examples are dropped and counted.
        train_on_prompt: also score the prompt's tokens.
        counts: filled while iterating.

    Yields:
        (ids, labels) of equal length; a label is its own position's id, or -100 where it is
        not scored. The shift by one happens when a batch is made.
    """
    for i, row in enumerate(tqdm(read_rows(path), desc="tokenize", unit="row")):
        counts.rows += 1
        try:
            ids, prompt_length = tokenizer.encode_example(row["messages"])
        except (KeyError, TypeError, ValueError) as e:
            counts.rejected.append(Reject(f"{path}, row {i}", f"no usable messages ({e})"))
            continue
        if len(ids) > max_seq_len:
            counts.too_long += 1
            continue
        unscored = 1 if train_on_prompt else prompt_length  # nothing predicts the first token
        labels = [IGNORE] * unscored + ids[unscored:]
        counts.tokens += len(ids)
        counts.scored_tokens += len(ids) - unscored
        yield ids, labels


def best_fit(lengths: Iterable[int], capacity: int, seed: int = 0) -> list[list[int]]:
    """Best-fit bin packing: each item goes to the fullest bin that still holds it.

    Items above an eighth of the capacity come first, longest first, as packs them tightly; the
    rest follow in random order. Were they sorted too, each pack would hold documents of one length,
    and so of one kind, and batches would be less varied than the data.

    Args:
        lengths: sizes, each between 1 and `capacity`.
        capacity: of a bin.
        seed: of the order of the short items.

    Returns:
        bins as lists of indices into `lengths`.
    """
    lengths = list(lengths)
    large = [i for i in range(len(lengths)) if lengths[i] * 8 > capacity]
    small = [i for i in range(len(lengths)) if lengths[i] * 8 <= capacity]
    random.Random(seed).shuffle(small)
    bins: list[list[int]] = []
    spaces: list[int] = []  # distinct free spaces of open bins, ascending
    by_space: dict[int, list[int]] = {}
    for i in [*sorted(large, key=lambda i: -lengths[i]), *small]:
        at = bisect.bisect_left(spaces, lengths[i])
        if at == len(spaces):
            target, space = len(bins), capacity
            bins.append([])
        else:
            space = spaces[at]
            target = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[at]
        bins[target].append(i)
        left = space - lengths[i]
        if left:
            if left not in by_space:
                bisect.insort(spaces, left)
                by_space[left] = []
            by_space[left].append(target)
    return bins


def _save(rows: Iterable[dict[str, Any]], folder: Path, counts: TokenCounts) -> None:
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        with ArrowWriter(path=str(temporary / "rows.arrow"), features=FEATURES) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        if counts.rejected:
            write_jsonl(temporary / "rejects.jsonl", [vars(r) for r in counts.rejected])


def _row(documents: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    labels = [label for _, document in documents for label in document]
    return {
        "input_ids": [token for ids, _ in documents for token in ids],
        "labels": labels,
        "lengths": [len(ids) for ids, _ in documents],
        "num_scored": sum(label != IGNORE for label in labels),
    }


def prepare_examples(
    path: str | Path, tokenizer: ChatTokenizer, max_seq_len: int, folder: Path,
    train_on_prompt: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Tokenise a split into `folder`, one example a row.

    Returns:
        counts of rows and tokens.

    Raises:
        UserError: when no row is left.
    """
    counts = TokenCounts()
    examples = tokenize(path, tokenizer, max_seq_len, train_on_prompt, counts)
    documents = [[e] for e in examples]
    _check_some(documents, path, counts)
    _save((_row(d) for d in documents), folder, counts)
    return counts.as_dict()


def prepare_packs(
    path: str | Path, tokenizer: ChatTokenizer, max_seq_len: int, folder: Path,
    train_on_prompt: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Tokenise a split and pack it best-fit into rows of at most `max_seq_len` tokens.

    Returns:
        counts of rows and tokens, `packs`, and `density`: the share of the packs' capacity that
        holds tokens.

    Raises:
        UserError: when no row is left.
    """
    counts = TokenCounts()
    documents = list(tokenize(path, tokenizer, max_seq_len, train_on_prompt, counts))
    _check_some(documents, path, counts)
    bins = best_fit([len(ids) for ids, _ in documents], max_seq_len)
    _save((_row([documents[i] for i in sorted(b)]) for b in bins), folder, counts)
    density = round(counts.tokens / (len(bins) * max_seq_len), 4)
    return counts.as_dict() | {"packs": len(bins), "density": density}


def _check_some(documents: list, path: str | Path, counts: TokenCounts) -> None:
    if not documents:
        first = ""
        if counts.rejected:
            first = f"; first: {counts.rejected[0].where}: {counts.rejected[0].reason}"
        raise UserError(
            f"{path}: none of {counts.rows} rows can be trained on ({counts.too_long} longer than "
            f"max_seq_len, {len(counts.rejected)} without usable messages{first})"
        )


def open_table(folder: Path) -> datasets.Dataset:
    """The memory-mapped rows in `folder`."""
    return datasets.Dataset.from_file(str(folder / "rows.arrow"))
