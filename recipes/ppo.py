"""Run stage 4 by PPO: a value head takes the place of the group's mean.

    tune run recipes/ppo.py --config configs/tiny/ppo.yaml
    tune run --nproc_per_node 2 recipes/ppo.py --config configs/tiny/ppo.yaml

The paper names PPO beside GRPO. Prompts, rollouts, rewards, clipping, temperature and KL are those
of recipes/grpo.py, whose docstring draws the way of the data. Here the model learns from every
response with a reward, and the advantage of a token comes from the critic (`critic`), a value head on the
policy, by generalised advantage estimation. The head is part of the checkpoints, but not of
`model/`.
"""

import random
from functools import partial

from custom_components.config import recipe_main
from custom_components.engines.engine import check_rope
from custom_components.models.value_head import ValueHead
from custom_components.rl.advantages import number_groups
from custom_components.rl.fixes import annealed_temperature
from custom_components.rl.learning import Learner
from custom_components.rl.prompts import select_prompts
from custom_components.rl.rl_config import PPOConfig
from custom_components.rl.rl_run import RLRun, Rollouts, open_run, run_length
from custom_components.rl.store import GroupStore
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import setup_world
from custom_components.training.trainer import Trainer


@recipe_main
def main(cfg: PPOConfig) -> None:
    """Follow the policy gradient with a critic on rewarded rollouts."""
    setting = cfg.loss.resolve()
    with (
        setup_world(cfg.device, uneven=True, alone=cfg.dtype == "bf16") as world,
        open_run("ppo", cfg, world) as opened,
    ):
        if opened is None:
            return
        folder, sampler = opened
        prompts, counts = select_prompts(sampler, folder)
        sampler.rest()
        steps, budget = run_length(cfg, len(prompts), counts["selection_tokens"])
        value_head = partial(ValueHead, shapes_trunk=cfg.critic.shapes_trunk)
        trainer = Trainer(
            cfg, folder, world, sampler.tokenizer, steps, value_head, cfg.critic.lr, budget
        )
        check_rope(sampler.engine, trainer.model)
        reference = trainer.frozen_start() if cfg.loss.kl_coefficient else None
        learner = Learner(trainer, setting, reference, cfg.critic)
        store = GroupStore(folder.path / "rollouts", world)
        run = RLRun(trainer, sampler, prompts)

        for epoch, indices in trainer.batches(prompts):
            clock, step = Stopwatch(), trainer.step
            temperature = annealed_temperature(trainer.share_done, cfg.temperature)

            # Sample a group of responses to each of this rank's prompts, verify and reward them.
            groups = store.load(step)
            if groups is None:
                rng = random.Random(f"{cfg.seed} {step} {world.rank}")
                own_prompts = run.prompts.of_step(indices, step)
                groups = sampler.sample(own_prompts, temperature, rng, clock)
                store.save(step, groups, trainer.checkpoints.latest)
            run.spend(groups)

            # Learn from every response with a reward.
            chosen = [sample for samples in number_groups(groups, world) for sample in samples]

            # Share the responses out over the ranks; estimate advantages, and follow the gradient.
            with clock("train"):
                sampler.engine.sleep()
                rng = random.Random(f"{cfg.seed} {step}")
                update = learner.learn(world.gather(chosen), temperature, rng)

            # Give the engine the new weights; evaluate, log, write a checkpoint.
            run.finish_step(update, Rollouts(groups, chosen, temperature, epoch, clock))

        run.end(counts)
        store.clear()


if __name__ == "__main__":
    main()
