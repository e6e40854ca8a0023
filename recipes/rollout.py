"""Sample n responses for every problem, shard by shard.

    tune run recipes/rollout.py --config configs/tiny/rollout.yaml
    tune run --nproc_per_node 2 recipes/rollout.py --config configs/tiny/rollout.yaml

Ranks share nothing: rank r makes the shards r, r + ranks, ... A shard is written whole or not
at all, so a killed run continues with the shards that are missing, on any number of ranks.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_components.config import (
    Component,
    instantiate,
    option,
    recipe_main,
    required,
)
from custom_components.data.problems import read_problems
from custom_components.data.rows import read_rows, rollout_row, write_rows
from custom_components.io import write_jsonl
from custom_components.rollout.engine import Sampling
from custom_components.rollout.guard import GuardedEngine
from custom_components.training.distributed import setup_world
from custom_components.training.run_folder import RunFolder


@dataclass
class SamplingConfig:
    """How responses are sampled."""

    temperature: float = option(0.6, "divides the logits; 0 is greedy")
    top_p: float = option(0.95, "nucleus mass")
    max_new_tokens: int = option(16_384, "longest response, tokens")


@dataclass
class RolloutConfig:
    """Config of recipes/rollout.py."""

    output_dir: str = required("run folder; rows go to <output_dir>/rollouts/*.parquet")
    problems: Component = required("function of custom_components.data that yields problems")
    engine: Component = required("rollout engine")
    tokenizer: Component = required("chat tokenizer of the engine's model")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    samples_per_problem: int = option(8, "responses for each problem")
    sampling: SamplingConfig = option(SamplingConfig, "how responses are sampled")
    problems_per_shard: int = option(512, "problems in a Parquet shard")
    engine_timeout: float = option(1800.0, "seconds without progress of the engine end the run")
    device: str = option("auto", "auto, cpu or cuda")
    seed: int = option(0, "seed of the sampling")
    resume: str = option("auto", "auto: keep finished shards; never: start over")


@recipe_main(RolloutConfig)
def main(cfg: Any) -> None:
    """Sample rollouts."""
    with setup_world(cfg.device) as world:
        folders = [cfg.tokenizer.get("path", ""), cfg.engine.get("model", "")]
        run = RunFolder("rollout", cfg, [f for f in folders if Path(f).is_dir()], world)
        if run.already_complete:
            return
        problems, rejects = read_problems(instantiate(cfg.problems, "problems"))
        shards = {
            f"{i // cfg.problems_per_shard:05d}": problems[i : i + cfg.problems_per_shard]
            for i in range(0, len(problems), cfg.problems_per_shard)
        }
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        folder = run.path / "rollouts"
        mine = [
            name for name in sorted(shards)[world.rank :: world.size]
            if not (folder / f"{name}.parquet").exists()
        ]  # fmt: skip
        if mine:
            engine = GuardedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
            bar = tqdm(
                total=sum(len(shards[name]) for name in mine) * cfg.samples_per_problem,
                unit="response", desc="rollout", disable=world.rank != 0,
            )  # fmt: skip
            for name in mine:
                rows = sample_shard(cfg, shards[name], int(name), engine, tokenizer)
                write_rows(folder / f"{name}.parquet", rows)
                bar.update(len(rows))
                bar.set_postfix(tokens=sum(r["num_tokens"] for r in rows))
            bar.close()
            engine.close()
        world.barrier()
        if world.rank == 0:
            if rejects:
                write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
            # left by a killed run on whatever rank
            for leftover in folder.glob(".tmp-*"):
                shutil.rmtree(leftover)
            counts = count_rows(folder) | {"problems": len(problems), "rejected": len(rejects)}
            run.finish([folder], counts)
            print(json.dumps(counts), flush=True)


def sample_shard(cfg: Any, problems: list[dict], shard: int, engine: Any, tokenizer: Any):
    """Rollout rows of one shard's problems."""
    sampling = Sampling(**asdict(cfg.sampling), seed=cfg.seed * 1_000_003 + shard)
    prompts = [tokenizer.encode_prompt(p["problem"]) for p in problems]
    completions = engine.generate(prompts, cfg.samples_per_problem, sampling)
    described = json.dumps(asdict(sampling))
    return [
        rollout_row(
            **problem,
            response=tokenizer.decode(completion.token_ids),
            finish_reason=completion.finish_reason,
            num_tokens=len(completion.token_ids),
            model=engine.name,
            sampling=described,
        )
        for problem, samples in zip(problems, completions, strict=True)
        for completion in samples
    ]


def count_rows(folder: Any) -> dict[str, int]:
    """Rows, tokens and cut-off responses in a folder of shards."""
    rows = tokens = cut = 0
    for file in sorted(folder.glob("*.parquet")):
        for row in read_rows(file):
            rows, tokens = rows + 1, tokens + row["num_tokens"]
            cut += row["finish_reason"] == "length"
    return {"rollouts": rows, "tokens": tokens, "truncated": cut}


if __name__ == "__main__":
    main()
