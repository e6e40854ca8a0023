"""Select the prompts to train on, before the first step, and those of each step."""

import random
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import UserError, instantiate
from custom_components.data.curation import PROMPTS_SCHEMA
from custom_components.data.problems import read_problems, rejects_line
from custom_components.data.rows import Reject, read_rows, write_rows
from custom_components.engines.engine import Sampling
from custom_components.io import atomic_path, write_jsonl
from custom_components.rl.fixes import is_selected
from custom_components.rl.groups import Group
from custom_components.rl.rl_config import RLConfig
from custom_components.rl.sampler import Sampler
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import World

SHARD = 64
"""Candidates that a rank samples and stores at a time; a kill loses no more than these."""


def select_prompts(sampler: Sampler, run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the prompts to train on, selected as the config says.

    With `selection.rounds` the start model samples `selection.candidates` of them, without those
    that statistics in their own rows rule out, until there are as many as the run can use.
    `prompts.parquet` in the run folder keeps all sampled candidates with the statistics that decide;
    a resumed run reads it, or what `selection/` has of it.

    Args:
        sampler: Sampler whose engine holds the start model.
        run: Run folder.

    Returns:
        (prompts, counts): `counts` has the number of prompts and the tokens that selecting them
        took, for the manifest.

    Raises:
        UserError: If there is no usable problem, or the selection keeps none.
    """
    cfg, world = sampler.cfg, sampler.world
    problems, rejects = read_problems(instantiate(cfg.problems, "problems"))
    if rejects and world.rank == 0:
        report_rejects(rejects, len(problems), run.path / "rejects.jsonl")
    if cfg.selection.rounds < 1:
        return problems, {"prompts": len(problems), "selection_tokens": 0}
    path = run.path / "prompts.parquet"
    exists = path.exists()
    world.barrier()  # Every rank looks for the file before rank 0 writes it.
    if not exists:
        candidates = choose_candidates(problems, cfg)
        rows = sample_candidates(sampler, candidates, run.path / "selection")
        if world.rank == 0:
            with atomic_path(path) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, PROMPTS_SCHEMA), temporary)
            shutil.rmtree(run.path / "selection")
        world.barrier()
    candidates = list(read_rows(path))
    prompts = [row for row in candidates if is_selected(row, cfg.selection)]
    if world.rank == 0:
        print(f"prompt selection: {len(prompts)} of {len(candidates)} kept", flush=True)
    if not prompts:
        raise UserError(
            f"selection keeps none of {len(candidates)} prompts ({path}); raise "
            "selection.threshold or selection.max_accuracy"
        )
    tokens = round(sum(row["samples"] * row["mean_length"] for row in candidates))
    return prompts, {"prompts": len(prompts), "selection_tokens": tokens}


def choose_candidates(problems: list[dict[str, Any]], cfg: RLConfig) -> list[dict[str, Any]]:
    """Return the problems to sample, at most `selection.candidates`, drawn at random.

    Args:
        problems: All problems; those whose rows have statistics that rule them out are left out.
        cfg: Config with `selection` and `seed`.
    """
    selection = cfg.selection
    possible = [
        row
        for row in problems
        if not {selection.statistic, "pass_rate"} <= row.keys() or is_selected(row, selection)
    ]
    wanted = selection.candidates
    if wanted is not None and wanted < len(possible):
        return random.Random(f"{cfg.seed} candidates").sample(possible, wanted)
    return possible


def usable_prompts(cfg: RLConfig) -> int | None:
    """Return the number of prompts beyond which a run samples no other; None if it has no limit."""
    if cfg.max_steps is None or cfg.max_generated_tokens is not None:
        return None
    return cfg.max_steps * cfg.batch_size


def report_rejects(rejects: list[Reject], usable: int, path: Path) -> None:
    """Write the rejected problems to a JSONL file, and print how many there are.

    Args:
        rejects: Rejected problems, at least one.
        usable: Number of the other problems.
        path: File to write.
    """
    write_jsonl(path, [vars(reject) for reject in rejects])
    print(rejects_line(rejects, usable), flush=True)


def sample_candidates(
    sampler: Sampler, candidates: list[dict[str, Any]], folder: Path
) -> list[dict[str, Any]]:
    """Sample `selection.rounds` times, and return a row of PROMPTS_SCHEMA for each problem.

    Each rank samples and stores one shard of candidates at a time. It ends when the candidates are
    used up, or enough of them are kept; what was sampled beyond is left out, so that the result is
    the same for any number of ranks.

    Args:
        sampler: Sampler whose engine holds the start model.
        candidates: Problems to sample, the same list on every rank.
        folder: Folder of the finished shards.
    """
    cfg, world = sampler.cfg, sampler.world
    folder.mkdir(parents=True, exist_ok=True)
    shards = [candidates[i : i + SHARD] for i in range(0, len(candidates), SHARD)]
    enough = usable_prompts(cfg)
    rows: list[dict[str, Any]] = []
    for first in range(0, len(shards), world.size):
        number = first + world.rank
        own_rows = []
        if number < len(shards):
            own_rows = sample_shard(sampler, shards[number], number, folder)
        rows += world.gather(own_rows)
        kept = [i for i, row in enumerate(rows) if is_selected(row, cfg.selection)]
        if world.rank == 0:
            print(f"prompt selection: {len(kept)} of {len(rows)} so far", flush=True)
        if enough is not None and len(kept) >= enough:
            return rows[: kept[enough - 1] + 1]
    return rows


def sample_shard(
    sampler: Sampler, problems: list[dict[str, Any]], number: int, folder: Path
) -> list[dict[str, Any]]:
    """Return the rows of a shard of candidates: stored ones, or sampled and stored ones.

    Args:
        sampler: Sampler whose engine holds the start model.
        problems: Candidates of the shard.
        number: Number of the shard; it seeds the sampling, so that any rank may sample it.
        folder: Folder of the finished shards.
    """
    cfg = sampler.cfg
    path = folder / f"{number:05d}.parquet"
    if path.exists():
        return list(read_rows(path))
    groups = sampler.empty_groups(problems)
    rng = random.Random(f"{cfg.seed} selection {number}")
    for _ in range(cfg.selection.rounds):
        seed = rng.getrandbits(48)
        sampling = Sampling(cfg.temperature.start, 1.0, cfg.max_new_tokens, seed, False)
        sampler.add_responses(groups, cfg.selection.samples, sampling)
    rows = [prompt_row(group) for group in groups]
    write_rows(path, rows, PROMPTS_SCHEMA)
    return rows


def prompt_row(group: Group) -> dict[str, Any]:
    """Return the prompt with the statistics of its responses, as in the `prompts` split."""
    return (
        group.problem
        | group.length_statistics()
        | {"pass_rate": group.accuracy, "samples": len(group.samples)}
    )


class PromptPool:
    """Hand out the prompts of each step, without those that have become too easy.

    Args:
        prompts: Prompts to train on.
        cfg: Config with `no_resampling_above` and `seed`.
        world: Rank of this process, and their number.
        too_easy: Ids of the prompts that are too easy, from the checkpoint of a resumed run.
    """

    def __init__(
        self,
        prompts: list[dict[str, Any]],
        cfg: RLConfig,
        world: World,
        too_easy: Collection[str] = (),
    ) -> None:
        self.prompts = prompts
        self.cfg = cfg
        self.world = world
        self.too_easy = set(too_easy)

    def of_step(self, indices: list[int], step: int) -> list[dict[str, Any]]:
        """Return this rank's prompts of a step.

        Other prompts, drawn at random, take the place of those that are too easy, as far as there
        are others.

        Args:
            indices: Prompts of the step on all ranks, in the order of the epoch.
            step: Number of steps done; it seeds the draw.
        """
        batch = [self.prompts[i] for i in indices]
        easy = [prompt for prompt in batch if prompt["id"] in self.too_easy]
        if easy:
            batch = [prompt for prompt in batch if prompt["id"] not in self.too_easy]
            rng = random.Random(f"{self.cfg.seed} {step} others")
            batch += self.others(batch, len(easy), rng)
            batch += easy[: len(indices) - len(batch)]
        return batch[self.world.rank :: self.world.size]

    def others(
        self, prompts: list[dict[str, Any]], number: int, rng: random.Random
    ) -> list[dict[str, Any]]:
        """Draw prompts that are not too easy; fewer than asked for if there are no more.

        Args:
            prompts: Prompts to leave out.
            number: Number of prompts to draw.
            rng: Source of the draw.
        """
        taken = self.too_easy | {prompt["id"] for prompt in prompts}
        candidates = [prompt for prompt in self.prompts if prompt["id"] not in taken]
        return rng.sample(candidates, min(number, len(candidates)))

    def drop_too_easy(self, groups: list[Group]) -> dict[str, int]:
        """Sample no longer the prompts whose pass rate exceeds the limit.

        Args:
            groups: Verified groups of this rank.

        Returns:
            {"dropped_prompts": their number so far}; empty without a limit.
        """
        limit = self.cfg.no_resampling_above
        if limit >= 1:
            return {}
        easy = [group.problem["id"] for group in groups if group.accuracy > limit]
        self.too_easy |= set(self.world.gather(easy))
        return {"dropped_prompts": len(self.too_easy)}
