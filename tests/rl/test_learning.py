"""The update: what the loss may and may not depend on, and PPO's advantages."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from custom_components.engines.engine import Completion
from custom_components.losses.policy_gradient import SETTINGS, LossConfig
from custom_components.rl.learning import (
    CriticConfig,
    estimate_advantages,
    forward,
    loss_terms,
    policy_batches,
)
from custom_components.rl.samples import Group, Sample, choose

VOCABULARY = 40


class World:
    size, rank, device = 1, 0, torch.device("cpu")

    def sums(self, values):
        return values


class Table:
    """Stands in for the trainer: log-probs and values are looked up by token."""

    def __init__(self, name="grpo", tokens=1000):
        generator = torch.Generator().manual_seed(0)
        self.world = World()
        self.cfg = SimpleNamespace(
            max_new_tokens=16,
            max_tokens_per_micro_batch=tokens,
            importance_cap=2.0,
            loss=LossConfig(name),
        )
        self.logprobs = -torch.rand(VOCABULARY, dtype=torch.float64, generator=generator)
        self.values = torch.randn(VOCABULARY, dtype=torch.float64, generator=generator)
        self.logprobs.requires_grad_()

    def forward_logprobs(self, batch, model=None, values=False, **_):
        targets = batch.targets.clamp(min=0)
        pair = self.logprobs[targets], torch.zeros(targets.shape)
        return (pair, self.values[targets]) if values else pair


def groups(seed=0):
    """Groups of responses whose tokens name them: group * 10 + number."""
    rng = random.Random(seed)
    made = []
    for g in range(4):
        verdicts = ["correct"] * (g % 3) + ["incorrect"] * (4 - g % 3)
        samples = [
            Sample([39], Completion([g * 10 + i] * rng.randint(1, 5), [], "stop"), "", verdict)
            for i, verdict in enumerate(verdicts)
        ]
        for s in samples:
            s.completion.logprobs.extend([-0.5] * len(s.completion.token_ids))
        made.append(Group({}, [39], samples))
    return made


def loss_and_gradient(samples, name="grpo", tokens=1000):
    trainer, setting = Table(name, tokens), SETTINGS[name]
    batches = policy_batches(trainer, samples, setting)
    total = sum(loss_terms(trainer, batches, setting, 1.0, Counter()))
    total.backward()
    return total.detach(), trainer.logprobs.grad


@pytest.mark.parametrize("name", SETTINGS)
def test_the_order_of_samples_and_their_split_do_not_matter(name):
    samples = choose(groups(), None, SETTINGS[name].normalise_std, random.Random(0))
    loss, gradient = loss_and_gradient(samples, name)
    for seed in range(3):
        shuffled = random.Random(seed).sample(samples, len(samples))
        other, other_gradient = loss_and_gradient(shuffled, name, tokens=12)
        torch.testing.assert_close(other, loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-6, atol=1e-6)


def test_no_gradient_from_what_is_dropped():
    made = groups()
    made[1].samples[3].verdict = "undecided"
    chosen = choose(made, 0.5, True, random.Random(0))
    _, gradient = loss_and_gradient(chosen)
    learned = {s.completion.token_ids[0] for s in chosen}
    assert learned and 13 not in learned
    assert set(gradient.nonzero()[:, 0].tolist()) == learned
    # groups 0 and 3 have no correct response
    assert all(10 <= token < 30 for token in learned)


@pytest.mark.parametrize("seed", range(5))
def test_rebalanced_advantages_sum_to_zero_in_every_group(seed):
    for group in groups(seed):
        chosen = choose([group], 0.5, True, random.Random(seed))
        assert sum(s.advantage for s in chosen) == 0


def test_advantages_of_a_critic():
    trainer = Table()
    samples = [s for g in groups() for s in g.samples]
    batches = policy_batches(trainer, samples, SETTINGS["grpo"])
    with torch.no_grad():
        for batch in batches:
            batch.old_logprobs, _, batch.old_values = forward(trainer, batch, 1.0, values=True)
    plain = [b.old_values.clone() for b in batches]
    metrics = estimate_advantages(trainer, batches, CriticConfig(normalise=False))
    for batch, values in zip(batches, plain, strict=True):
        rewards = batch.rewards.repeat_interleave(torch.tensor(batch.lengths))
        torch.testing.assert_close(batch.advantages, rewards - values)
        torch.testing.assert_close(batch.returns, rewards.double())
    returns = torch.cat([b.returns for b in batches])
    errors = torch.cat([b.returns - b.old_values for b in batches])
    explained = 1 - errors.var(correction=0) / returns.var(correction=0)
    assert metrics["explained_variance"] == pytest.approx(explained.item())
    estimate_advantages(trainer, batches, CriticConfig(normalise=True))
    advantages = torch.cat([b.advantages for b in batches])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-6)
