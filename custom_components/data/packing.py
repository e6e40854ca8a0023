"""Tokenise and pack examples into memory-mapped Arrow files, once for all ranks."""

import bisect
import hashlib
import random
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm

from custom_components.config import UserError
from custom_components.data.rows import Reject, read_rows
from custom_components.io import atomic_path, write_jsonl
from custom_components.runs.processes import die_with_parent
from custom_components.tokenizer.chat import ChatTokenizer

IGNORE = -100
FEATURES = datasets.Features(
    {
        "ids": datasets.List(datasets.Value("string")),
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "lengths": datasets.List(datasets.Value("int32")),
        "num_scored": datasets.Value("int64"),
    }
)


@dataclass
class TokenCounts:
    """Count what becomes of a split's rows on the way to tokens."""

    rows: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    too_long: int = 0
    rejected: list[Reject] = field(default_factory=list)

    def as_dict(self) -> dict[str, int]:
        """Return the counts; rejected rows by their number."""
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "scored_tokens": self.scored_tokens,
            "too_long": self.too_long,
            "rejected": len(self.rejected),
        }


Document = tuple[list[int], list[int]]
"""Token ids and labels of equal length. A label is the id of its own position, or -100 if it is not
scored; labels are shifted by one when a batch is made."""
Encode = Callable[[dict[str, Any]], list[Document]]
"""Function that makes the documents of a row, and raises KeyError, TypeError or ValueError on a bad
row."""


def _attempt(encode: Encode, rows: list[dict[str, Any]]) -> list[list[Document] | str]:
    """Return the documents of each row, or the reason that there are none."""
    results: list[list[Document] | str] = []
    for row in rows:
        try:
            results.append(encode(row))
        except (KeyError, TypeError, ValueError) as e:
            results.append(f"no usable messages ({e})")
    return results


def _encoded(
    path: str | Path, encode: Encode, workers: int
) -> Iterator[tuple[dict[str, Any], list[Document] | str]]:
    """Yield a split's rows with their result of `_attempt`, in order."""
    rows = iter(read_rows(path))
    batches = iter(lambda: list(islice(rows, 256)), [])
    if workers <= 1:
        for batch in batches:
            yield from zip(batch, _attempt(encode, batch), strict=True)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), die_with_parent) as pool:
        # Workers run a few batches ahead of the consumer.
        ahead: deque[tuple[list[dict[str, Any]], Future]] = deque()
        for batch in batches:
            ahead.append((batch, pool.submit(_attempt, encode, batch)))
            if len(ahead) > 2 * workers:
                done, future = ahead.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in ahead:
            yield from zip(done, future.result(), strict=True)


def tokenize(
    path: str | Path, encode: Encode, max_seq_len: int, counts: TokenCounts, workers: int = 1
) -> Iterator[tuple[dict[str, Any], list[Document]]]:
    """Yield a split's rows with their documents.

    Args:
        path: Parquet file of the split.
        encode: function that makes the documents of a row.
        max_seq_len: longest document, tokens; rows with a longer one are dropped and counted.
        counts: counts to fill while iterating.
        workers: processes that encode; with more than 1, `encode` must be picklable.
    """
    encoded = tqdm(_encoded(path, encode, workers), desc="tokenize", unit="row")
    for i, (row, documents) in enumerate(encoded):
        counts.rows += 1
        if isinstance(documents, str):
            counts.rejected.append(Reject(f"{path}, row {i}", documents))
            continue
        if max(len(ids) for ids, _ in documents) > max_seq_len:
            counts.too_long += 1
            continue
        counts.tokens += sum(len(ids) for ids, _ in documents)
        counts.scored_tokens += sum(x != IGNORE for _, labels in documents for x in labels)
        yield row, documents


def encode_messages(
    row: dict[str, Any], tokenizer: ChatTokenizer, train_on_prompt: bool = False
) -> list[Document]:
    """Encode a row of `messages` as one document, with its response scored.

    Args:
        row: row of the midtrain or sft split.
        tokenizer: tokenizer that renders and encodes the turns.
        train_on_prompt: whether the prompt's tokens are scored, too.
    """
    ids, prompt_length = tokenizer.encode_example(row["messages"])
    unscored = 1 if train_on_prompt else prompt_length  # no token predicts the first one
    return [(ids, [IGNORE] * unscored + ids[unscored:])]


def encode_pair(row: dict[str, Any], tokenizer: ChatTokenizer) -> list[Document]:
    """Encode a row of the pairs split as two documents: prompt + chosen, prompt + rejected."""
    documents = []
    for side, finished in (("chosen", True), ("rejected", row["rejected_finished"])):
        turns = [*row["prompt"], {"role": "assistant", "content": row[side]}]
        ids, prompt_length = tokenizer.encode_example(turns, finished)
        if len(ids) == prompt_length:
            raise ValueError(f"{side} is empty")
        documents.append((ids, [IGNORE] * prompt_length + ids[prompt_length:]))
    return documents


def best_fit(lengths: Iterable[int], capacity: int, seed: int = 0) -> list[list[int]]:
    """Pack items best-fit: each goes to the fullest bin that still has room for it.

    Items above an eighth of the capacity come first, longest first, which packs them tightly; the
    rest follow in random order. If the short ones were sorted too, each pack would hold documents
    of one length, and so of one kind, and batches would be less varied than the data.

    Args:
        lengths: sizes of the items, each between 1 and `capacity`.
        capacity: size of a bin.
        seed: seed of the order of the short items.

    Returns:
        Bins as lists of indices into `lengths`.
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
        space -= lengths[i]
        if space:
            if space not in by_space:
                bisect.insort(spaces, space)
                by_space[space] = []
            by_space[space].append(target)
    return bins


def _write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with ArrowWriter(path=str(path), features=FEATURES) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


def _row(row_id: str, documents: list[Document]) -> dict[str, Any]:
    labels = [label for _, document in documents for label in document]
    return {
        "ids": [row_id],
        "input_ids": [token for ids, _ in documents for token in ids],
        "labels": labels,
        "lengths": [len(ids) for ids, _ in documents],
        "num_scored": sum(label != IGNORE for label in labels),
    }


def prepare_examples(
    path: str | Path, encode: Encode, max_seq_len: int, folder: Path, workers: int = 1
) -> dict[str, int]:
    """Tokenise a split into `folder`.

    Each row holds the documents of one example: one for SFT, two for a preference pair.

    Args:
        path, encode, max_seq_len, workers: as for `tokenize`.
        folder: folder to write `rows.arrow` to.

    Returns:
        Counts of rows and tokens.

    Raises:
        UserError: if no row is left.
    """
    counts = TokenCounts()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        rows = tokenize(path, encode, max_seq_len, counts, workers)
        _write((_row(row["id"], documents) for row, documents in rows), temporary / "rows.arrow")
        _finish(path, temporary, counts)
    return counts.as_dict()


def prepare_packs(
    path: str | Path,
    encode: Encode,
    max_seq_len: int,
    folder: Path,
    mixture: dict[str, float] | None = None,
    held_out: float = 0.0,
    workers: int = 1,
) -> dict[str, Any]:
    """Tokenise a split and pack it best-fit into rows of at most `max_seq_len` tokens.

    Only the documents' lengths are held in memory; the documents go through the disk.

    Args:
        path, encode, workers: as for `tokenize`.
        max_seq_len: tokens of a pack; longer documents are dropped and counted.
        folder: folder to write `rows.arrow` to, and `validation-<domain>.arrow` for held-out rows.
        mixture: {source: how often its rows are used}, 1 by default. The fraction of a number is
            the share of the rows that are used once more.
        held_out: share of the problems kept for validation, packed domain by domain.

    Returns:
        Counts of rows and tokens, `packs`, `density` (the share of the packs' capacity that holds
        tokens), and `validation_packs` by domain.

    Raises:
        UserError: if no row is left, or `mixture` names an unknown source.
    """
    counts = TokenCounts()
    lengths = array("i")
    tables = {"rows": array("q")}  # {table: indices of its documents}
    sources = set()

    def documents() -> Iterator[dict[str, Any]]:
        for row, [document] in tokenize(path, encode, max_seq_len, counts, workers):
            index = len(lengths)
            source = row.get("source") or ""
            lengths.append(len(document[0]))
            sources.add(source)
            if _unit(row["messages"][0]["content"]) < held_out:
                label = re.sub(r"\W+", "_", row.get("domain") or "all")
                tables.setdefault(f"validation-{label}", array("q")).append(index)
            else:
                weight = (mixture or {}).get(source, 1.0)
                one_more = _unit(f"copy {index}") < weight % 1
                copies = int(weight) + one_more
                tables["rows"].extend([index] * copies)
            yield _row(row["id"], [document])

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write(documents(), temporary / "documents.arrow")
        _finish(path, temporary, counts)
        if unknown := set(mixture or {}) - sources:
            raise UserError(
                f"mixture: no rows of source {sorted(unknown)}; there are {sorted(sources)}"
            )
        if not tables["rows"]:
            raise UserError(f"{path}: every row is held out or left out of the mixture")
        source_rows = datasets.Dataset.from_file(str(temporary / "documents.arrow"))
        packs = {
            name: [
                [indices[i] for i in sorted(b)]
                for b in best_fit([lengths[i] for i in indices], max_seq_len)
            ]
            for name, indices in tables.items()
        }
        for name, bins in packs.items():
            rows = (_joined(source_rows[b]) for b in tqdm(bins, desc=f"pack {name}", unit="pack"))
            _write(rows, temporary / f"{name}.arrow")
        (temporary / "documents.arrow").unlink()
    capacity = len(packs["rows"]) * max_seq_len
    return counts.as_dict() | {
        "packs": len(packs["rows"]),
        "density": round(sum(lengths[i] for i in tables["rows"]) / capacity, 4),
        "validation_packs": {
            name.removeprefix("validation-"): len(bins)
            for name, bins in packs.items()
            if name != "rows"
        },
    }


def _joined(rows: dict[str, list]) -> dict[str, Any]:
    """Lay rows, given as columns, end to end."""
    joined = {
        name: [x for row in rows[name] for x in row]
        for name in ("ids", "input_ids", "labels", "lengths")
    }
    return joined | {"num_scored": sum(rows["num_scored"])}


def _unit(text: str) -> float:
    """Return a number in [0, 1) that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _finish(path: str | Path, folder: Path, counts: TokenCounts) -> None:
    """Write the rejects.

    Raises:
        UserError: if no row of the split is left.
    """
    if counts.tokens == 0:
        first = ""
        if counts.rejected:
            first = f"; first: {counts.rejected[0].where}: {counts.rejected[0].reason}"
        raise UserError(
            f"{path}: none of {counts.rows} rows can be trained on ({counts.too_long} longer than "
            f"max_seq_len, {len(counts.rejected)} without usable messages{first})"
        )
    if counts.rejected:
        write_jsonl(folder / "rejects.jsonl", [vars(r) for r in counts.rejected])


def open_table(folder: Path, name: str = "rows") -> datasets.Dataset:
    """Open a table in `folder`, memory-mapped."""
    return datasets.Dataset.from_file(str(folder / f"{name}.arrow"))


def validation_tables(folder: Path) -> dict[str, datasets.Dataset]:
    """Return {domain: held-out packs} in `folder`."""
    names = sorted(p.stem for p in folder.glob("validation-*.arrow"))
    return {name.removeprefix("validation-"): open_table(folder, name) for name in names}
