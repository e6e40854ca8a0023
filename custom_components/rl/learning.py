"""The update of an RL step: from samples with advantages to new weights."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from custom_components.data.batching import MicroBatch, collate, split_batch
from custom_components.losses.gae import generalised_advantages, value_loss
from custom_components.losses.policy_gradient import (
    PolicyGradient,
    importance_weights,
    kl_penalty,
    policy_gradient_loss,
    token_weights,
)
from custom_components.rl.rl_config import CriticConfig, RLConfig
from custom_components.rl.samples import Sample
from custom_components.training.trainer import Trainer


@dataclass
class PolicyBatch:
    """One micro-batch of responses; [tokens] are its response tokens in order.

    Attributes:
        inputs: the responses with their prompts, laid end to end.
        lengths: tokens of each response.
        rewards: [responses] float32.
        engine_logprobs, advantages, weights: [tokens] float32.
        old_logprobs: [tokens], by the trainer before this step's updates; None where the first
            forward pass gives them.
        reference_logprobs: [tokens], by the frozen start model; None without a KL term.
        old_values, returns: [tokens], of the critic before this step's updates, and what it should
            have said; None without a critic.
    """

    inputs: MicroBatch
    lengths: list[int]
    rewards: torch.Tensor
    engine_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    old_logprobs: torch.Tensor | None = None
    reference_logprobs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None


def learn(
    trainer: Trainer[RLConfig],
    samples: list[Sample],
    setting: PolicyGradient,
    temperature: float,
    rng: random.Random,
    reference: Callable[..., Any] | None = None,
    critic: CriticConfig | None = None,
) -> tuple[float, float, dict[str, float]]:
    """Update the weights from a step's samples (the same list on every rank).

    Args:
        trainer: model, optimizer, and the recipe's config.
        samples: over all ranks, each with its advantage, or judged where a critic gives it.
        setting: the policy gradient.
        temperature: that the samples were drawn at; the log-probs are taken at it too.
        rng: shuffles the samples into mini-batches, alike on every rank.
        reference: frozen start model, for the KL term.
        critic: take the advantages from the model's value head, and train it.

    Returns:
        (mean loss, mean gradient norm, metrics); zeros when there are fewer samples than ranks.
    """
    cfg, world = trainer.cfg, trainer.world
    if len(samples) < world.size:
        return 0.0, 0.0, {"updates": 0}
    samples = rng.sample(samples, len(samples))
    count = max(1, min(cfg.minibatches, len(samples) // world.size))
    minibatches = [policy_batches(trainer, samples[i::count], setting) for i in range(count)]
    every = [batch for minibatch in minibatches for batch in minibatch]
    with torch.no_grad():
        for batch in every:
            # later updates need the policy, and the critic, as they are now
            if count * cfg.update_epochs > 1 or critic is not None:
                batch.old_logprobs, _, batch.old_values = forward(
                    trainer, batch, temperature, critic is not None
                )
            if reference is not None:
                batch.reference_logprobs = forward(trainer, batch, temperature, model=reference)[0]
    criticised = estimate_advantages(trainer, every, critic) if critic is not None else {}
    sums: Counter[str] = Counter()
    losses, norms = [], []
    for _, minibatch in product(range(cfg.update_epochs), minibatches):
        terms = loss_terms(trainer, minibatch, setting, temperature, sums, critic)
        losses.append(trainer.backward(terms))
        norms.append(trainer.update())
    largest_gap = max(world.gather([sums.pop("largest_gap", 0.0)]))
    sums = world.sums(dict(sums))
    tokens = sums.pop("tokens")
    metrics = {name: value / tokens for name, value in sums.items()}
    metrics |= {
        "largest_logprob_gap": largest_gap,
        "updates": len(losses),
        "trained_tokens": tokens,
        **criticised,
    }
    return sum(losses) / len(losses), sum(norms) / len(norms), metrics


def policy_batches(
    trainer: Trainer[RLConfig], samples: list[Sample], setting: PolicyGradient
) -> list[PolicyBatch]:
    """This rank's micro-batches of one mini-batch."""
    cfg, world = trainer.cfg, trainer.world
    responses = [s.completion for s in samples]
    lengths = [len(c.token_ids) for c in responses]
    weights = token_weights(lengths, setting.aggregation, cfg.max_new_tokens)
    totals = [len(s.prompt_ids) + n for s, n in zip(samples, lengths, strict=True)]
    parts = split_batch(totals, cfg.max_tokens_per_micro_batch, world.size)

    def tokenwise(values: list[float], part: list[int]) -> torch.Tensor:
        repeats = torch.tensor([lengths[i] for i in part])
        return torch.tensor([values[i] for i in part]).repeat_interleave(repeats).to(world.device)

    return [
        PolicyBatch(
            inputs=collate([samples[i].row() for i in part]),
            lengths=[lengths[i] for i in part],
            rewards=torch.tensor([samples[i].reward for i in part], device=world.device),
            engine_logprobs=torch.tensor(
                [x for i in part for x in responses[i].logprobs], device=world.device
            ),
            advantages=tokenwise([s.advantage for s in samples], part),
            weights=tokenwise(weights, part),
        )
        for part in parts[world.rank]
    ]


def forward(
    trainer: Trainer[RLConfig],
    batch: PolicyBatch,
    temperature: float,
    values: bool = False,
    model: Callable[..., Any] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(log-probs, entropies, values) of the response tokens at the sampling temperature, [tokens].

    `model` is the trained one unless another is given; without `values` the third is None.
    """
    result = trainer.forward_logprobs(
        batch.inputs, model, temperature=temperature, entropy=True, values=values
    )
    (logprobs, entropies), of_states = result if values else (result, None)
    scored = batch.inputs.scored.to(logprobs.device)
    return (
        logprobs[0, scored],
        entropies[0, scored].detach(),
        None if of_states is None else of_states[0, scored],
    )


def estimate_advantages(
    trainer: Trainer[RLConfig], batches: list[PolicyBatch], critic: CriticConfig
) -> dict[str, float]:
    """Give every token its advantage and its return, by the critic's old values.

    Args:
        trainer: to sum over the ranks.
        batches: of a step, with `old_values`; their advantages are replaced.
        critic: how.

    Returns:
        metrics: mean value, and the share of the returns' variance that the values explain.
    """
    sums: Counter[str] = Counter()
    for batch in batches:
        batch.advantages = generalised_advantages(
            batch.old_values, batch.rewards, batch.lengths, critic.gamma, critic.lam
        )
        batch.returns = batch.advantages + batch.old_values
        error = (batch.returns - batch.old_values).double()
        returns, advantages = batch.returns.double(), batch.advantages.double()
        sums.update(
            tokens=len(returns),
            value=float(batch.old_values.sum()),
            returns=float(returns.sum()),
            returns_squared=float(returns.square().sum()),
            error=float(error.sum()),
            error_squared=float(error.square().sum()),
            advantages=float(advantages.sum()),
            advantages_squared=float(advantages.square().sum()),
        )
    totals = trainer.world.sums(dict(sums))
    tokens = totals["tokens"]

    def variance(name: str) -> float:
        return max(0.0, totals[f"{name}_squared"] / tokens - (totals[name] / tokens) ** 2)

    if critic.normalise:
        mean, std = totals["advantages"] / tokens, variance("advantages") ** 0.5
        for batch in batches:
            batch.advantages = (batch.advantages - mean) / (std + 1e-8)
    spread = variance("returns")
    return {
        "value": totals["value"] / tokens,
        "explained_variance": 1 - variance("error") / spread if spread > 1e-12 else 0.0,
    }


def loss_terms(
    trainer: Trainer[RLConfig],
    minibatch: list[PolicyBatch],
    setting: PolicyGradient,
    temperature: float,
    sums: Counter[str],
    critic: CriticConfig | None = None,
) -> Iterator[torch.Tensor]:
    """Each micro-batch's share of the mini-batch's loss; `sums` collects what is logged."""
    for batch in minibatch:
        logprobs, entropies, values = forward(trainer, batch, temperature, critic is not None)
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        losses, ratios, clipped = policy_gradient_loss(
            logprobs, old, batch.advantages, setting.clip_low, setting.clip_high
        )
        correction = importance_weights(old, batch.engine_logprobs, trainer.cfg.importance_cap)
        gap = (old - batch.engine_logprobs).abs()
        sums.update(
            tokens=len(losses),
            entropy=float(entropies.sum()),
            ratio=float(ratios.sum()),
            clip_fraction=float(clipped.sum()),
            importance_weight=float(correction.sum()),
            logprob_gap=float(gap.sum()),
        )
        sums["largest_gap"] = max(sums["largest_gap"], float(gap.max()))
        losses = losses * correction
        if batch.reference_logprobs is not None:
            config = trainer.cfg.loss
            kl = kl_penalty(logprobs, batch.reference_logprobs, config.kl_estimator)
            sums.update(kl=float(kl.detach().sum()))
            losses = losses + config.kl_coefficient * kl
        if critic is not None:
            errors = value_loss(values, batch.old_values, batch.returns, critic.clip)
            sums.update(value_loss=float(errors.detach().sum()))
            losses = losses + critic.coefficient * errors
        yield (losses * batch.weights).sum()
