"""Sample responses from this rank's engine, verify and reward them, and give it new weights."""

import random
from dataclasses import dataclass
from typing import Any

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Engine, Sampling
from custom_components.engines.watchdog import WatchedEngine
from custom_components.rl.fixes import needs_more
from custom_components.rl.groups import Group, Sample
from custom_components.rl.handover import check_handover, probe, stream_weights
from custom_components.rl.rewards import RewardFunction, reward_of
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.stopwatch import Stopwatch
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.distributed import World
from custom_components.training.trainer import Trainer
from custom_components.verifier import Item, VerifierPool


@dataclass
class Sampler:
    """Sample groups of responses on one rank.

    Attributes:
        cfg: Config of the recipe.
        world: Rank of this process, and their number.
        tokenizer: Tokenizer that encodes prompts and decodes responses.
        engine: Engine of this rank.
        pool: Verifier processes of this rank.
        rewards: Reward functions.
        start_probe: What the engine answers to `probe_ids` with the start weights that it read;
            None where that is not compared.
    """

    cfg: RLConfig
    world: World
    tokenizer: ChatTokenizer
    engine: WatchedEngine
    pool: VerifierPool
    rewards: list[RewardFunction]
    start_probe: Completion | None = None

    def sample(
        self,
        prompts: list[dict[str, Any]],
        temperature: float,
        rng: random.Random,
        clock: Stopwatch,
        max_samples: int = 0,
    ) -> list[Group]:
        """Return a group of `group_size` rewarded responses to each prompt, or more for hard ones.

        Args:
            prompts: Rows with `problem` and `answer`.
            temperature: Sampling temperature.
            rng: Source of each round's seed.
            clock: Stopwatch that adds up `rollout` and `reward`.
            max_samples: Number of responses up to which a prompt without a correct one is sampled
                again, `group_size` at a time; 0 for a single round.

        Raises:
            UserError: If a reward function fails on every response.
        """
        groups = self.empty_groups(prompts)
        if groups:
            sampling = Sampling(temperature, 1.0, self.cfg.max_new_tokens, rng.getrandbits(48))
            self.add_responses(groups, self.cfg.group_size, sampling, clock)
        if max_samples:
            self._sample_hard(groups, temperature, rng, clock, max_samples)
        with clock("reward"):
            reward_groups(groups, self.rewards, self.cfg.max_new_tokens)
        return groups

    def _sample_hard(
        self,
        groups: list[Group],
        temperature: float,
        rng: random.Random,
        clock: Stopwatch,
        max_samples: int,
    ) -> None:
        """Sample the hard prompts of all ranks again, each rank an equal share of the responses.

        Otherwise one rank would sample for many rounds, with an engine that is all but empty, while
        the others wait. It takes what `sample` takes.
        """
        rank, size = self.world.rank, self.world.size
        while True:
            hard = [i for i, group in enumerate(groups) if needs_more(group, max_samples)]
            requests = [
                (owner, i, problem)
                for owner, i, problem in self.world.gather(
                    [(rank, i, groups[i].problem) for i in hard]
                )
                for _ in range(self.cfg.group_size)
            ]
            if not requests:
                return
            own_share = requests[rank::size]
            sampled = self.empty_groups([problem for *_, problem in own_share])
            if sampled:
                seed = rng.getrandbits(48)
                sampling = Sampling(temperature, 1.0, self.cfg.max_new_tokens, seed)
                self.add_responses(sampled, 1, sampling, clock)
            responses = self.world.gather(
                [
                    (owner, i, group.samples[0])
                    for (owner, i, _), group in zip(own_share, sampled, strict=True)
                ]
            )
            for owner, i, sample in responses:
                if owner == rank:
                    groups[i].samples.append(sample)

    def empty_groups(self, prompts: list[dict[str, Any]]) -> list[Group]:
        """Return groups without responses yet."""
        return [Group.of(prompt, self.tokenizer) for prompt in prompts]

    def add_responses(
        self, groups: list[Group], n: int, sampling: Sampling, clock: Stopwatch | None = None
    ) -> None:
        """Add n verified responses to every group.

        Args:
            groups: Groups to add to.
            n: Number of responses to each prompt.
            sampling: How to sample them.
            clock: Stopwatch that adds up `rollout` and `reward`, or None.
        """
        clock = clock or Stopwatch()
        with clock("rollout"):
            sample_round(groups, n, sampling, self.engine, self.tokenizer)
        with clock("reward"):
            verify_groups(groups, self.pool)

    def rest(self) -> None:
        """Leave the GPU's memory to the trainer, which is about to be built, until the next `sync`.

        On a GPU this notes what the start weights answer, for the first `sync` to compare with.
        """
        if self.world.device.type == "cuda":
            self.start_probe = probe(self.engine, self.probe_ids)
        self.engine.sleep()

    @property
    def probe_ids(self) -> list[int]:
        """Return the prompt of the comparison."""
        return self.tokenizer.encode_prompt("1+1=?")

    def sync(self, trainer: Trainer, version: int) -> None:
        """Give the engine the trainer's weights, and wake it if it sleeps.

        Args:
            trainer: Trainer to take the weights from.
            version: Number of steps that the weights have learned from.

        Raises:
            UserError: If the engine does not compute with the weights that it was given.
        """
        trainer.optimizer.zero_grad(set_to_none=True)
        self.engine.load_weights(stream_weights(trainer, self.engine.dtype), version)
        if self.start_probe is not None and version == 0:
            check_handover(self.start_probe, probe(self.engine, self.probe_ids))
        self.start_probe = None


def sample_round(
    groups: list[Group], n: int, sampling: Sampling, engine: Engine, tokenizer: ChatTokenizer
) -> None:
    """Add n responses to every group, not yet verified."""
    completions = engine.generate([group.prompt_ids for group in groups], n, sampling)
    for group, responses in zip(groups, completions, strict=True):
        group.samples += [
            Sample(group.prompt_ids, c, tokenizer.decode_response(c.token_ids)) for c in responses
        ]


def verify_groups(groups: list[Group], pool: VerifierPool) -> None:
    """Give every response without a verdict its verdict."""
    unverified = [(group, s) for group in groups for s in group.samples if not s.verdict]
    items = [
        Item(
            group.problem["answer"],
            s.text,
            truncated=s.truncated,
            problem=group.problem.get("problem"),
        )
        for group, s in unverified
    ]
    for (_, sample), verdict in zip(unverified, pool.verify_all(items), strict=True):
        sample.verdict = verdict.verdict


def reward_groups(groups: list[Group], functions: list[RewardFunction], limit: int) -> None:
    """Give every verified response its reward.

    Args:
        groups: Verified groups.
        functions: Reward functions.
        limit: Longest allowed response, tokens.

    Raises:
        UserError: If a function fails on every response.
    """
    errors = []
    for group in groups:
        for sample in group.samples:
            sample.outcome = reward_of(functions, group.problem, sample.response(limit))
            errors.append(sample.outcome.error)
    if errors and all(errors):
        raise UserError(f"a reward function fails on each of {len(errors)} responses; {errors[0]}")
