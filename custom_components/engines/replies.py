"""Keep a teacher's replies on disk as they come, so that a killed run asks only for the others.

A shard of rollouts is written whole, once all its problems are answered. Until then its replies are
in a file of JSON lines beside it, `.spool-<shard>.jsonl`, which is removed with the shard's end.
"""

from dataclasses import asdict
from pathlib import Path

from custom_components.engines.engine import Reply
from custom_components.io import Journal


def cost_of_unfinished(folder: Path) -> float:
    """Return the USD paid for the replies of a folder's unfinished shards."""
    return sum(
        reply["cost"]
        for path in folder.glob(".spool-*.jsonl")
        if not (folder / f"{path.stem.removeprefix('.spool-')}.parquet").exists()
        for entry in Journal(path).read()
        for reply in entry["replies"]
    )


class ReplyFile:
    """Keep the replies of one unfinished shard.

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
        """Store a problem's replies of a round.

        Args:
            number: number of the round.
            problem: index of the problem in the shard.
            replies: replies to the problem.
        """
        self.replies[number, problem] = replies
        self._journal.append(
            {"round": number, "problem": problem, "replies": [asdict(r) for r in replies]}
        )

    def remove(self) -> None:
        """Delete the file, once the shard is written."""
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)
