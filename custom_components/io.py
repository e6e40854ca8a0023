"""Files: written atomically, read with errors that name the file, the line and the field."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from custom_components.config import UserError

CARD = "README.md"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and renamed to `path`.

    For a file or a folder: an existing target is replaced, a failure leaves it as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
    inner = temporary / path.name
    try:
        yield inner
        for file in [inner] if inner.is_file() else sorted(inner.rglob("*")):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        if path.is_dir():
            path.rename(temporary / "replaced")
        inner.rename(path)
        _fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        UserError: when there is a folder of that name, which would be replaced.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; name the file to write")
    with atomic_path(path) as temporary:
        # half of a surrogate pair, which a model may write, becomes its escape: valid JSON
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write a JSON-lines file atomically; returns the number of rows."""
    count = 0
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as f,
    ):
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Rows of a JSON-lines file with their line numbers (from 1); blank lines are left out.

    Raises:
        UserError: when the file is missing, or a line is not a JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"data file {path} does not exist")
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as e:
                raise UserError(f"{path}, line {number}: not valid JSON ({e.msg})") from e
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield number, row


def sha256_of(path: str | Path) -> str:
    """Content hash of a file, or of a folder's files and their names.

    A folder's README.md does not count: a card tells of the rest, and gets results afterwards. Nor
    does its manifest.json, which tells when and how the rest was made.

    Raises:
        UserError: when there is nothing at `path`.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    if not path.is_dir():
        raise UserError(f"input {path} does not exist (has the stage that makes it finished?)")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and ".tmp-" not in str(p)):
        if file in (path / CARD, path / "manifest.json"):
            continue
        digest.update(f"{file.relative_to(path)}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()
