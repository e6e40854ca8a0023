"""Keep a teacher's replies on disk as they come, so that a killed run asks only for the others.

A shard of rollouts is written whole, once all its problems are answered. Until then its replies are
in a file of JSON lines beside it, `.spool-<shard>.jsonl`, which is removed with the shard's end.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from custom_components.engines.engine import Reply


def read_replies(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the whole entries of a reply file, and the bytes they take.

    Everything after a broken or unfinished line is left out: it was being written when the run
    was killed.
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


def cost_of_unfinished(folder: Path) -> float:
    """Return the USD paid for the replies of a folder's unfinished shards."""
    return sum(
        reply["cost"]
        for path in folder.glob(".spool-*.jsonl")
        if not (folder / f"{path.stem.removeprefix('.spool-')}.parquet").exists()
        for entry in read_replies(path)[0]
        for reply in entry["replies"]
    )


class ReplyFile:
    """Keep the replies of one unfinished shard. Opening the file cuts off an unfinished end.

    Args:
        path: file of JSON lines.

    Attributes:
        replies: {(round, index of the problem in the shard): its replies}.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        entries, size = read_replies(path)
        self.replies = {
            (e["round"], e["problem"]): [Reply(**r) for r in e["replies"]] for e in entries
        }
        self._file = open(path, "ab")  # noqa: SIM115
        self._file.truncate(size)

    def add(self, number: int, problem: int, replies: list[Reply]) -> None:
        """Store a problem's replies of a round.

        Args:
            number: number of the round.
            problem: index of the problem in the shard.
            replies: replies to the problem.
        """
        self.replies[number, problem] = replies
        entry = {"round": number, "problem": problem, "replies": [asdict(r) for r in replies]}
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Delete the file, once the shard is written."""
        self._file.close()
        self.path.unlink()
