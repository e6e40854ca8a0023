"""Stage 4: reinforcement learning with a verifiable reward.

    tune run recipes/grpo.py --config configs/tiny/grpo.yaml
    tune run --nproc_per_node 2 recipes/grpo.py --config configs/tiny/grpo.yaml

A step samples a group of responses to each prompt with the current weights, rewards them +1
(verified correct) or -1 (all else; undecided ones are left out and counted), and follows the
policy gradient. The paper's three fixes are config: `selection` (prompts whose responses have
uniform length), `rebalance` (hard prompts sampled again; every +1 and as many -1), and
`temperature` (annealed, in rollout and log-probs alike).

Every rank has its own engine and samples its own prompts; the samples to learn from are then
shared out anew, so that every rank trains on about as many tokens.
"""

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import (
    Component,
    UserError,
    instantiate,
    option,
    recipe_main,
    required,
)
from custom_components.data.curation import PROMPTS_SCHEMA
from custom_components.data.problems import read_problems
from custom_components.data.rows import read_rows
from custom_components.io import atomic_path, write_jsonl
from custom_components.losses.policy_gradient import LossConfig
from custom_components.rl.alarms import AlarmConfig, Alarms
from custom_components.rl.learning import learn
from custom_components.rl.samples import (
    Group,
    choose,
    group_statistics,
    judge,
    needs_more,
    prompt_row,
    sample_round,
)
from custom_components.rl.selection import check_statistic, selected
from custom_components.rl.shaping import OverlongConfig
from custom_components.rl.temperature import annealed_temperature
from custom_components.rollout.engine import Sampling, check_rope
from custom_components.rollout.guard import GuardedEngine
from custom_components.training.distributed import World, setup_world
from custom_components.training.run_folder import Metrics, RunFolder
from custom_components.training.stopwatch import Stopwatch
from custom_components.training.trainer import (
    Trainer,
    TrainingConfig,
    inputs_of,
    total_steps,
)
from custom_components.verifier import VerifierPool
from custom_components.verifier.options import VerifierConfig


@dataclass
class SelectionConfig:
    """Prompt selection before the first step, with the start model."""

    rounds: int = option(0, "sampling rounds; 0 keeps every prompt")
    samples: int = option(8, "responses to each prompt and round")
    statistic: str = option("length_cv", "length_cv or length_range of a prompt's responses")
    threshold: float = option(0.5, "largest value of the statistic")
    max_accuracy: float = option(1.0, "prompts with a higher pass rate are left out")


@dataclass
class RebalanceConfig:
    """Reward rebalancing."""

    enabled: bool = option(True, "keep every +1 and as many -1 of a group")
    max_accuracy: float = option(0.5, "groups with a larger share of +1 are dropped")
    max_samples: int = option(16, "a prompt without +1 is sampled again up to this many")


@dataclass
class TemperatureConfig:
    """Temperature annealing."""

    start: float = option(1.0, "at the first step")
    end: float = option(0.6, "when annealed")
    fraction: float = option(0.5, "share of the steps over which it falls linearly")


@dataclass
class GRPOConfig(TrainingConfig):
    """Config of recipes/grpo.py. A row of a batch is a prompt."""

    problems: Component = required("function of custom_components.data that yields problems")
    engine: Component = required("rollout engine; one per rank")
    group_size: int = option(8, "responses to each prompt and round")
    max_new_tokens: int = option(1024, "longest response, tokens")
    loss: LossConfig = option(LossConfig, "which policy gradient")
    minibatches: int = option(1, "optimizer steps per pass over a step's samples")
    update_epochs: int = option(1, "passes over a step's samples")
    importance_cap: float = option(2.0, "largest weight for the engine's other log-probs")
    selection: SelectionConfig = option(SelectionConfig, "prompt selection")
    rebalance: RebalanceConfig = option(RebalanceConfig, "reward rebalancing")
    refill_rounds: int = option(
        0, "rounds in which prompts without contrast make room for others (DAPO)"
    )
    overlong: OverlongConfig = option(OverlongConfig, "over-long responses (DAPO)")
    temperature: TemperatureConfig = option(TemperatureConfig, "temperature annealing")
    verifier: VerifierConfig = option(VerifierConfig, "the verifier's pool")
    alarms: AlarmConfig = option(AlarmConfig, "when to speak up")
    engine_timeout: float = option(1800.0, "seconds without progress of the engine end the run")
    logged_samples: int = option(4, "responses of a step kept in samples.jsonl")


@recipe_main(GRPOConfig)
def main(cfg: Any) -> None:
    """Policy gradient on verified rollouts."""
    check_statistic(cfg.selection.statistic)
    setting = cfg.loss.resolve()
    with setup_world(cfg.device) as world:
        if cfg.batch_size < world.size:
            raise UserError(
                f"batch_size={cfg.batch_size} prompts cannot be divided over {world.size} ranks"
            )
        data = str(cfg.problems.get("path", ""))  # a file, or a name on the hub
        run = RunFolder("grpo", cfg, inputs_of(cfg, data if Path(data).exists() else ""), world)
        if run.already_complete:
            return
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        engine = GuardedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
        with VerifierPool(cfg.verifier.workers, cfg.verifier.time_limit) as pool:
            prompts = select_prompts(cfg, run, world, tokenizer, engine, pool)
            trainer = Trainer(cfg, run, world, tokenizer, total_steps(cfg, len(prompts)))
            check_rope(engine, trainer.model)
            if trainer.step:
                sync(trainer, engine)
            reference = trainer.frozen_start() if cfg.loss.kl_coefficient else None
            alarms = Alarms(cfg.alarms)
            samples_log = Metrics(run.path, trainer.step, None, world.rank, "samples.jsonl")

            for epoch, indices in trainer.batches(prompts):
                clock, step = Stopwatch(), trainer.step
                temperature = annealed_temperature(step, trainer.steps, **asdict(cfg.temperature))
                mine = [prompts[i] for i in indices[world.rank :: world.size]]
                groups = [Group.of(p, tokenizer) for p in mine]
                rng = random.Random(f"{cfg.seed} {step} {world.rank}")
                sample_groups(cfg, groups, temperature, tokenizer, engine, pool, rng, clock)
                for _ in range(cfg.refill_rounds):
                    missing = len(mine) - sum(g.mixed for g in groups)
                    others = rng.sample(prompts, min(missing, len(prompts)))
                    fresh = [Group.of(p, tokenizer) for p in others]
                    sample_groups(cfg, fresh, temperature, tokenizer, engine, pool, rng, clock)
                    groups += fresh
                chosen = choose(
                    groups,
                    cfg.rebalance.max_accuracy if cfg.rebalance.enabled else None,
                    setting.normalise_std,
                    rng,
                    cfg.overlong,
                    cfg.max_new_tokens,
                )
                stats = group_statistics(groups, chosen, world)
                with clock("train"):
                    loss, norm, learned = learn(
                        trainer, world.gather(chosen), setting, temperature,
                        random.Random(f"{cfg.seed} {step}"), reference,
                    )  # fmt: skip
                if step + 1 < trainer.steps:
                    with clock("sync"):
                        sync(trainer, engine)
                seconds = world.sums(clock.seconds)
                stats |= {f"seconds_{k}": v / world.size for k, v in seconds.items()}
                stats["rollout_tokens_per_second"] = stats["generated_tokens"] / max(
                    stats["seconds_rollout"], 1e-9
                )
                for group in groups[: cfg.logged_samples]:
                    sample = group.samples[0]
                    samples_log.log(
                        step + 1, problem=group.problem["problem"],
                        answer=group.problem["answer"], response=sample.text,
                        verdict=sample.verdict, advantage=sample.advantage,
                    )  # fmt: skip
                stats |= learned
                for alarm in alarms.check(stats):
                    trainer.say(f"alarm at step {step + 1}: {alarm}")
                tokens = stats["generated_tokens"]
                trainer.finish_step(
                    loss, tokens, norm, epoch=epoch, temperature=temperature, **stats
                )
            engine.close()
        trainer.finish({"prompts": len(prompts)})


def sample_groups(
    cfg: Any, groups: list[Group], temperature: float, tokenizer: Any, engine: GuardedEngine,
    pool: VerifierPool, rng: random.Random, clock: Stopwatch,
) -> None:  # fmt: skip
    """Fill the groups with judged responses; hard prompts are sampled in several rounds."""
    most = cfg.rebalance.max_samples if cfg.rebalance.enabled else 0
    waiting = groups
    while waiting:
        sampling = Sampling(temperature, 1.0, cfg.max_new_tokens, rng.getrandbits(48))
        with clock("rollout"):
            sample_round(waiting, cfg.group_size, sampling, engine, tokenizer)
        with clock("reward"):
            judge(waiting, pool)
        waiting = [g for g in waiting if needs_more(g, most)]


def sync(trainer: Trainer, engine: GuardedEngine) -> None:
    """Give the engine the trainer's weights."""
    weights = trainer.checkpointer.to_hf(trainer.plain_weights(every_rank=True))
    engine.load_weights(weights.items(), trainer.step)


def select_prompts(
    cfg: Any, run: RunFolder, world: World, tokenizer: Any, engine: GuardedEngine,
    pool: VerifierPool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The prompts to train on, with the statistics that they were selected by.

    Sampled once; `prompts.parquet` in the run folder keeps all candidates.
    """
    problems, rejects = read_problems(instantiate(cfg.problems, "problems"))
    if rejects and world.rank == 0:
        write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
        print(f"{len(rejects)} of {len(problems) + len(rejects)} problems rejected; first: "
              f"{rejects[0].where}: {rejects[0].reason}", flush=True)  # fmt: skip
    selection, path = cfg.selection, run.path / "prompts.parquet"
    if selection.rounds < 1:
        return problems
    exists = path.exists()
    world.barrier()
    if not exists:
        groups = [Group.of(p, tokenizer) for p in problems[world.rank :: world.size]]
        rng = random.Random(f"{cfg.seed} selection {world.rank}")
        for _ in range(selection.rounds):
            sampling = Sampling(cfg.temperature.start, 1.0, cfg.max_new_tokens, rng.getrandbits(48))
            sample_round(groups, selection.samples, sampling, engine, tokenizer)
            judge(groups, pool)
        rows = world.gather([prompt_row(g) for g in groups])
        if world.rank == 0:
            with atomic_path(path) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, PROMPTS_SCHEMA), temporary)
        world.barrier()
    candidates = list(read_rows(path))
    kept = [
        row for row in candidates
        if selected(row, selection.statistic, selection.threshold, selection.max_accuracy)
    ]  # fmt: skip
    if world.rank == 0:
        print(f"prompt selection: {len(kept)} of {len(candidates)} kept", flush=True)
    if not kept:
        raise UserError(
            f"selection keeps none of {len(candidates)} prompts ({path}); raise "
            "selection.threshold or selection.max_accuracy"
        )
    return kept


if __name__ == "__main__":
    main()
