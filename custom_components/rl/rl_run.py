"""Open the run of an RL recipe, and follow each step's update with sync, evaluation and logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from custom_components.config import UserError, instantiate
from custom_components.engines.watchdog import WatchedEngine
from custom_components.rl.alarms import Alarms
from custom_components.rl.groups import Group, Sample, group_statistics
from custom_components.rl.held_out import HeldOutProblems
from custom_components.rl.learning import Update
from custom_components.rl.rl_config import RLConfig
from custom_components.rl.sampler import Sampler
from custom_components.runs.metrics import Metrics
from custom_components.runs.run_folder import RunFolder
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import World
from custom_components.training.trainer import Trainer, open_model
from custom_components.training.validation import BestSoFar


@contextmanager
def open_run(
    recipe: str, cfg: RLConfig, world: World
) -> Iterator[tuple[RunFolder, Sampler] | None]:
    """Open the run folder and the sampler, whose engine and verifiers close at the end.

    Args:
        recipe: Name of the recipe.
        cfg: Config of the recipe.
        world: Rank of this process, and their number.

    Yields:
        (run folder, sampler); None if the run is already complete.

    Raises:
        UserError: If the config contradicts itself or the number of ranks.
    """
    if cfg.batch_size < world.size:
        raise UserError(
            f"batch_size={cfg.batch_size} prompts cannot be divided over {world.size} ranks"
        )
    if cfg.held_out.every and cfg.held_out.problems is None:
        raise UserError("held_out.every needs held_out.problems: what to evaluate on")
    folder = RunFolder(recipe, cfg, world)
    if folder.already_complete:
        yield None
        return
    tokenizer = instantiate(cfg.tokenizer, "tokenizer")
    open_model(cfg, tokenizer)  # refuse a model that does not fit before anything is sampled
    engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
    with cfg.verifier.open() as pool:
        yield folder, Sampler(cfg, world, tokenizer, engine, pool)
        engine.close()


@dataclass(frozen=True)
class Rollouts:
    """Hold what one step sampled.

    Attributes:
        groups: Verified groups of this rank.
        chosen: Samples of these groups that are learned from.
        temperature: Temperature they were sampled at.
        epoch: Pass over the prompts that the step belongs to.
        clock: Times of the step so far.
    """

    groups: list[Group]
    chosen: list[Sample]
    temperature: float
    epoch: int
    clock: Stopwatch


class RLRun:
    """Follow the steps of an RL run: weights to the engine, held-out accuracy, logs, alarms.

    Args:
        trainer: Trainer at the step to resume from; a resumed run gives the engine its weights.
        sampler: Sampler of this rank.

    Raises:
        UserError: If a held-out problem is rejected.
    """

    def __init__(self, trainer: Trainer[RLConfig], sampler: Sampler) -> None:
        self.trainer = trainer
        self.sampler = sampler
        self.cfg = trainer.cfg
        self.held_out = HeldOutProblems(sampler)
        # Both resume from the state that `finish_step` puts into the checkpoint.
        self.alarms = Alarms(self.cfg.alarms, **trainer.extra.get("alarms", {}))
        self.best_so_far = BestSoFar(**trainer.extra.get("held_out", {}))
        self.samples_log = Metrics(
            trainer.run.path, trainer.step, None, trainer.world.rank, "samples.jsonl"
        )
        if trainer.step:
            sampler.sync(trainer, trainer.step)

    def finish_step(self, update: Update, rollouts: Rollouts) -> None:
        """End a step after its update: sync, evaluate, log, raise alarms, write a checkpoint.

        Args:
            update: Outcome of the step's update.
            rollouts: What the step sampled.
        """
        trainer, clock, step = self.trainer, rollouts.clock, self.trainer.step + 1
        stats = group_statistics(rollouts.groups, rollouts.chosen, trainer.world)
        held_out_due = self.held_out.are_due(step, trainer.steps)
        # Nothing is sampled after the last step, so the engine does not need its weights.
        if held_out_due or step < trainer.steps:
            with clock("sync"):
                self.sampler.sync(trainer, step)
        held_out, is_best = {}, False
        if held_out_due:
            with clock("held_out"):
                accuracy = self.held_out.accuracy(step)
            held_out = {"held_out_accuracy": accuracy}
            is_best = self.best_so_far.update(step, -accuracy, 0.0)
        stats |= self._seconds(clock, stats["generated_tokens"])
        self._log_samples(step, rollouts.groups)
        for alarm in self.alarms.check(stats | update.metrics):
            trainer.alarm(alarm)
        trainer.finish_step(
            update.loss,
            stats["generated_tokens"],
            update.norm,
            epoch=rollouts.epoch,
            temperature=rollouts.temperature,
            best=is_best and self.cfg.held_out.keep_best,
            extra={"held_out": asdict(self.best_so_far), "alarms": self.alarms.state()},
            **stats,
            **update.metrics,
            **held_out,
        )

    def end(self, counts: dict[str, Any]) -> None:
        """Export the model: the best one on held-out problems with `keep_best`, else the last.

        Args:
            counts: Counts for the manifest.
        """
        if self.best_so_far.best_step:
            counts = counts | {
                "held_out_best": -self.best_so_far.best,
                "held_out_best_step": self.best_so_far.best_step,
            }
            if self.cfg.held_out.keep_best:
                self.trainer.restore(self.best_so_far.best_step)
        self.trainer.finish(counts)

    def _seconds(self, clock: Stopwatch, generated_tokens: float) -> dict[str, float]:
        """Return the mean times of the ranks, and the rate of the rollout if there was one."""
        world = self.trainer.world
        sums = world.sums(clock.seconds)
        seconds = {f"seconds_{name}": total / world.size for name, total in sums.items()}
        if seconds.get("seconds_rollout"):
            rate = generated_tokens / seconds["seconds_rollout"]
            return seconds | {"rollout_tokens_per_second": rate}
        return seconds

    def _log_samples(self, step: int, groups: list[Group]) -> None:
        """Write the first response of the first groups to samples.jsonl."""
        for group in groups[: self.cfg.logged_samples]:
            sample = group.samples[0]
            self.samples_log.log(
                step,
                problem=group.problem["problem"],
                answer=group.problem["answer"],
                response=sample.text,
                verdict=sample.verdict,
                advantage=sample.advantage,
                finish_reason=sample.completion.finish_reason,
                weights=sample.completion.version,
            )
