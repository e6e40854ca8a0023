"""Select the prompts to train on, with the start model's own responses, before the first step."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import UserError, instantiate
from custom_components.data.curation import PROMPTS_SCHEMA
from custom_components.data.problems import read_problems
from custom_components.data.rows import Reject, read_rows
from custom_components.engines.engine import Sampling
from custom_components.io import atomic_path, write_jsonl
from custom_components.rl.fixes import is_selected
from custom_components.rl.groups import Group
from custom_components.rl.sampler import Sampler
from custom_components.runs.run_folder import RunFolder


def select_prompts(sampler: Sampler, run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the prompts to train on, selected as the config says.

    With `selection.rounds` every candidate is sampled. `prompts.parquet` in the run folder keeps
    all candidates with the statistics that decide; a resumed run reads it.

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
        rows = world.gather(sample_candidates(sampler, problems[world.rank :: world.size]))
        if world.rank == 0:
            with atomic_path(path) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, PROMPTS_SCHEMA), temporary)
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


def report_rejects(rejects: list[Reject], usable: int, path: Path) -> None:
    """Write the rejected problems to a JSONL file, and print how many there are.

    Args:
        rejects: Rejected problems, at least one.
        usable: Number of the other problems.
        path: File to write.
    """
    write_jsonl(path, [vars(reject) for reject in rejects])
    print(
        f"{len(rejects)} of {usable + len(rejects)} problems rejected; first: "
        f"{rejects[0].where}: {rejects[0].reason}",
        flush=True,
    )


def sample_candidates(sampler: Sampler, problems: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sample `selection.rounds` times, and return a row of PROMPTS_SCHEMA for each problem.

    Args:
        sampler: Sampler whose engine holds the start model.
        problems: Candidates of this rank.
    """
    cfg = sampler.cfg
    groups = sampler.empty_groups(list(problems))
    rng = random.Random(f"{cfg.seed} selection {sampler.world.rank}")
    for _ in range(cfg.selection.rounds):
        seed = rng.getrandbits(48)
        sampling = Sampling(cfg.temperature.start, 1.0, cfg.max_new_tokens, seed)
        sampler.add_responses(groups, cfg.selection.samples, sampling)
    return [prompt_row(group) for group in groups]


def prompt_row(group: Group) -> dict[str, Any]:
    """Return the prompt with the statistics of its responses, as in the `prompts` split."""
    return (
        group.problem
        | group.length_statistics()
        | {"pass_rate": group.accuracy, "samples": len(group.samples)}
    )
