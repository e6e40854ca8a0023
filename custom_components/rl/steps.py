"""What GRPO and PPO share around a step: set-up, and what follows the update."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from custom_components.config import UserError, instantiate
from custom_components.data.problems import read_problems
from custom_components.engines.watchdog import WatchedEngine
from custom_components.rl.alarms import Alarms
from custom_components.rl.rl_config import RLConfig
from custom_components.rl.rollouts import Rollouts
from custom_components.rl.samples import Group
from custom_components.runs.metrics import Metrics
from custom_components.runs.run_folder import RunFolder
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import World
from custom_components.training.trainer import Trainer
from custom_components.training.validation import BestSoFar


@contextmanager
def rollouts_of(
    name: str, cfg: RLConfig, world: World
) -> Iterator[tuple[RunFolder, Rollouts] | None]:
    """The run folder, and an engine and verifiers that are closed at the end.

    Args:
        name: of the recipe.
        cfg: its config.
        world: this process among all.

    Yields:
        None when the run is already complete.

    Raises:
        UserError: when the config asks for what cannot be.
    """
    if cfg.batch_size < world.size:
        raise UserError(
            f"batch_size={cfg.batch_size} prompts cannot be divided over {world.size} ranks"
        )
    if cfg.held_out.every and cfg.held_out.problems is None:
        raise UserError("held_out.every needs held_out.problems: what to evaluate on")
    run = RunFolder(name, cfg, world)
    if run.already_complete:
        yield None
        return
    tokenizer = instantiate(cfg.tokenizer, "tokenizer")
    engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
    with cfg.verifier.open() as pool:
        yield run, Rollouts(cfg, world, tokenizer, engine, pool, run.path / "rollouts")
        engine.close()


class Steps:
    """Follows the steps of an RL run: weights to the engine, held-out accuracy, logs, alarms.

    Args:
        trainer: already at the step to continue from.
        rollouts: samples.
    """

    def __init__(self, trainer: Trainer[RLConfig], rollouts: Rollouts) -> None:
        self.trainer, self.rollouts, self.cfg = trainer, rollouts, trainer.cfg
        self.alarms = Alarms(self.cfg.alarms, **trainer.extra.get("alarms", {}))
        self.progress = BestSoFar(**trainer.extra.get("held_out", {}))
        self.samples = Metrics(
            trainer.run.path, trainer.step, None, trainer.world.rank, "samples.jsonl"
        )
        self.held_out: list[dict[str, Any]] = []
        if self.cfg.held_out.every:
            self.held_out, rejects = read_problems(
                instantiate(self.cfg.held_out.problems, "held_out.problems")
            )
            if rejects:
                raise UserError(f"held_out.problems: {rejects[0].where}: {rejects[0].reason}")
        if trainer.step:
            rollouts.sync(trainer, trainer.step)

    def finish(
        self,
        loss: float,
        norm: float,
        groups: list[Group],
        clock: Stopwatch,
        epoch: int,
        temperature: float,
        stats: dict[str, float],
        learned: dict[str, float],
    ) -> None:
        """End a step, after its update.

        Args:
            loss, norm: of the update.
            groups: this rank's.
            clock: the step's times so far.
            epoch: of its prompts.
            temperature: they were sampled at.
            stats: of the rollouts.
            learned: metrics of the update.
        """
        trainer, cfg, step = self.trainer, self.cfg, self.trainer.step
        last = step + 1 == trainer.steps
        evaluated = self.held_out and ((step + 1) % cfg.held_out.every == 0 or last)
        if evaluated or not last:
            with clock("sync"):
                self.rollouts.sync(trainer, step + 1)
        best, held_out = False, {}
        if evaluated:
            with clock("held_out"):
                accuracy = self.rollouts.accuracy(self.held_out, cfg.held_out, step + 1)
            held_out = {"held_out_accuracy": accuracy}
            best = self.progress.update(step + 1, -accuracy, 0.0) and cfg.held_out.keep_best
        seconds = trainer.world.sums(clock.seconds)
        stats |= {f"seconds_{k}": v / trainer.world.size for k, v in seconds.items()}
        if stats.get("seconds_rollout"):
            stats["rollout_tokens_per_second"] = (
                stats["generated_tokens"] / stats["seconds_rollout"]
            )
        for group in groups[: cfg.logged_samples]:
            sample = group.samples[0]
            self.samples.log(
                step + 1,
                problem=group.problem["problem"],
                answer=group.problem["answer"],
                response=sample.text,
                verdict=sample.verdict,
                advantage=sample.advantage,
                finish_reason=sample.completion.finish_reason,
                weights=sample.completion.version,
            )
        for alarm in self.alarms.check(stats | learned):
            trainer.alarm(alarm)
        trainer.finish_step(
            loss,
            stats["generated_tokens"],
            norm,
            epoch=epoch,
            temperature=temperature,
            best=best,
            extra={"held_out": asdict(self.progress), "alarms": self.alarms.state()},
            **stats,
            **learned,
            **held_out,
        )

    def end(self, counts: dict[str, Any]) -> None:
        """Export the model, the best one where held-out problems say which."""
        if self.progress.best_step:
            counts = counts | {
                "held_out_best": -self.progress.best,
                "held_out_best_step": self.progress.best_step,
            }
            if self.cfg.held_out.keep_best:
                self.trainer.restore(self.progress.best_step)
        self.trainer.finish(counts)
        if self.trainer.world.rank == 0:  # every step is covered now
            shutil.rmtree(self.rollouts.folder, ignore_errors=True)
