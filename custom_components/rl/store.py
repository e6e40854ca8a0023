"""Keep the groups of a step on disk until a checkpoint covers the step."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from custom_components.config import UserError
from custom_components.data.rows import read_rows, write_rows
from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import Reward
from custom_components.training.distributed import World

STORED = pa.schema(
    {
        "group": pa.int64(),
        "problem": pa.string(),
        "prompt_ids": pa.list_(pa.int64()),
        "token_ids": pa.list_(pa.int64()),
        "logprobs": pa.list_(pa.float64()),
        "finish_reason": pa.string(),
        "version": pa.int64(),
        "text": pa.string(),
        "verdict": pa.string(),
        "reward": pa.float64(),
        "reward_values": pa.list_(pa.float64()),
        "reward_error": pa.string(),
    }
)
"""Columns of a stored file, a row per response. `group` numbers the groups of a step and rank from
0, and `problem` is JSON. `reward` and `reward_values` are null where there is no value."""


@dataclass
class GroupStore:
    """Save a step's rewarded groups before they are learned from.

    A killed run resumes at its last checkpoint and learns from the same responses again. It neither
    pays for them twice nor takes another path, even if the engine never samples the same twice, or a
    reward function never gives the same value twice.

    Attributes:
        folder: Folder of the files, one per step and rank.
        world: Rank of this process, and their number.
    """

    folder: Path
    world: World

    def save(self, step: int, groups: list[Group], covered: int) -> None:
        """Write a step's groups, and remove those of steps that a checkpoint covers.

        Args:
            step: Number of steps done before it.
            groups: Rewarded groups of this rank.
            covered: Number of steps done at the latest complete checkpoint.
        """
        rows = [
            {
                "group": i,
                "problem": json.dumps(group.problem),
                "prompt_ids": group.prompt_ids,
                "token_ids": sample.completion.token_ids,
                "logprobs": sample.completion.logprobs,
                "finish_reason": sample.completion.finish_reason,
                "version": sample.completion.version,
                "text": sample.text,
                "verdict": sample.verdict,
                "reward": sample.reward,
                "reward_values": sample.outcome.values if sample.outcome else [],
                "reward_error": sample.outcome.error if sample.outcome else "",
            }
            for i, group in enumerate(groups)
            for sample in group.samples
        ]
        write_rows(self._file(step), rows, STORED)
        for file in self.folder.glob(f"step_*.rank_{self.world.rank}_of_*.parquet"):
            if int(file.name.split(".")[0].removeprefix("step_")) < covered:
                file.unlink()

    def load(self, step: int) -> list[Group] | None:
        """Return the groups that an interrupted run saved; None unless every rank has its own.

        Args:
            step: Number of steps done before it.

        Raises:
            UserError: If another version of the code saved them.
        """
        path = self._file(step)
        if self.world.sum(float(path.is_file())) < self.world.size:
            return None
        groups: dict[int, Group] = {}
        for row in read_rows(path):
            if row.keys() != set(STORED.names):
                raise UserError(
                    f"{path} was written by another version of the code; delete {self.folder}, and "
                    "the same command samples the step again"
                )
            new_group = Group(json.loads(row["problem"]), row["prompt_ids"])
            group = groups.setdefault(row["group"], new_group)
            completion = Completion(
                row["token_ids"], row["logprobs"], row["finish_reason"], row["version"]
            )
            outcome = Reward(row["reward"], row["reward_values"], row["reward_error"])
            group.samples.append(
                Sample(group.prompt_ids, completion, row["text"], row["verdict"], outcome)
            )
        if self.world.rank == 0:
            print(f"step {step + 1}: responses from before the interruption", flush=True)
        return list(groups.values())

    def clear(self) -> None:
        """Remove the folder, once the whole run is finished."""
        if self.world.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"step_{step}.rank_{self.world.rank}_of_{self.world.size}.parquet"
