"""Write and read the logs of a run: one JSON object a line, readable while the run is under way."""

import json
import math
from pathlib import Path
from typing import Any

from custom_components.io import Journal, write_text


def logged_rows(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Return the rows of a log that have these keys; none if the file is missing.

    The log may be under way: lines that are not JSON objects are skipped.
    """
    return [row for row in Journal(path).read() if row.keys() >= set(keys)]


class Sums(dict[str, float]):
    """Hold sums of logged values by name."""

    def add(self, **values: float) -> None:
        """Add each value to the sum of its name."""
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value


class Metrics:
    """Write metrics.jsonl, one object per step, and pass it to a torchtune metric logger.

    Args:
        folder: Run folder.
        resume_step: Last step to keep of an existing file; later rows are removed.
        logger: torchtune metric logger, or None.
        rank: Rank of this process; only rank 0 writes.
        name: Name of the file.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int = 0,
        logger: Any = None,
        rank: int = 0,
        name: str = "metrics.jsonl",
    ) -> None:
        self.path = folder / name
        self.logger = logger
        self.rank = rank
        if rank != 0:
            return
        kept = [row for row in logged_rows(self.path, "step") if row["step"] <= resume_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def log(self, step: int, **values: Any) -> None:
        """Append the values of one step. A number that is not finite becomes null."""
        if self.rank != 0:
            return
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, **finite}) + "\n")
        if self.logger is not None:
            self.logger.log_dict(values, step)

    def close(self) -> None:
        """Close the metric logger."""
        if self.rank == 0 and self.logger is not None:
            self.logger.close()
