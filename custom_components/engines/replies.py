"""Replies of a shard under way, on disk as they come: a killed run asks only for the others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from custom_components.engines.engine import Reply


def read_spool(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Whole entries of a spool, and the bytes they take.

    What follows a line that is broken or not ended (it was being written when the run was
    killed) is left out.
    """
    entries: list[dict[str, Any]] = []
    size = 0
    if not path.is_file():
        return entries, size
    with open(path, "rb") as f:
        for line in f:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break
            entries.append(entry)
            size += len(line)
    return entries, size


def cost_of_spools(folder: Path) -> float:
    """USD paid for the replies in a folder's spools of unfinished shards."""
    return sum(
        reply["cost"]
        for path in folder.glob(".spool-*.jsonl")
        if not (folder / f"{path.stem.removeprefix('.spool-')}.parquet").exists()
        for entry in read_spool(path)[0]
        for reply in entry["replies"]
    )


class Spool:
    """The spool of one shard; opening it mends its end.

    Args:
        path: of its JSON lines.

    Attributes:
        replies: {(round, index of the problem in the shard): its replies}.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        entries, size = read_spool(path)
        self.replies = {
            (e["round"], e["problem"]): [Reply(**r) for r in e["replies"]] for e in entries
        }
        self._file = open(path, "ab")  # noqa: SIM115
        self._file.truncate(size)

    def add(self, number: int, problem: int, replies: list[Reply]) -> None:
        """Keep a problem's replies of the round with this number."""
        self.replies[number, problem] = replies
        entry = {"round": number, "problem": problem, "replies": [asdict(r) for r in replies]}
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Delete the file: the shard is in place."""
        self._file.close()
        self.path.unlink()
