"""Check what the loss may and may not depend on, and PPO's advantages."""

import random
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from custom_components.engines.engine import Completion
from custom_components.losses.policy_gradient import SETTINGS, ImportanceConfig, LossConfig
from custom_components.rl.advantages import choose_samples
from custom_components.rl.groups import Group, Sample
from custom_components.rl.learning import Learner, critic_advantages, response_tokens
from custom_components.rl.rewards import RewardFunction, verified
from custom_components.rl.rl_config import CriticConfig, RebalanceConfig
from custom_components.rl.sampler import reward_groups
from custom_components.runs.metrics import Sums
from custom_components.training.distributed import World

VOCABULARY = 40
ONE = World(0, 1, torch.device("cpu"))
IMPORTANCE = [
    ImportanceConfig(level, beyond, low=0.7, high=1.4)
    for level, beyond in product(("token", "sequence", "geometric"), ("truncate", "mask"))
]


class Ranks:
    """Play one of several ranks. What they gather is known, for they get the same samples."""

    device = torch.device("cpu")

    def __init__(self, rank, size, gathered):
        self.rank = rank
        self.size = size
        self.gathered = gathered
        self.sent = []

    def gather(self, items):
        self.sent += items
        return self.gathered


class Table:
    """Stand in for the trainer: look log-probs and values up by token."""

    def __init__(self, loss=None, tokens=1000, importance=None, world=ONE):
        generator = torch.Generator().manual_seed(0)
        self.world = world
        self.cfg = SimpleNamespace(
            max_new_tokens=16,
            max_tokens_per_micro_batch=tokens,
            importance=importance or ImportanceConfig(),
            loss=loss or LossConfig(),
        )
        self.logprobs = -torch.rand(VOCABULARY, dtype=torch.float64, generator=generator)
        self.values = torch.randn(VOCABULARY, dtype=torch.float64, generator=generator)
        self.old = self.logprobs + 0.3 * torch.randn(
            VOCABULARY, dtype=torch.float64, generator=generator
        )
        self.logprobs.requires_grad_()

    def document_costs(self, rows):
        return [float(sum(row)) for row in rows]

    def forward_logprobs(self, batch, model=None, values=False, **_):
        targets = batch.targets.clamp(min=0)
        table = self.logprobs if model is None else model
        pair = table[targets], torch.zeros(targets.shape)
        return (pair, self.values[targets]) if values else pair


def groups(seed=0):
    """Return groups of responses whose tokens name them: group * 10 + number."""
    rng = random.Random(seed)
    listed = []
    for g in range(4):
        verdicts = ["correct"] * (g % 3) + ["incorrect"] * (4 - g % 3)
        samples = [
            Sample([39], Completion([g * 10 + i] * rng.randint(1, 5), [], "stop"), "", verdict)
            for i, verdict in enumerate(verdicts)
        ]
        for s in samples:
            s.completion.logprobs.extend(
                rng.choice((-0.5, -0.9, -0.2)) for _ in s.completion.token_ids
            )
        listed.append(Group({}, [39], samples))
    return rewarded(listed)


def rewarded(listed):
    reward_groups(listed, [RewardFunction("verified", verified, 1.0)], limit=16)
    return listed


def choose(listed, max_accuracy=None, setting=SETTINGS["grpo"], seed=0):
    """Return the samples to learn from; rebalance if `max_accuracy` is given."""
    cfg = SimpleNamespace(
        rebalance=RebalanceConfig(max_accuracy is not None, max_accuracy=max_accuracy or 0.0),
        overlong_filter=False,
        contrast="reward",
    )
    return choose_samples(listed, cfg, setting, random.Random(seed), ONE)


def batches_of(trainer, setting, samples, off_policy=False):
    """Return the learner and its micro-batches, with old log-probs if they are off policy."""
    learner = Learner(trainer, setting)
    batches = learner.policy_batches(samples)
    masks = trainer.cfg.importance.beyond == "mask"
    with torch.no_grad():
        for batch in batches:
            if off_policy or masks:
                table = trainer.old if off_policy else trainer.logprobs
                output = trainer.forward_logprobs(batch.inputs, table)
                batch.old_logprobs = response_tokens(batch, output).logprobs
    return learner, batches


def loss_and_gradient(
    samples, name="grpo", tokens=1000, importance=None, off_policy=False, kl=0.0, ranks=1
):
    """Return the loss of a mini-batch and its gradient, summed over micro-batches and ranks."""
    setting = SETTINGS[name]

    def tables(gathered):
        for rank in range(ranks):
            world = ONE if ranks == 1 else Ranks(rank, ranks, gathered)
            yield Table(LossConfig(name, kl_coefficient=kl), tokens, importance, world)

    gathered = []
    if importance and importance.beyond == "mask" and ranks > 1:
        # What every rank would send: the kept tokens of its own samples.
        for trainer in tables([(i, 1) for i in range(len(samples))]):
            trainer.world.sent = gathered
            learner, batches = batches_of(trainer, setting, samples, off_policy)
            learner.weigh(samples, batches)
    total, gradient = 0.0, 0.0
    for trainer in tables(gathered):
        learner, batches = batches_of(trainer, setting, samples, off_policy)
        if trainer.cfg.importance.beyond == "mask":
            learner.weigh(samples, batches)
        sums = Sums()
        for batch in batches:
            if kl:
                output = trainer.forward_logprobs(batch.inputs, trainer.old + 0.1)
                batch.reference_logprobs = response_tokens(batch, output).logprobs
            share = learner.loss(batch, trainer.forward_logprobs(batch.inputs), sums)
            share.backward()
            total = total + share.detach()
        gradient = gradient + trainer.logprobs.grad
    return total, gradient


@pytest.mark.parametrize("off_policy", [False, True], ids=["on policy", "off policy"])
@pytest.mark.parametrize("name", SETTINGS)
def test_neither_order_nor_cut_nor_ranks_matter(name, off_policy):
    samples = choose(groups(), setting=SETTINGS[name])
    expected = loss_and_gradient(samples, name, off_policy=off_policy, kl=0.1)
    for seed in range(3):
        shuffled = random.Random(seed).sample(samples, len(samples))
        for ranks in (1, 2):
            other = loss_and_gradient(
                shuffled, name, 12, off_policy=off_policy, kl=0.1, ranks=ranks
            )
            torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("importance", IMPORTANCE, ids=lambda i: f"{i.level} {i.beyond}")
@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_neither_order_nor_cut_nor_ranks_matter_with_a_correction(name, importance):
    samples = choose(groups(), setting=SETTINGS[name])
    expected = loss_and_gradient(samples, name, importance=importance, off_policy=True)
    for seed in range(3):
        shuffled = random.Random(seed).sample(samples, len(samples))
        for ranks in (1, 2):
            other = loss_and_gradient(shuffled, name, 12, importance, True, ranks=ranks)
            torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_update_is_on_policy(name):
    """Every ratio is exactly 1, and nothing is clipped."""
    trainer, sums = Table(LossConfig(name)), Sums()
    samples = choose(groups(), setting=SETTINGS[name])
    learner, batches = batches_of(trainer, SETTINGS[name], samples)
    for batch in batches:
        learner.loss(batch, trainer.forward_logprobs(batch.inputs), sums)
    assert sums["ratio"] == sums["tokens"] and sums["clip_fraction"] == 0


def test_every_rebalanced_prompt_counts_the_same():
    """1 + 1 responses weigh as much as 8 + 8, under GRPO's mean over prompts."""
    listed = rewarded(
        [
            Group({}, [39], [single(token, verdict) for token, verdict in responses])
            for responses in (
                [(0, "correct"), (1, "incorrect")],
                [(10 + i, "correct" if i < 8 else "incorrect") for i in range(16)],
            )
        ]
    )
    _, gradient = loss_and_gradient(choose(listed, 0.5))
    shares = gradient[:2].abs().sum(), gradient[10:26].abs().sum()
    assert shares[0].item() == pytest.approx(shares[1].item())


def single(token, verdict):
    """Return a response of one token, of which engine and trainer have the same log-prob."""
    logprob = Table().logprobs[token].item()
    return Sample([39], Completion([token], [logprob], "stop"), "", verdict)


def test_rejected_tokens_leave_the_denominator():
    """Masked, the loss is that of the kept responses alone, with the same correction."""
    trainer = Table()
    samples = choose(groups())
    rejected = {id(s) for s in samples[::3]}
    for s in samples:
        own = trainer.logprobs[s.completion.token_ids[0]].item()
        gap = 3.0 if id(s) in rejected else 0.1
        s.completion.logprobs[:] = [own - gap] * s.length
    mask = ImportanceConfig("geometric", "mask", 0.5, 2.0)
    masked = loss_and_gradient(samples, importance=mask)
    kept = [s for s in samples if id(s) not in rejected]
    assert 0 < len(kept) < len(samples)
    torch.testing.assert_close(masked, loss_and_gradient(kept, importance=mask))
    truncated = loss_and_gradient(kept, importance=ImportanceConfig("token", "truncate", 0.0, 2.0))
    torch.testing.assert_close(masked, truncated)


def test_a_mini_batch_that_is_rejected_whole_is_skipped():
    trainer = Table(importance=ImportanceConfig("token", "mask", 0.0, 1e-9))
    samples = choose(groups())
    learner, batches = batches_of(trainer, SETTINGS["grpo"], samples)
    assert not learner.weigh(samples, batches)
    assert all((batch.weights == 0).all() for batch in batches)


def test_no_gradient_from_what_is_dropped():
    listed = groups()
    listed[1].samples[3].verdict = "undecided"
    chosen = choose(rewarded(listed), 0.5)
    _, gradient = loss_and_gradient(chosen)
    chosen_tokens = {s.completion.token_ids[0] for s in chosen}
    assert chosen_tokens and 13 not in chosen_tokens
    assert set(gradient.nonzero()[:, 0].tolist()) == chosen_tokens
    # Groups 0 and 3 have no correct response.
    assert all(10 <= token < 30 for token in chosen_tokens)


@pytest.mark.parametrize("seed", range(5))
def test_rebalanced_advantages_sum_to_zero_in_every_group(seed):
    for group in groups(seed):
        chosen = choose([group], 0.5, seed=seed)
        assert sum(s.advantage for s in chosen) == 0


def test_advantages_of_a_critic():
    trainer = Table()
    samples = [s for g in groups() for s in g.samples]
    batches = Learner(trainer, SETTINGS["grpo"]).policy_batches(samples)
    with torch.no_grad():
        for batch in batches:
            output = trainer.forward_logprobs(batch.inputs, values=True)
            batch.old_values = response_tokens(batch, output, with_values=True).values
    plain = [b.old_values.clone() for b in batches]
    metrics = critic_advantages(batches, CriticConfig(normalise=False), trainer.world)
    for batch, values in zip(batches, plain, strict=True):
        rewards = batch.rewards.repeat_interleave(torch.tensor(batch.lengths))
        torch.testing.assert_close(batch.advantages, rewards - values)
        torch.testing.assert_close(batch.returns, rewards.double())
    returns = torch.cat([b.returns for b in batches])
    errors = torch.cat([b.returns - b.old_values for b in batches])
    explained = 1 - errors.var(correction=0) / returns.var(correction=0)
    assert metrics["explained_variance"] == pytest.approx(explained.item())
    critic_advantages(batches, CriticConfig(normalise=True), trainer.world)
    advantages = torch.cat([b.advantages for b in batches])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-6)
