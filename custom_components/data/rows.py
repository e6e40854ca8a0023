"""Declare the schema of rollout rows, and read and write tables of them.

A row is one response to a problem, by a teacher model or a person. A bad row becomes a `Reject`,
which is named and counted, and is never dropped silently.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import UserError
from custom_components.io import atomic_path

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "problem": pa.string(),
        "answer": pa.string(),
        "response": pa.string(),
        "finish_reason": pa.string(),
        "num_tokens": pa.int64(),
        "model": pa.string(),
        "sampling": pa.string(),
        "domain": pa.string(),
        "difficulty": pa.string(),
        "given_verdict": pa.string(),
    }
)
REQUIRED = ("id", "source", "problem", "answer", "response")
FINISH_REASONS = ("stop", "length")
GIVEN_VERDICTS = (None, "correct", "incorrect")


@dataclass(frozen=True)
class Reject:
    """Name a row that cannot be used.

    Attributes:
        where: file and line or row.
        reason: why it cannot be used.
        whole_file: whether it is a whole file, or the rest of one that cannot be read further.
    """

    where: str
    reason: str
    whole_file: bool = False


Rows = Iterator[dict[str, Any] | Reject]


def rollout_row(**values: Any) -> dict[str, Any]:
    """Return a row with every column of `SCHEMA`; columns not given get a neutral value."""
    row = dict.fromkeys(SCHEMA.names) | {"finish_reason": "stop", "model": "", "sampling": "{}"}
    return row | values


def write_rows(path: str | Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> None:
    """Write rows as Parquet (zstd), atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary, compression="zstd")


def read_rows(path: str | Path, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, or of a folder of such files in order.

    Args:
        path: file or folder.
        batch_size: rows that are held in memory at a time.

    Raises:
        UserError: if a file cannot be read.
    """
    if Path(path).is_dir():
        for file in sorted(Path(path).glob("*.parquet")):
            yield from read_rows(file, batch_size)
        return
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read as Parquet ({str(e).splitlines()[0]})") from e


def table_files(path: str, split: str = "train") -> list[str]:
    """Return the .jsonl and .parquet files in a folder, in order; any other path as it is.

    If files are named after the split (train-00000-of-00010.parquet), only those count.
    """
    if not Path(path).is_dir():
        return [path]
    files = sorted(str(p) for p in Path(path).glob("[!.]*") if p.suffix in (".jsonl", ".parquet"))
    named = [f for f in files if re.match(rf"{re.escape(split)}[-_.]", Path(f).name)]
    return named or files or [path]


def resolve(path: str, local: str = "") -> str:
    """Return where a data set is: `$REASONTUNE_DATA/<local>` if that exists, else `path`.

    Args:
        path: file, folder, or id of a data set on the hub. An existing file or folder is kept.
        local: path of the same data in a folder of local copies.
    """
    folder = os.environ.get("REASONTUNE_DATA")
    if folder and local and (Path(folder) / local).exists() and not Path(path).exists():
        return str(Path(folder) / local)
    return path


def file_and_rows(name: str) -> tuple[str, int | None]:
    """Return the file of `file.jsonl` or `file.jsonl[:200]`, and how many of its rows are meant.

    The number is None for all rows.
    """
    if rows := re.fullmatch(r"(.+)\[:(\d+)\]", name):
        return rows[1], int(rows[2])
    return name, None


def load_table(
    path: str, split: str = "train", name: str | None = None
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the rows of a JSONL or Parquet file, or of a data set on the hub.

    Args:
        path: file ending in .jsonl, .json or .parquet; anything else is a hub id.
        split, name: split and configuration of a data set on the hub.

    Yields:
        (location, row): the row is None if a JSONL line is not an object.

    Raises:
        UserError: if nothing is at `path`, the file is empty, or the hub cannot be reached.
    """
    suffix = Path(path).suffix
    if suffix not in (".jsonl", ".json", ".parquet"):
        yield from _load_hub(path, split, name)
        return
    if not Path(path).is_file():
        raise UserError(f"data file {path} does not exist")
    count = 0
    if suffix == ".parquet":
        for count, row in enumerate(read_rows(path), 1):
            yield f"{path}, row {count}", row
    else:
        with open(path, encoding="utf-8", errors="replace") as f:
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                count += 1
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield f"{path}, line {number}", row if isinstance(row, dict) else None
    if count == 0:
        raise UserError(f"data file {path} is empty")


def _load_hub(path: str, split: str, name: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        table = load_dataset(path, name, split=split)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as e:
        if "gated" in str(e):
            raise UserError(
                f"data set {path} is gated: ask for access at https://huggingface.co/datasets/{path}, "
                "then log in with `hf auth login`"
            ) from e
        raise UserError(
            f"data set {path} could not be loaded from the hub ({str(e).splitlines()[0]}); give a "
            "local .jsonl or .parquet file, or set REASONTUNE_DATA to a folder of local copies"
        ) from e
    for i, row in enumerate(table):
        yield f"{path} [{split}], row {i}", dict(row)


def checked(row: dict[str, Any], where: str) -> dict[str, Any] | Reject:
    """Return the row, or a `Reject` if it is not a rollout row."""
    for column in REQUIRED:
        if not isinstance(row.get(column), str) or not row[column].strip():
            return Reject(where, f"column {column!r} is missing or empty")
    if row.get("finish_reason") not in FINISH_REASONS:
        return Reject(where, f"finish_reason {row.get('finish_reason')!r} is not stop or length")
    if row.get("given_verdict") not in GIVEN_VERDICTS:
        return Reject(where, f"given_verdict {row['given_verdict']!r} is not correct or incorrect")
    try:
        pa.scalar(row.get("num_tokens"), pa.int64())
    except (pa.ArrowException, OverflowError):
        return Reject(where, f"num_tokens {row['num_tokens']!r} is not a whole number")
    for column in SCHEMA.names:
        value = row.get(column)
        if column == "num_tokens" or value is None:
            continue
        if not isinstance(value, str):
            return Reject(where, f"column {column!r} is not text")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, Parquet cannot
            return Reject(where, f"column {column!r} is not valid Unicode")
    return row
