"""Check what the loss may and may not depend on, and PPO's advantages."""

import random
from types import SimpleNamespace

import pytest
import torch

from custom_components.engines.engine import Completion
from custom_components.losses.policy_gradient import SETTINGS, LossConfig
from custom_components.rl.advantages import choose_samples
from custom_components.rl.groups import Group, Sample
from custom_components.rl.learning import Learner, critic_advantages, response_tokens
from custom_components.rl.rl_config import CriticConfig, OverlongConfig, RebalanceConfig
from custom_components.runs.metrics import Sums

VOCABULARY = 40


class World:
    size, rank, device = 1, 0, torch.device("cpu")

    def sums(self, values):
        return values


class Table:
    """Stand in for the trainer: look log-probs and values up by token."""

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
            s.completion.logprobs.extend([-0.5] * len(s.completion.token_ids))
        listed.append(Group({}, [39], samples))
    return listed


def choose(listed, max_accuracy=None, normalise_std=True, seed=0):
    """Return the samples to learn from; rebalance if `max_accuracy` is given."""
    cfg = SimpleNamespace(
        rebalance=RebalanceConfig(max_accuracy is not None, max_accuracy or 0.0),
        overlong=OverlongConfig(),
        max_new_tokens=16,
    )
    return choose_samples(listed, cfg, normalise_std, random.Random(seed))


def loss_and_gradient(samples, name="grpo", tokens=1000):
    trainer = Table(name, tokens)
    learner, sums = Learner(trainer, SETTINGS[name]), Sums()
    batches = learner.policy_batches(samples)
    total = sum(learner.loss(b, trainer.forward_logprobs(b.inputs), sums) for b in batches)
    total.backward()
    return total.detach(), trainer.logprobs.grad


@pytest.mark.parametrize("name", SETTINGS)
def test_the_order_of_samples_and_their_split_do_not_matter(name):
    samples = choose(groups(), normalise_std=SETTINGS[name].normalise_std)
    loss, gradient = loss_and_gradient(samples, name)
    for seed in range(3):
        shuffled = random.Random(seed).sample(samples, len(samples))
        other, other_gradient = loss_and_gradient(shuffled, name, tokens=12)
        torch.testing.assert_close(other, loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-6, atol=1e-6)


def test_no_gradient_from_what_is_dropped():
    listed = groups()
    listed[1].samples[3].verdict = "undecided"
    chosen = choose(listed, 0.5)
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
