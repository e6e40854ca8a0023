"""Stage 4 by PPO: a value head in place of the group's mean.

    tune run recipes/ppo.py --config configs/tiny/ppo.yaml
    tune run --nproc_per_node 2 recipes/ppo.py --config configs/tiny/ppo.yaml

The paper names PPO beside GRPO. Prompts, rollouts, rewards, clipping, temperature and KL are those
of recipes/grpo.py. Here every decided response is learned from; a token's advantage comes from the
critic (`critic`), a value head on the policy, by generalised advantage estimation. The head is
part of the checkpoints, and not of `model/`.
"""

import random
from dataclasses import asdict
from functools import partial

from custom_components.config import recipe_main
from custom_components.engines.engine import check_rope
from custom_components.models.value_head import ValueHead
from custom_components.rl.learning import learn
from custom_components.rl.rl_config import PPOConfig
from custom_components.rl.samples import group_statistics
from custom_components.rl.steps import Steps, rollouts_of
from custom_components.rl.temperature import annealed_temperature
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import setup_world
from custom_components.training.trainer import Trainer, total_steps


@recipe_main
def main(cfg: PPOConfig) -> None:
    """Policy gradient with a critic on verified rollouts."""
    setting = cfg.loss.resolve()
    with setup_world(cfg.device) as world, rollouts_of("ppo", cfg, world) as opened:
        if opened is None:
            return
        run, rollouts = opened
        prompts, counts = rollouts.prompts(run)
        trainer = Trainer(
            cfg,
            run,
            world,
            rollouts.tokenizer,
            total_steps(cfg, len(prompts)),
            partial(ValueHead, shapes_trunk=cfg.critic.shapes_trunk),
            cfg.critic.lr,
        )
        check_rope(rollouts.engine, trainer.model)
        reference = trainer.frozen_start() if cfg.loss.kl_coefficient else None
        steps = Steps(trainer, rollouts)

        for epoch, indices in trainer.batches(prompts):
            clock, step = Stopwatch(), trainer.step
            temperature = annealed_temperature(step, trainer.steps, **asdict(cfg.temperature))
            groups = rollouts.stored(step)
            if groups is None:
                groups = rollouts.groups([prompts[i] for i in indices[world.rank :: world.size]])
                rng = random.Random(f"{cfg.seed} {step} {world.rank}")
                rollouts.fill(groups, temperature, rng, clock)
                rollouts.store(step, groups, trainer.checkpoints.latest)
            chosen = [sample for group in groups for sample in group.decided]
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
                    cfg.critic,
                )
            steps.finish(loss, norm, groups, clock, epoch, temperature, stats, learned)
        steps.end(counts)


if __name__ == "__main__":
    main()
