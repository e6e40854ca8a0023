"""Write files atomically, and read them with errors that name the file, the line and the field."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from custom_components.config import UserError

CARD = "README.md"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; fsync it and rename it to `path` on success.

    The path may become a file or a folder. An existing target is replaced; after a failure it is
    as it was.
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


def _refuse_folder(path: str | Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; name the file to write")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        UserError: if `path` is a folder, which the file would replace.
    """
    _refuse_folder(path)
    with atomic_path(path) as temporary:
        # A model may write half of a surrogate pair. Its escape is valid JSON.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write a JSON-lines file atomically and return the number of rows.

    Raises:
        UserError: if `path` is a folder, which the file would replace.
    """
    _refuse_folder(path)
    count = 0
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as f,
    ):
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) for a JSON-lines file, without its blank lines.

    Raises:
        UserError: if the file is missing, or a line is not a JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"data file {path} does not exist")
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as f:
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


class Journal:
    """Keep JSON objects on disk as they come, one a line, so that a killed process loses none.

    Args:
        path: JSON-lines file; the first entry creates it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the entries so far, also those of earlier processes; none without a file.

        Other lines are skipped: a killed process leaves the line that it was writing torn.
        """
        if not self.path.is_file():
            return
        with open(self.path, "rb") as f:
            for line in f:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry and hand it to the operating system, which keeps it through a kill."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115
            self._file.seek(max(self._file.tell() - 1, 0))
            if self._file.read() not in (b"", b"\n"):  # the last line is torn
                self._file.write(b"\n")
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def sha256_of(path: str | Path) -> str:
    """Return the content hash of a file, or of a folder's files and their names.

    A folder's README.md and manifest.json do not count: the card receives results later, and the
    manifest records when and how the other files were made.

    Raises:
        UserError: if nothing is at `path`.
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
