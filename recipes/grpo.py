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
from dataclasses import asdict
from functools import partial
from typing import Any

from custom_components.config import recipe_main
from custom_components.engines.engine import check_rope
from custom_components.rl.learning import learn
from custom_components.rl.rl_config import GRPOConfig
from custom_components.rl.rollouts import Rollouts
from custom_components.rl.samples import Group, choose, group_statistics, needs_more
from custom_components.rl.steps import Steps, rollouts_of
from custom_components.rl.temperature import annealed_temperature
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import setup_world
from custom_components.training.trainer import Trainer, total_steps


@recipe_main
def main(cfg: GRPOConfig) -> None:
    """Policy gradient on verified rollouts."""
    setting = cfg.loss.resolve()
    with setup_world(cfg.device) as world, rollouts_of("grpo", cfg, world) as opened:
        if opened is None:
            return
        run, rollouts = opened
        prompts, counts = rollouts.prompts(run)
        trainer = Trainer(cfg, run, world, rollouts.tokenizer, total_steps(cfg, len(prompts)))
        check_rope(rollouts.engine, trainer.model)
        reference = trainer.frozen_start() if cfg.loss.kl_coefficient else None
        steps = Steps(trainer, rollouts)

        for epoch, indices in trainer.batches(prompts):
            clock, step = Stopwatch(), trainer.step
            temperature = annealed_temperature(step, trainer.steps, **asdict(cfg.temperature))
            groups = rollouts.stored(step)
            if groups is None:
                mine = [prompts[i] for i in indices[world.rank :: world.size]]
                groups = sample(cfg, rollouts, mine, prompts, temperature, step, clock)
                rollouts.store(step, groups, trainer.checkpoints.latest)
            chosen = choose(
                groups,
                cfg.rebalance.max_accuracy if cfg.rebalance.enabled else None,
                setting.normalise_std,
                random.Random(f"{cfg.seed} {step} {world.rank} choose"),
                cfg.overlong,
                cfg.max_new_tokens,
            )
            stats = group_statistics(groups, chosen, world)
            with clock("train"):
                rollouts.engine.sleep()
                loss, norm, learned = learn(
                    trainer,
                    world.gather(chosen),
                    setting,
                    temperature,
                    random.Random(f"{cfg.seed} {step}"),
                    reference,
                )
            steps.finish(loss, norm, groups, clock, epoch, temperature, stats, learned)
        steps.end(counts)


def sample(
    cfg: GRPOConfig,
    rollouts: Rollouts,
    mine: list[dict[str, Any]],
    prompts: list[dict[str, Any]],
    temperature: float,
    step: int,
    clock: Stopwatch,
) -> list[Group]:
    """A step's judged groups of this rank: hard prompts sampled again, others beside those
    without contrast, as the config says."""
    rng = random.Random(f"{cfg.seed} {step} {rollouts.world.rank}")
    most = cfg.rebalance.max_samples if cfg.rebalance.enabled else 0
    again = partial(needs_more, max_samples=most)
    groups = rollouts.groups(mine)
    rollouts.fill(groups, temperature, rng, clock, again)
    for _ in range(cfg.refill_rounds):
        missing = len(mine) - sum(group.mixed for group in groups)
        fresh = rollouts.groups(rng.sample(prompts, min(missing, len(prompts))))
        rollouts.fill(fresh, temperature, rng, clock, again)
        groups += fresh
    return groups


if __name__ == "__main__":
    main()
