"""Sample n responses for every problem, shard by shard.

    tune run recipes/rollout.py --config configs/tiny/rollout.yaml
    tune run --nproc_per_node 2 recipes/rollout.py --config configs/tiny/rollout.yaml

Ranks share nothing: rank r makes the shards r, r + ranks, ... A shard is written whole or not
at all, so a killed run continues with the shards that are missing, on any number of ranks. The
replies of a shard under way are kept in rollouts/.spool-<shard>.jsonl as they come, and are not
asked for again. What the rows do not tell (failed problems, cost) stands in
rollouts/<shard>.json.
"""

import json
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.data.data_config import RolloutConfig
from custom_components.data.problems import read_problems
from custom_components.data.rows import Reject, read_rows, rollout_row, write_rows
from custom_components.engines.engine import Reply, Sampling
from custom_components.engines.replies import ReplyFile, cost_of_unfinished
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import setup_world
from custom_components.verifier import Verdict, VerifierPool


@recipe_main
def main(cfg: RolloutConfig) -> None:
    """Sample rollouts."""
    with setup_world(cfg.device, uneven=True) as world:
        run = RunFolder("rollout", cfg, world)
        if run.already_complete:
            return
        problems, rejects = read_problems(instantiate(cfg.problems, "problems"))
        shards = {
            f"{i // cfg.problems_per_shard:05d}": problems[i : i + cfg.problems_per_shard]
            for i in range(0, len(problems), cfg.problems_per_shard)
        }
        tokenizer = instantiate(cfg.tokenizer, "tokenizer") if cfg.tokenizer else None
        folder = run.path / "rollouts"
        mine = [
            name
            for name in sorted(shards)[world.rank :: world.size]
            if not (folder / f"{name}.parquet").exists()
        ]
        if mine:
            engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
            engine.texts.spent += sum_notes(folder)["cost"] + cost_of_unfinished(folder)
            bar = tqdm(
                total=sum(len(shards[name]) for name in mine) * cfg.samples_per_problem,
                unit="response",
                desc="rollout",
                disable=world.rank != 0,
            )
            with bar, VerifierPool(cfg.oversample.workers, cfg.oversample.time_limit) as pool:
                progress = Progress(bar, pool if cfg.oversample.max_samples else None)
                for name in mine:
                    sample_shard(cfg, Shard(folder, name, shards[name]), engine, progress)
            engine.close()
        world.barrier()
        if world.rank == 0:
            notes = sum_notes(folder)
            rejects += notes["rejects"]
            if rejects:
                write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
            # left by a killed run on whatever rank
            for leftover in folder.glob(".tmp-*"):
                shutil.rmtree(leftover)
            for leftover in folder.glob(".spool-*"):
                leftover.unlink()
            counts = count_rows(folder) | {"problems": len(problems), "rejected": len(rejects)}
            if cfg.oversample.max_samples:
                counts |= {k: notes[k] for k in ("oversampled", "solved_by_oversampling")}
            if notes["cost"]:
                counts["cost"] = round(notes["cost"], 6)
            run.finish([folder], counts)
            print(json.dumps(counts), flush=True)


class Shard:
    """Problems whose rows go into one Parquet file.

    Args:
        folder: of the Parquet files.
        name: of the shard, its number.
        problems: its problems.
    """

    def __init__(self, folder: Path, name: str, problems: list[dict[str, Any]]) -> None:
        self.name, self.problems = name, problems
        self.path = folder / f"{name}.parquet"
        self.spool = ReplyFile(folder / f".spool-{name}.jsonl")


class Progress:
    """What is there so far: the bar, tokens per second and, with a verifier, the yield.

    Args:
        bar: of responses.
        pool: verifies every response while the engine goes on; None verifies nothing.

    Attributes:
        solved: (shard, problem) of those with a correct rollout, as far as verified.
    """

    def __init__(self, bar: tqdm, pool: VerifierPool | None) -> None:
        self.bar, self.pool = bar, pool
        self.started, self.tokens = time.monotonic(), 0
        self.seen: set[tuple[str, int]] = set()
        self.solved: set[tuple[str, int]] = set()
        self._pending: deque[tuple[tuple[str, int], Future[Verdict]]] = deque()

    def add(self, shard: Shard, i: int, replies: list[Reply], fresh: bool = True) -> None:
        """Take in the replies to problem i of a shard; those of an earlier run are not fresh."""
        self.seen.add((shard.name, i))
        for reply in replies if self.pool else []:
            item = {
                "gold": shard.problems[i]["answer"],
                "response": reply.text,
                "truncated": reply.finish_reason == "length",
            }
            self._pending.append(((shard.name, i), self.pool.submit(item)))
        self.tokens += fresh * sum(reply.num_tokens for reply in replies)
        self.bar.update(len(replies))
        self.collect(wait=False)

    def collect(self, wait: bool) -> None:
        """Note the verdicts that are there, or wait for all of them, and show the state."""
        while self._pending and (wait or self._pending[0][1].done()):
            key, verdict = self._pending.popleft()
            if verdict.result().verdict == "correct":
                self.solved.add(key)
        speed = self.tokens / max(time.monotonic() - self.started, 1e-9)
        shown = {"tokens/s": f"{speed:.0f}"}
        if self.pool and self.seen:
            shown["yield"] = f"{len(self.solved) / len(self.seen):.1%}"
        self.bar.set_postfix(shown, refresh=wait)


def sample_shard(
    cfg: RolloutConfig, shard: Shard, engine: WatchedEngine, progress: Progress
) -> None:
    """Sample one shard in rounds, and put its rows in place.

    Raises:
        UserError: when too many of its problems fail; what was sampled stays in the spool.
    """
    replies, failures = shard.spool.replies, {}
    for (_, i), earlier in replies.items():
        progress.add(shard, i, earlier, fresh=False)
    rounds = round_sizes(cfg.samples_per_problem, cfg.oversample.max_samples)
    for number, n in enumerate(rounds):
        missing = [
            i
            for i in range(len(shard.problems))
            if i not in failures
            and (number, i) not in replies
            and not (number and (shard.name, i) in progress.solved)
        ]
        if number:
            progress.bar.total += n * len(missing)
        failures |= sample_round(cfg, shard, number, n, missing, engine, progress)
        progress.collect(wait=True)
        if failures:
            check_failures(cfg, shard, failures)
    more = {i for number, i in replies if number}
    solved = {i for i in more if (shard.name, i) in progress.solved}
    write_notes(shard, failures, {"oversampled": len(more), "solved_by_oversampling": len(solved)})
    write_rows(shard.path, list(rows_of(cfg, shard, engine.name, len(rounds))))
    shard.spool.remove()


def round_sizes(n: int, most: int) -> list[int]:
    """Responses for a problem in each round: n every time, `most` in all (one round at least)."""
    return [n] + [min(n, most - done) for done in range(n, most, n)]


def sampling_of(cfg: RolloutConfig, shard: Shard, number: int) -> Sampling:
    """How a shard is sampled in a round: every round has a seed of its own."""
    seed = (number * 1_000_003 + cfg.seed) * 1_000_003 + int(shard.name)
    return Sampling(**asdict(cfg.sampling), seed=seed)


def sample_round(
    cfg: RolloutConfig,
    shard: Shard,
    number: int,
    n: int,
    missing: list[int],
    engine: WatchedEngine,
    progress: Progress,
) -> dict[int, str]:
    """n replies into the spool for each missing problem. Returns why problems failed, by index."""

    def keep(k: int, replies: list[Reply]) -> None:
        shard.spool.add(number, missing[k], replies)
        progress.add(shard, missing[k], replies)

    if not missing:
        return {}
    conversations = [[{"role": "user", "content": shard.problems[i]["problem"]}] for i in missing]
    failed = engine.complete(conversations, n, sampling_of(cfg, shard, number), keep)
    return {missing[k]: f"round {number}: {why}" for k, why in failed.items()}


def check_failures(cfg: RolloutConfig, shard: Shard, failures: dict[int, str]) -> None:
    """Check that few of a shard's problems failed.

    Raises:
        UserError: when they are more than max_reject_share.
    """
    if len(failures) <= cfg.max_reject_share * len(shard.problems):
        return
    notes = write_notes(shard, failures, {})
    raise UserError(
        f"{len(failures)} of {len(shard.problems)} problems of shard {shard.name} failed (see "
        f"{notes}), the first with {next(iter(failures.values()))}; the same command asks for "
        "them again, or raise max_reject_share"
    )


def write_notes(shard: Shard, failures: dict[int, str], counts: dict[str, int]) -> Path:
    """Write what a shard's rows do not tell into a file beside them; returns its path."""
    cost = sum(reply.cost for replies in shard.spool.replies.values() for reply in replies)
    rejects = [
        vars(Reject(f"problem {shard.problems[i]['id']}", why)) for i, why in failures.items()
    ]
    path = shard.path.with_suffix(".json")
    write_json(path, {"rejects": rejects, "cost": round(cost, 6), **counts})
    return path


def sum_notes(folder: Path) -> dict[str, Any]:
    """The notes of a folder's finished shards: `rejects` (a list), and sums of the others."""
    total = {"rejects": [], "cost": 0.0, "oversampled": 0, "solved_by_oversampling": 0}
    for path in sorted(folder.glob("*.json")):
        if path.with_suffix(".parquet").exists():
            notes = json.loads(path.read_text(encoding="utf-8"))
            notes["rejects"] = [Reject(**reject) for reject in notes["rejects"]]
            total = {name: value + notes[name] for name, value in total.items()}
    return total


def rows_of(cfg: RolloutConfig, shard: Shard, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Rollout rows of a shard: problem by problem, round by round."""
    described = [json.dumps(asdict(sampling_of(cfg, shard, k))) for k in range(rounds)]
    for i, problem in enumerate(shard.problems):
        for number, sampling in enumerate(described):
            for reply in shard.spool.replies.get((number, i), []):
                yield rollout_row(
                    **problem,
                    response=reply.text,
                    finish_reason=reply.finish_reason,
                    num_tokens=reply.num_tokens,
                    model=model,
                    sampling=sampling,
                )


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
