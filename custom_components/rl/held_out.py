"""Measure the accuracy on held-out problems while training goes on."""

import random

from custom_components.config import UserError, instantiate
from custom_components.data.problems import read_problems
from custom_components.engines.engine import Sampling
from custom_components.rl.sampler import Sampler


class HeldOutProblems:
    """Hold problems that are not trained on; there are none unless `held_out.every` is set.

    Args:
        sampler: Sampler with the current weights.

    Raises:
        UserError: If a problem is rejected.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.options = sampler.cfg.held_out
        if not self.options.every:
            self.problems = []
            return
        node = instantiate(self.options.problems, "held_out.problems")
        self.problems, rejects = read_problems(node)
        if rejects:
            raise UserError(f"held_out.problems: {rejects[0].where}: {rejects[0].reason}")

    def are_due(self, step: int, is_last: bool) -> bool:
        """Return whether to evaluate after this step: every so often, and after the last one.

        Args:
            step: Number of steps done.
            is_last: Whether the run is then over.
        """
        return bool(self.problems) and (is_last or step % self.options.every == 0)

    def accuracy(self, step: int) -> float:
        """Return the share of correct responses, over all ranks.

        Args:
            step: Number of steps done; it seeds the sampling.
        """
        cfg, world = self.sampler.cfg, self.sampler.world
        groups = self.sampler.empty_groups(self.problems[world.rank :: world.size])
        seed = random.Random(f"{cfg.seed} held out {step} {world.rank}").getrandbits(48)
        options = self.options
        sampling = Sampling(options.temperature, options.top_p, cfg.max_new_tokens, seed, False)
        if groups:  # There may be fewer problems than ranks.
            self.sampler.add_responses(groups, options.samples, sampling)
        correct = world.sum(sum(s.verdict == "correct" for g in groups for s in g.samples))
        return correct / (len(self.problems) * options.samples)
