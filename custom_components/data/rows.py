"""Declare the schema of rollout rows, and read and write tables of them.

A row is one response to a problem, by a teacher model or a person. A bad row becomes a `Reject`,
which is named and counted, and is never dropped silently.
"""

import codecs
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
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
) -> Iterator[tuple[str, dict[str, Any] | Reject]]:
    """Yield the rows of a JSONL or Parquet file, or of a data set on the hub.

    A JSON file may also be one array of objects, and begin with a byte order mark.

    Args:
        path: file ending in .jsonl, .json or .parquet; anything else is a hub id.
        split, name: split and configuration of a data set on the hub.

    Yields:
        (location, row): the row is a `Reject` if it is not a JSON object in UTF-8.

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
        for where, value in _load_json(path):
            count += 1
            yield where, value if isinstance(value, dict | Reject) else Reject(where, NOT_AN_OBJECT)
    if count == 0:
        raise UserError(f"data file {path} is empty")


NOT_AN_OBJECT = "not a JSON object"
NOT_UTF8 = "not UTF-8; convert the file, for example by iconv -f latin1 -t utf-8"


def _load_json(path: str) -> Iterator[tuple[str, Any]]:
    """Yield (location, value) of each entry of a JSON array, or of each line; a bad one is a `Reject`."""
    array = _json_array(path)
    if array is not None:
        for number, value in enumerate(array, 1):
            yield f"{path}, row {number}", value
        return
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line.decode())
            except UnicodeDecodeError:
                yield where, Reject(where, NOT_UTF8)
            except (ValueError, RecursionError):
                yield where, Reject(where, NOT_AN_OBJECT)


def _json_array(path: str) -> list[Any] | None:
    """Return the entries of a file that is one JSON array; None for any other file."""
    with open(path, "rb") as f:
        if f.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] != b"[":
            return None
        f.seek(0)
        try:
            value = json.loads(f.read().decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None
    return (
        value if isinstance(value, list) and any(isinstance(row, dict) for row in value) else None
    )


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


def cell(row: dict[str, Any], column: str) -> Any:
    """Return the value in a column, or in a nested one: `reward.answer`, `prompt.0.content`.

    Raises:
        KeyError: if there is no such column.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(column)
    return value


def text_cell(row: dict[str, Any], column: str) -> str:
    """Return the text in a column (see `cell`), without space around it. A number becomes text.

    Raises:
        KeyError: if there is no such column.
        ValueError: if the value is empty, or is neither text nor a number.
    """
    value = cell(row, column)
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        raise ValueError(f"column {column!r} is missing or empty")
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(
            f"column {column!r} is {kind}; name the text in it: {_inner(column, value)}"
        )
    if isinstance(value, bool):
        raise ValueError(f"column {column!r} is true or false, not text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"column {column!r} is NaN or infinite")
    if not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"column {column!r} is neither text nor a number")
    return str(value)


def _inner(name: str, value: Any) -> str:
    """Return the name of a text in a nested value; of messages, the user's content."""
    while isinstance(value, list | dict) and value:
        if isinstance(value, list):
            roles = [turn.get("role") if isinstance(turn, dict) else None for turn in value]
            place = roles.index("user") if "user" in roles else 0
            name, value = f"{name}.{place}", value[place]
        else:
            key = next((k for k in _TEXT_KEYS if k in value), next(iter(value)))
            name, value = f"{name}.{key}", value[key]
    return name


_TEXT_KEYS = ("content", "ground_truth", "answer", "value", "text")


def label(value: Any) -> str | None:
    """Return a label as text; None for null and NaN."""
    missing = value is None or isinstance(value, float) and math.isnan(value)
    return None if missing else str(value)


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
