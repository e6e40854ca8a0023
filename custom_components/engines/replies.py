"""Replies of a shard under way, on disk as they come: a killed run asks only for the others."""

from dataclasses import asdict
from pathlib import Path

from custom_components.engines.engine import Reply
from custom_components.io import Journal


def cost_of_spools(folder: Path) -> float:
    """USD paid for the replies in a folder's spools of unfinished shards."""
    return sum(
        reply["cost"]
        for path in folder.glob(".spool-*.jsonl")
        if not (folder / f"{path.stem.removeprefix('.spool-')}.parquet").exists()
        for entry in Journal(path).read()
        for reply in entry["replies"]
    )


class Spool:
    """Keep the replies of one shard on disk until its rows are in place.

    Args:
        path: file of JSON lines.

    Attributes:
        replies: {(round, index of the problem in the shard): its replies}.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self.replies = {
            (e["round"], e["problem"]): [Reply(**r) for r in e["replies"]]
            for e in self._journal.read()
        }

    def add(self, number: int, problem: int, replies: list[Reply]) -> None:
        """Keep a problem's replies of the round with this number."""
        self.replies[number, problem] = replies
        self._journal.append(
            {"round": number, "problem": problem, "replies": [asdict(r) for r in replies]}
        )

    def remove(self) -> None:
        """Delete the file: the shard's rows are in place."""
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)
