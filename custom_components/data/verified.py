"""Read verified rollouts from the Parquet chunks of all ranks, grouped by problem.

The texts stay on disk. The columns that selection needs are numpy arrays, 37 bytes for each
rollout; they become `Record`s one problem at a time.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from custom_components.data.curation import Record
from custom_components.data.rows import SCHEMA

VERIFIED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("prediction", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("judge", pa.string()),
        pa.field("length", pa.int32()),
        pa.field("repetitive", pa.bool_()),
        pa.field("contaminated", pa.string()),
        pa.field("problem_key", pa.uint64()),
        pa.field("response_key", pa.uint64()),
    ]
)
VERDICTS = ("correct", "incorrect", "undecided")
SELECTION_COLUMNS = (
    "problem_key",
    "response_key",
    "source",
    "domain",
    "difficulty",
    "verdict",
    "finish_reason",
    "repetitive",
    "num_tokens",
    "length",
    "contaminated",
    "given_verdict",
    "judge",
)


def text_key(text: str) -> int:
    """Return a 64-bit hash of a text."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def problem_key(text: str) -> int:
    """Return the hash of a problem; texts that differ only in case or spacing are one problem."""
    return text_key(re.sub(r"\s+", " ", text).strip().lower())


def chunk_files(folder: Path) -> list[Path]:
    """Return the chunks of verified rows, in order."""
    return sorted(folder.glob("*.parquet"))


class Records(Mapping[int, list[Record]]):
    """Map each problem to its rollouts, over columns. Problems are numbered as they first appear.

    Args:
        folder: folder of verified chunks.
        max_length: longest response that is not `too_long`; None for no limit.

    Attributes:
        problem: number of each rollout's problem, [rollouts] int32.
        first: first rollout of each problem, [problems] int64, ascending.
        problem_keys: hash of each problem, [problems] uint64.
        verdict: index into `VERDICTS`, [rollouts] int8.
        given: the source's own verdict as such an index, -1 for none.
        finished, repetitive, too_long, contaminated: [rollouts] bool.
        opinion_same: whether a second opinion finds the answer the same as the gold, [rollouts]
            bool.
        length: tokens, or characters if tokens were not counted, [rollouts] int32.
        order, bounds: problem p's rollouts are order[bounds[p] : bounds[p + 1]], ascending.
        in_tokens: whether every length is in tokens.
        names: {column: names that its codes stand for} for source, domain, difficulty.
        codes: {column: code of each rollout, -1 for none, [rollouts] int16}.
    """

    def __init__(self, folder: Path, max_length: int | None = None) -> None:
        parts: list[dict[str, np.ndarray]] = []
        self.names: dict[str, list[str]] = {"source": [], "domain": [], "difficulty": []}
        self.in_tokens = True
        for file in chunk_files(folder):
            table = pq.read_table(file, columns=list(SELECTION_COLUMNS))
            self.in_tokens &= table["num_tokens"].null_count == 0
            part = {
                "problem_key": table["problem_key"].to_numpy(),
                "response_key": table["response_key"].to_numpy(),
                "length": table["length"].to_numpy(),
                "finished": pc.equal(table["finish_reason"], "stop").to_numpy(),
                "repetitive": table["repetitive"].to_numpy(),
                "verdict": _codes(table["verdict"], list(VERDICTS)).astype(np.int8),
                "given": _codes(table["given_verdict"], list(VERDICTS)).astype(np.int8),
                "contaminated": pc.is_valid(table["contaminated"]).to_numpy(),
                "opinion_same": pc.equal(table["judge"], "same").fill_null(False).to_numpy(),
            }
            for name, known in self.names.items():
                part[name] = _codes(table[name], known)
            parts.append(part)
        columns = {k: np.concatenate([part.pop(k) for part in parts]) for k in list(parts[0])}
        self.response_key = columns["response_key"]
        self.length = columns["length"]
        self.finished = columns["finished"]
        self.repetitive = columns["repetitive"]
        self.verdict = columns["verdict"]
        self.given = columns["given"]
        self.contaminated = columns["contaminated"]
        self.opinion_same = columns["opinion_same"]
        longest = np.iinfo(np.int32).max if max_length is None else max_length
        self.too_long = self.length > longest
        self.codes = {name: columns[name] for name in self.names}
        keys, first, number = np.unique(
            columns["problem_key"], return_index=True, return_inverse=True
        )
        # np.unique sorts by key; problems are numbered by first appearance instead.
        appearance = np.argsort(first)
        rank = np.empty(len(keys), np.int32)
        rank[appearance] = np.arange(len(keys), dtype=np.int32)
        self.problem = rank[number]
        self.first = first[appearance]
        self.problem_keys = keys[appearance]
        self.order = np.argsort(self.problem, kind="stable").astype(np.int64)
        self.bounds = np.searchsorted(self.problem[self.order], np.arange(len(keys) + 1))

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def rows_of(self, problem: int) -> np.ndarray:
        """Return the indices of a problem's rollouts, ascending."""
        return self.order[self.bounds[problem] : self.bounds[problem + 1]]

    def __getitem__(self, problem: int) -> list[Record]:
        key = int(self.problem_keys[problem])
        first = self.first[problem]  # labels belong to the problem, not to the rollout
        source, domain, difficulty = (self._name(column, first) for column in self.names)
        return [
            Record(
                row=int(row),
                problem=key,
                source=source,
                difficulty=difficulty,
                domain=domain,
                length=int(self.length[row]),
                verdict=VERDICTS[self.verdict[row]],
                finished=bool(self.finished[row]),
                repetitive=bool(self.repetitive[row]),
                response_key=int(self.response_key[row]),
                too_long=bool(self.too_long[row]),
            )
            for row in self.rows_of(problem)
        ]

    def _name(self, column: str, row: int) -> str:
        code = self.codes[column][row]
        return "" if code < 0 else self.names[column][code]

    def pass_rates(self) -> np.ndarray:
        """Return the share of each problem's rollouts that are correct, [problems] float64."""
        correct = np.bincount(self.problem, self.verdict == VERDICTS.index("correct"), len(self))
        return correct / np.bincount(self.problem, minlength=len(self))

    def bytes_held(self) -> dict[str, float]:
        """Return the bytes in memory for each rollout and for each problem."""
        arrays = [
            self.problem,
            self.response_key,
            self.length,
            self.finished,
            self.repetitive,
            self.verdict,
            self.given,
            self.too_long,
            self.contaminated,
            self.opinion_same,
            self.order,
            *self.codes.values(),
        ]
        return {
            "rollout": sum(a.nbytes for a in arrays) / len(self.problem),
            "problem": sum(a.nbytes for a in (self.first, self.problem_keys, self.bounds))
            / len(self),
        }


def _codes(column: pa.ChunkedArray, known: list[str]) -> np.ndarray:
    """Return a text column as indices into `known`, -1 for null, [rows] int16; `known` grows."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    known += [v for v in values if v not in known]
    codes = np.array([known.index(v) for v in values] + [-1], np.int16)
    return codes[encoded.indices.fill_null(len(values)).to_numpy()]


class Selected(Mapping[int, list[Record]]):
    """Map some of the problems of `Records` to their rollouts.

    Args:
        records: records of all problems.
        problems: numbers of the selected problems, ascending.
    """

    def __init__(self, records: Records, problems: np.ndarray) -> None:
        self.records = records
        self.problems = problems

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.problems)

    def __getitem__(self, problem: int) -> list[Record]:
        return self.records[problem]


def rows_at(
    folder: Path, indices: Iterable[int], columns: list[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, row) for some verified rows, ascending. Chunks without any are not read.

    Args:
        folder: folder of verified chunks.
        indices: indices among all rows.
        columns: columns to read; all by default.
    """
    wanted = np.unique(np.fromiter(indices, np.int64))
    start = 0
    for file in chunk_files(folder):
        count = pq.read_metadata(file).num_rows
        in_chunk = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + count)]
        if len(in_chunk):
            rows = pq.read_table(file, columns=columns).take(pa.array(in_chunk - start))
            yield from zip(in_chunk.tolist(), rows.to_pylist(), strict=True)
        start += count
