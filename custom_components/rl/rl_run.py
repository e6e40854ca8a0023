"""Open the run of an RL recipe, and follow each step's update with sync, evaluation and logs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from custom_components.config import UserError, instantiate
from custom_components.engines.watchdog import WatchedEngine
from custom_components.rl.alarms import Alarms
from custom_components.rl.groups import Group, Sample, group_statistics
from custom_components.rl.held_out import HeldOutProblems
from custom_components.rl.learning import Update
from custom_components.rl.prompts import PromptPool
from custom_components.rl.rewards import read_rewards
from custom_components.rl.rl_config import RLConfig
from custom_components.rl.sampler import Sampler
from custom_components.runs.metrics import Metrics
from custom_components.runs.run_folder import RunFolder
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import World
from custom_components.training.model import open_model
from custom_components.training.trainer import Trainer, total_steps
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
    rewards = read_rewards(cfg.reward)
    folder = RunFolder(recipe, cfg, world)
    if folder.already_complete:
        yield None
        return
    tokenizer = instantiate(cfg.tokenizer, "tokenizer")
    open_model(cfg, tokenizer)  # refuse a model that does not fit before anything is sampled
    engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
    with closing(engine), cfg.verifier.open() as pool:
        yield folder, Sampler(cfg, world, tokenizer, engine, pool, rewards)


def run_length(cfg: RLConfig, prompts: int, selection_tokens: int) -> tuple[int | None, int | None]:
    """Return the number of steps and the budget of tokens of a run; None for no limit.

    Args:
        cfg: Config of the recipe.
        prompts: Number of prompts to train on.
        selection_tokens: Tokens that their selection took. They are paid from the budget.

    Raises:
        UserError: If there is nothing to do within the limits.
    """
    if cfg.max_generated_tokens is None:
        return total_steps(cfg, prompts), None
    budget = cfg.max_generated_tokens - selection_tokens
    if budget < 1:
        raise UserError(
            f"selection took {selection_tokens} of max_generated_tokens={cfg.max_generated_tokens}; "
            "raise it, or lower selection.candidates, rounds or samples"
        )
    return cfg.max_steps, budget


@dataclass(frozen=True)
class Rollouts:
    """Hold what one step sampled.

    Attributes:
        groups: Rewarded groups of this rank.
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
    """Follow the steps of an RL run: prompts, weights to the engine, held-out accuracy, logs, alarms.

    Args:
        trainer: Trainer at the step to resume from; the engine gets its weights where it has none
            (it sleeps), has others (a resumed run), or is compared with the trainer (on a GPU).
        sampler: Sampler of this rank.
        prompts: Prompts to train on.

    Raises:
        UserError: If a held-out problem is rejected.
    """

    def __init__(
        self, trainer: Trainer[RLConfig], sampler: Sampler, prompts: list[dict[str, Any]]
    ) -> None:
        self.trainer = trainer
        self.sampler = sampler
        self.cfg = trainer.cfg
        self.held_out = HeldOutProblems(sampler)
        # These resume from the state that `finish_step` puts into the checkpoint.
        self.prompts = PromptPool(
            prompts, self.cfg, trainer.world, trainer.extra.get("too_easy", ())
        )
        self.alarms = Alarms(self.cfg.alarms, **trainer.extra.get("alarms", {}))
        self.best_so_far = BestSoFar(**trainer.extra.get("held_out", {}))
        self.samples_log = Metrics(
            trainer.run.path, trainer.step, None, trainer.world.rank, "samples.jsonl"
        )
        if trainer.step or sampler.engine.asleep or sampler.start_probe:
            sampler.sync(trainer, trainer.step)

    def spend(self, groups: list[Group]) -> None:
        """Count the tokens of a step, on which its learning rate and the end of the run depend.

        Args:
            groups: Groups of this rank.
        """
        tokens = sum(sample.length for group in groups for sample in group.samples)
        self.trainer.step_tokens = round(self.trainer.world.sum(tokens))

    def finish_step(self, update: Update, rollouts: Rollouts) -> None:
        """End a step after its update: sync, evaluate, log, raise alarms, write a checkpoint.

        Args:
            update: Outcome of the step's update.
            rollouts: What the step sampled.
        """
        trainer, clock, step = self.trainer, rollouts.clock, self.trainer.step + 1
        names = [reward.name for reward in self.sampler.rewards]
        stats = group_statistics(rollouts.groups, rollouts.chosen, names, trainer.world)
        is_last = trainer.share_after_step >= 1
        held_out_due = self.held_out.are_due(step, is_last)
        # Nothing is sampled after the last step, so the engine does not need its weights.
        if held_out_due or not is_last:
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
        errors = self._reward_errors(rollouts.groups)
        for alarm in self.alarms.check(stats | update.metrics, errors):
            trainer.alarm(alarm)
        stats |= self.prompts.drop_too_easy(rollouts.groups)
        trainer.finish_step(
            update.loss,
            stats["generated_tokens"],
            update.norm,
            epoch=rollouts.epoch,
            temperature=rollouts.temperature,
            best=is_best and self.cfg.held_out.keep_best,
            extra={
                "held_out": asdict(self.best_so_far),
                "alarms": self.alarms.state(),
                "too_easy": sorted(self.prompts.too_easy),
            },
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

    def _reward_errors(self, groups: list[Group]) -> list[str]:
        """Return the errors of the reward functions on all ranks, one for each response."""
        outcomes = [sample.outcome for group in groups for sample in group.samples]
        errors = [outcome.error for outcome in outcomes if outcome and outcome.error]
        return self.trainer.world.gather(errors)

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
                reward=sample.reward,
                advantage=sample.advantage,
                finish_reason=sample.completion.finish_reason,
                weights=sample.completion.version,
            )
