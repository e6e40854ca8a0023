"""Run stage 4: reinforcement learning with a verifiable reward, by GRPO.

    tune run recipes/grpo.py --config configs/tiny/grpo.yaml
    tune run --nproc_per_node 2 recipes/grpo.py --config configs/tiny/grpo.yaml

The way of the data through a step:

    prompts          batch_size of them, divided over the ranks      rl/prompts.py
       |  sample     each rank's own engine, verifiers and rewards   rl/sampler.py, rewards.py
       v
    groups           group_size rewarded responses to a prompt       rl/groups.py, store.py
       |  choose     rebalance, then advantages within the group     rl/advantages.py, fixes.py
       v
    samples          gathered, and shared out anew by their tokens
       |  learn      log-probs, loss, gradient, optimizer step       rl/learning.py
       v
    weights          to each engine; accuracy, logs, checkpoint      rl/rl_run.py

`reward` names the functions that reward a response; by default the verifier's verdict does, with +1
or -1. Responses without a reward, such as undecided ones, are counted and left out. The paper's
three fixes are config: `selection` (prompts whose responses have uniform length), `rebalance` (hard
prompts sampled again; every correct response and as many incorrect ones), and `temperature`
(annealed, in rollout and log-probs alike). docs/RL.md explains each step.
"""

import random

from custom_components.config import recipe_main
from custom_components.engines.engine import check_rope
from custom_components.rl.advantages import choose_samples, kept_samples
from custom_components.rl.fixes import annealed_temperature
from custom_components.rl.learning import Learner
from custom_components.rl.prompts import select_prompts
from custom_components.rl.rl_config import GRPOConfig
from custom_components.rl.rl_run import RLRun, Rollouts, open_run, run_length
from custom_components.rl.store import GroupStore
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import setup_world
from custom_components.training.trainer import Trainer


@recipe_main
def main(cfg: GRPOConfig) -> None:
    """Follow the policy gradient on rewarded rollouts."""
    setting = cfg.loss.resolve()
    with (
        setup_world(cfg.device, uneven=True, alone=cfg.dtype == "bf16") as world,
        open_run("grpo", cfg, world) as opened,
    ):
        if opened is None:
            return
        folder, sampler = opened
        prompts, counts = select_prompts(sampler, folder)
        sampler.rest()
        steps, budget = run_length(cfg, len(prompts), counts["selection_tokens"])
        trainer = Trainer(cfg, folder, world, sampler.tokenizer, steps, token_budget=budget)
        check_rope(sampler.engine, trainer.model)
        reference = trainer.frozen_start() if cfg.loss.kl_coefficient else None
        learner = Learner(trainer, setting, reference)
        store = GroupStore(folder.path / "rollouts", world)
        run = RLRun(trainer, sampler, prompts)
        max_samples = cfg.rebalance.max_samples if cfg.rebalance.enabled else 0

        for epoch, indices in trainer.batches(prompts):
            clock, step = Stopwatch(), trainer.step
            temperature = annealed_temperature(trainer.share_done, cfg.temperature)

            # Sample a group of responses to each of this rank's prompts, verify and reward them.
            groups = store.load(step)
            if groups is None:
                rng = random.Random(f"{cfg.seed} {step} {world.rank}")
                own_prompts = run.prompts.of_step(indices, step)
                groups = sampler.sample(own_prompts, temperature, rng, clock, max_samples)
                # Other prompts make up for those that nothing is learned from (DAPO).
                for _ in range(cfg.refill_rounds):
                    kept = sum(bool(kept_samples(g.rewarded, cfg, rng)) for g in groups)
                    sampled = [group.problem for group in groups]
                    others = run.prompts.others(sampled, len(own_prompts) - kept, rng)
                    groups += sampler.sample(others, temperature, rng, clock, max_samples)
                store.save(step, groups, trainer.checkpoints.latest)
            run.spend(groups)

            # Choose the responses to learn from, and give each its advantage in its group.
            rng = random.Random(f"{cfg.seed} {step} {world.rank} choose")
            chosen = choose_samples(groups, cfg, setting, rng, world)

            # Share the chosen responses out over the ranks, and follow the policy gradient.
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
