"""The sampling side of an RL step: one engine and one verifier pool per rank."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import UserError, instantiate
from custom_components.data.curation import PROMPTS_SCHEMA
from custom_components.data.problems import read_problems
from custom_components.data.rows import read_rows, write_rows
from custom_components.engines.engine import Completion, Sampling
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import atomic_path, write_jsonl
from custom_components.rl.rl_config import HeldOutConfig, RLConfig
from custom_components.rl.samples import Group, Sample, judge, prompt_row, sample_round
from custom_components.rl.selection import selected
from custom_components.runs.run_folder import RunFolder
from custom_components.runs.stopwatch import Stopwatch
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.distributed import World
from custom_components.training.trainer import Trainer
from custom_components.verifier import VerifierPool

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
    }
)


@dataclass
class Rollouts:
    """Samples, judges, and keeps what was sampled until a checkpoint covers it.

    A step's responses are written to `<folder>/` before they are learned from. A run that is
    killed goes back to its last checkpoint and learns from the same responses again, so that it
    neither pays for them twice nor takes another path, whatever the engine.

    Attributes:
        cfg: the recipe's config.
        world: this process among all.
        tokenizer: encodes prompts, decodes responses.
        engine: of this rank.
        pool: verifier processes of this rank.
        folder: for the responses not yet covered by a checkpoint.
    """

    cfg: RLConfig
    world: World
    tokenizer: ChatTokenizer
    engine: WatchedEngine
    pool: VerifierPool
    folder: Path

    def groups(self, problems: list[dict[str, Any]]) -> list[Group]:
        """Groups without responses yet."""
        return [Group.of(problem, self.tokenizer) for problem in problems]

    def fill(
        self,
        groups: list[Group],
        temperature: float,
        rng: random.Random,
        clock: Stopwatch,
        again: Callable[[Group], bool] = lambda group: False,
    ) -> None:
        """Give each group `group_size` judged responses, and more for as long as it needs them.

        Args:
            groups: to fill.
            temperature: to sample at.
            rng: gives each round its seed.
            clock: adds up `rollout` and `reward`.
            again: whether a judged group is to be sampled in another round.
        """
        while groups:
            sampling = Sampling(temperature, 1.0, self.cfg.max_new_tokens, rng.getrandbits(48))
            with clock("rollout"):
                sample_round(groups, self.cfg.group_size, sampling, self.engine, self.tokenizer)
            with clock("reward"):
                judge(groups, self.pool)
            groups = [g for g in groups if again(g)]

    def sync(self, trainer: Trainer, version: int) -> None:
        """Give the engine the trainer's weights; their version is the steps they have learned."""
        weights = trainer.checkpointer.to_hf(trainer.plain_weights(every_rank=True))
        self.engine.load_weights(weights.items(), version)

    def _file(self, step: int) -> Path:
        return self.folder / f"step_{step}.rank_{self.world.rank}_of_{self.world.size}.parquet"

    def store(self, step: int, groups: list[Group], covered: int) -> None:
        """Keep a step's judged groups, and remove those of steps that a checkpoint covers.

        Args:
            step: steps done before it.
            groups: of this rank.
            covered: steps done at the latest complete checkpoint.
        """
        rows = [
            {
                "group": i,
                "problem": json.dumps(group.problem),
                "prompt_ids": group.prompt_ids,
                "token_ids": s.completion.token_ids,
                "logprobs": s.completion.logprobs,
                "finish_reason": s.completion.finish_reason,
                "version": s.completion.version,
                "text": s.text,
                "verdict": s.verdict,
            }
            for i, group in enumerate(groups)
            for s in group.samples
        ]
        write_rows(self._file(step), rows, STORED)
        for file in self.folder.glob(f"step_*.rank_{self.world.rank}_of_*.parquet"):
            if int(file.name.split(".")[0].removeprefix("step_")) < covered:
                file.unlink()

    def stored(self, step: int) -> list[Group] | None:
        """A step's groups from before the run was cut off; None unless every rank has them."""
        path = self._file(step)
        if self.world.sum(float(path.is_file())) < self.world.size:
            return None
        groups: dict[int, Group] = {}
        for row in read_rows(path):
            group = groups.setdefault(
                row["group"], Group(json.loads(row["problem"]), row["prompt_ids"])
            )
            completion = Completion(
                row["token_ids"], row["logprobs"], row["finish_reason"], row["version"]
            )
            group.samples.append(Sample(group.prompt_ids, completion, row["text"], row["verdict"]))
        if self.world.rank == 0:
            print(f"step {step + 1}: responses from before the interruption", flush=True)
        return list(groups.values())

    def accuracy(self, problems: list[dict[str, Any]], options: HeldOutConfig, step: int) -> float:
        """Share of correct responses to held-out problems, over all ranks.

        Args:
            problems: of all ranks.
            options: how to sample.
            step: seeds the sampling.
        """
        mine = self.groups(problems[self.world.rank :: self.world.size])
        seed = random.Random(f"{self.cfg.seed} held out {step} {self.world.rank}").getrandbits(48)
        sampling = Sampling(options.temperature, options.top_p, self.cfg.max_new_tokens, seed)
        if mine:  # there may be fewer problems than ranks
            sample_round(mine, options.samples, sampling, self.engine, self.tokenizer)
            judge(mine, self.pool)
        right = self.world.sum(sum(s.verdict == "correct" for g in mine for s in g.samples))
        return right / (len(problems) * options.samples)

    def prompts(self, run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The prompts to train on, by the config's selection, and what finding them took.

        Every candidate is sampled once; `prompts.parquet` in the run folder keeps them all, with
        the statistics that they are selected by.

        Raises:
            UserError: when none is left.
        """
        problems, rejects = read_problems(instantiate(self.cfg.problems, "problems"))
        if rejects and self.world.rank == 0:
            write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
            print(
                f"{len(rejects)} of {len(problems) + len(rejects)} problems rejected; first: "
                f"{rejects[0].where}: {rejects[0].reason}",
                flush=True,
            )
        selection, path = self.cfg.selection, run.path / "prompts.parquet"
        if selection.rounds < 1:
            return problems, {"prompts": len(problems), "selection_tokens": 0}
        exists = path.exists()
        self.world.barrier()
        if not exists:
            groups = self.groups(problems[self.world.rank :: self.world.size])
            rng = random.Random(f"{self.cfg.seed} selection {self.world.rank}")
            for _ in range(selection.rounds):
                sampling = Sampling(
                    self.cfg.temperature.start, 1.0, self.cfg.max_new_tokens, rng.getrandbits(48)
                )
                sample_round(groups, selection.samples, sampling, self.engine, self.tokenizer)
                judge(groups, self.pool)
            rows = self.world.gather([prompt_row(g) for g in groups])
            if self.world.rank == 0:
                with atomic_path(path) as temporary:
                    pq.write_table(pa.Table.from_pylist(rows, PROMPTS_SCHEMA), temporary)
            self.world.barrier()
        candidates = list(read_rows(path))
        kept = [
            row
            for row in candidates
            if selected(row, selection.statistic, selection.threshold, selection.max_accuracy)
        ]
        if self.world.rank == 0:
            print(f"prompt selection: {len(kept)} of {len(candidates)} kept", flush=True)
        if not kept:
            raise UserError(
                f"selection keeps none of {len(candidates)} prompts ({path}); raise "
                "selection.threshold or selection.max_accuracy"
            )
        tokens = round(sum(row["samples"] * row["mean_length"] for row in candidates))
        return kept, {"prompts": len(kept), "selection_tokens": tokens}
