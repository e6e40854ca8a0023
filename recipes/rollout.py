"""Sample n responses for every problem, shard by shard.

    tune run recipes/rollout.py --config configs/tiny/rollout.yaml
    tune run --nproc_per_node 2 recipes/rollout.py --config configs/tiny/rollout.yaml

Ranks share nothing: rank r makes the shards r, r + ranks, ... A shard is written as a whole or not
at all, so a killed run resumes with the missing shards, on any number of ranks. The replies of an
unfinished shard are kept in rollouts/.spool-<shard>.jsonl as they come, and are not asked for
again. The sidecar rollouts/<shard>.json holds what the rows do not: failed problems, cost and
counts.
"""

import json
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.data.data_config import RolloutConfig
from custom_components.data.problems import read_problems, rejects_line
from custom_components.data.rows import Reject, read_rows, rollout_row, write_rows
from custom_components.engines.engine import Reply, Sampling
from custom_components.engines.replies import ReplyFile, cost_of_unfinished
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.run_folder import RunFolder
from custom_components.training.separate_ranks import separate_ranks
from custom_components.verifier import Item, Verdict, VerifierPool


@recipe_main
def main(cfg: RolloutConfig) -> None:
    """Sample rollouts."""
    with separate_ranks(cfg.device) as world:
        run = RunFolder("rollout", cfg, world)
        if run.already_complete:
            return
        problems, rejects = read_problems(instantiate(cfg.problems, "problems"))
        if rejects and world.rank == 0:
            print(rejects_line(rejects, len(problems)), flush=True)
        shards = {
            f"{i // cfg.problems_per_shard:05d}": problems[i : i + cfg.problems_per_shard]
            for i in range(0, len(problems), cfg.problems_per_shard)
        }
        tokenizer = instantiate(cfg.tokenizer, "tokenizer") if cfg.tokenizer else None
        folder = run.path / "rollouts"
        own_shards = [
            name
            for name in sorted(shards)[world.rank :: world.size]
            if not (folder / f"{name}.parquet").exists()
        ]
        if own_shards:
            engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
            engine.texts.spent += sum_sidecars(folder)["cost"] + cost_of_unfinished(folder)
            bar = tqdm(
                total=sum(len(shards[name]) for name in own_shards) * cfg.samples_per_problem,
                unit="response",
                desc="rollout",
                disable=world.rank != 0,
            )
            with closing(engine), bar, cfg.oversample.open() as pool:
                yield_bar = YieldBar(bar, pool if cfg.oversample.max_samples else None)
                sampler = Sampler(cfg, engine, yield_bar)
                for name in own_shards:
                    sampler.sample(Shard(folder, name, shards[name]))
        world.barrier()
        if world.rank == 0:
            totals = sum_sidecars(folder)
            rejects += totals["rejects"]
            if rejects:
                write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
            # A killed run may have left these, on any rank.
            for leftover in folder.glob(".tmp-*"):
                shutil.rmtree(leftover)
            for leftover in folder.glob(".spool-*"):
                leftover.unlink()
            counts = count_rows(folder) | {"problems": len(problems), "rejected": len(rejects)}
            if cfg.oversample.max_samples:
                counts |= {k: totals[k] for k in ("oversampled", "solved_by_oversampling")}
            if totals["cost"]:
                counts["cost"] = round(totals["cost"], 6)
            run.finish([folder], counts)
            print(json.dumps(counts), flush=True)


class Shard:
    """Hold the problems whose rows go into one Parquet file.

    Args:
        folder: folder of the Parquet files.
        name: number of the shard, as text.
        problems: problems of the shard.
    """

    def __init__(self, folder: Path, name: str, problems: list[dict[str, Any]]) -> None:
        self.name = name
        self.problems = problems
        self.path = folder / f"{name}.parquet"
        self.kept = ReplyFile(folder / f".spool-{name}.jsonl")


class YieldBar:
    """Show responses, tokens per second and, with a verifier, the share of problems solved.

    Args:
        bar: progress bar that counts responses.
        pool: verifier that checks every response while the engine samples; None verifies nothing.

    Attributes:
        solved: (shard, problem) of the problems with a correct rollout among those verified so far.
    """

    def __init__(self, bar: tqdm, pool: VerifierPool | None) -> None:
        self.bar = bar
        self.pool = pool
        self.started = time.monotonic()
        self.tokens = 0
        self.sampled: set[tuple[str, int]] = set()
        self.solved: set[tuple[str, int]] = set()
        self._pending: deque[tuple[tuple[str, int], Future[Verdict]]] = deque()

    def expect(self, responses: int) -> None:
        """Count on further responses."""
        self.bar.total = (self.bar.total or 0) + responses

    def add(self, shard: Shard, i: int, replies: list[Reply], fresh: bool = True) -> None:
        """Count the replies to problem i of a shard; those of an earlier run are not fresh."""
        self.sampled.add((shard.name, i))
        if self.pool is not None:
            problem = shard.problems[i]
            for reply in replies:
                item = Item(
                    problem["answer"],
                    reply.text,
                    truncated=reply.finish_reason == "length",
                    problem=problem["problem"],
                )
                self._pending.append(((shard.name, i), self.pool.submit(item)))
        if fresh:
            self.tokens += sum(reply.num_tokens for reply in replies)
        self.bar.update(len(replies))
        self.collect(wait=False)

    def collect(self, wait: bool) -> None:
        """Take in the verdicts that are ready, or wait for all of them, and update the bar."""
        while self._pending and (wait or self._pending[0][1].done()):
            key, verdict = self._pending.popleft()
            if verdict.result().verdict == "correct":
                self.solved.add(key)
        speed = self.tokens / max(time.monotonic() - self.started, 1e-9)
        shown = {"tokens/s": f"{speed:.0f}"}
        if self.pool and self.sampled:
            shown["yield"] = f"{len(self.solved) / len(self.sampled):.1%}"
        self.bar.set_postfix(shown, refresh=wait)


@dataclass(frozen=True)
class Sampler:
    """Sample shards with an engine.

    Attributes:
        cfg: config of the run.
        engine: engine that replies.
        yield_bar: progress, and the problems solved so far.
    """

    cfg: RolloutConfig
    engine: WatchedEngine
    yield_bar: YieldBar

    def sample(self, shard: Shard) -> None:
        """Sample one shard in rounds and write its rows.

        Raises:
            UserError: if too many of its problems fail; the replies so far are kept.
        """
        replies = shard.kept.replies
        solved = self.yield_bar.solved
        failures: dict[int, str] = {}
        for (_, i), earlier in replies.items():
            self.yield_bar.add(shard, i, earlier, fresh=False)
        rounds = round_sizes(self.cfg.samples_per_problem, self.cfg.oversample.max_samples)
        for number, n in enumerate(rounds):
            missing = [
                i
                for i in range(len(shard.problems))
                if i not in failures
                and (number, i) not in replies
                and not (number and (shard.name, i) in solved)
            ]
            if number:
                self.yield_bar.expect(n * len(missing))
            failures |= self._sample_round(shard, number, n, missing)
            self.yield_bar.collect(wait=True)
            if failures:
                check_failures(self.cfg, shard, failures)
        oversampled = {i for number, i in replies if number}
        counts = {
            "oversampled": len(oversampled),
            "solved_by_oversampling": sum((shard.name, i) in solved for i in oversampled),
        }
        write_sidecar(shard, failures, counts)
        write_rows(shard.path, list(rows_of(self.cfg, shard, self.engine.name, len(rounds))))
        shard.kept.remove()

    def _sample_round(
        self, shard: Shard, number: int, n: int, missing: list[int]
    ) -> dict[int, str]:
        """Keep n replies to each missing problem; return {index: reason} of those that failed."""

        def keep(k: int, replies: list[Reply]) -> None:
            shard.kept.add(number, missing[k], replies)
            self.yield_bar.add(shard, missing[k], replies)

        if not missing:
            return {}
        conversations = [
            [{"role": "user", "content": shard.problems[i]["problem"]}] for i in missing
        ]
        sampling = sampling_of(self.cfg, shard, number)
        failures = self.engine.complete(conversations, n, sampling, keep)
        return {missing[k]: f"round {number}: {why}" for k, why in failures.items()}


def round_sizes(n: int, max_samples: int) -> list[int]:
    """Return the responses for a problem in each round: n a round, `max_samples` in all.

    There is one round at least.
    """
    return [n] + [min(n, max_samples - done) for done in range(n, max_samples, n)]


def sampling_of(cfg: RolloutConfig, shard: Shard, number: int) -> Sampling:
    """Return how a shard is sampled in a round: every round has a seed of its own."""
    seed = (number * 1_000_003 + cfg.seed) * 1_000_003 + int(shard.name)
    return Sampling(**asdict(cfg.sampling), seed=seed, logprobs=False)


def check_failures(cfg: RolloutConfig, shard: Shard, failures: dict[int, str]) -> None:
    """Check that few of a shard's problems have failed.

    Raises:
        UserError: if their share is above max_reject_share.
    """
    if len(failures) <= cfg.max_reject_share * len(shard.problems):
        return
    sidecar = write_sidecar(shard, failures, {})
    raise UserError(
        f"{len(failures)} of {len(shard.problems)} problems of shard {shard.name} failed (see "
        f"{sidecar}), the first with {next(iter(failures.values()))}; the same command asks for "
        "them again, or raise max_reject_share"
    )


def write_sidecar(shard: Shard, failures: dict[int, str], counts: dict[str, int]) -> Path:
    """Write the shard's sidecar JSON (failed problems, cost, counts) and return its path."""
    cost = sum(reply.cost for replies in shard.kept.replies.values() for reply in replies)
    rejects = [
        vars(Reject(f"problem {shard.problems[i]['id']}", why)) for i, why in failures.items()
    ]
    path = shard.path.with_suffix(".json")
    write_json(path, {"rejects": rejects, "cost": round(cost, 6), **counts})
    return path


def sum_sidecars(folder: Path) -> dict[str, Any]:
    """Return the sums over a folder's finished shards, and the list of their `rejects`."""
    total: dict[str, Any] = {
        "rejects": [],
        "cost": 0.0,
        "oversampled": 0,
        "solved_by_oversampling": 0,
    }
    for path in sorted(folder.glob("*.json")):
        if path.with_suffix(".parquet").exists():
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            sidecar["rejects"] = [Reject(**reject) for reject in sidecar["rejects"]]
            total = {name: value + sidecar[name] for name, value in total.items()}
    return total


def rows_of(cfg: RolloutConfig, shard: Shard, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the rollout rows of a shard, problem by problem and round by round."""
    samplings = [
        json.dumps(asdict(cfg.sampling) | {"seed": sampling_of(cfg, shard, k).seed})
        for k in range(rounds)
    ]
    for i, problem in enumerate(shard.problems):
        for number, sampling in enumerate(samplings):
            for reply in shard.kept.replies.get((number, i), []):
                yield rollout_row(
                    **problem,
                    response=reply.text,
                    finish_reason=reply.finish_reason,
                    num_tokens=reply.num_tokens,
                    model=model,
                    sampling=sampling,
                )


def count_rows(folder: Path) -> dict[str, int]:
    """Return the numbers of rows, tokens and cut-off responses in a folder of shards."""
    rows = tokens = cut = 0
    for file in sorted(folder.glob("*.parquet")):
        for row in read_rows(file):
            rows += 1
            tokens += row["num_tokens"]
            cut += row["finish_reason"] == "length"
    return {"rollouts": rows, "tokens": tokens, "truncated": cut}


if __name__ == "__main__":
    main()
