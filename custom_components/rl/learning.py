"""Learn from a step's samples: from responses with advantages to new weights."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

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
from custom_components.rl.groups import Sample
from custom_components.rl.rl_config import CriticConfig, RLConfig
from custom_components.runs.metrics import Sums
from custom_components.training.distributed import World
from custom_components.training.flops import document_costs
from custom_components.training.trainer import Trainer


@dataclass
class PolicyBatch:
    """Hold one micro-batch of responses. [tokens] are its response tokens in order.

    Attributes:
        indices: Places of its samples in the mini-batch.
        inputs: Prompts and responses, laid end to end.
        lengths: Tokens of each response.
        rewards: Rewards [responses] float32.
        engine_logprobs: Log-probs [tokens] float32 by the engine that sampled them.
        advantages: Advantages [tokens] float32.
        weights: Weights [tokens] float32 of the token losses; see `Learner.weigh`.
        correction: Importance weights [tokens]; None if the first forward pass gives them.
        old_logprobs: Log-probs [tokens] by the trainer before this step's updates; None if the
            first forward pass gives them.
        reference_logprobs: Log-probs [tokens] by the frozen start model; None without a KL term.
        old_values: Values [tokens] by the critic before this step's updates; None without a critic.
        returns: Values [tokens] that the critic should have predicted; None without a critic.
    """

    indices: list[int]
    inputs: MicroBatch
    lengths: list[int]
    rewards: torch.Tensor
    engine_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    correction: torch.Tensor | None = None
    old_logprobs: torch.Tensor | None = None
    reference_logprobs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None


class ResponseTokens(NamedTuple):
    """Hold what a forward pass says of the response tokens of a micro-batch.

    Attributes:
        logprobs: Log-probs [tokens] at the sampling temperature.
        entropies: Entropies [tokens] in nats, without gradient.
        values: Values [tokens] by the critic; None without one.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor | None


@dataclass(frozen=True)
class Update:
    """Hold the outcome of a step's update.

    Attributes:
        loss: Mean loss over the optimizer steps.
        norm: Mean norm of their gradients.
        metrics: Further values to log.
    """

    loss: float
    norm: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Learner:
    """Update the policy from samples by a policy gradient.

    Attributes:
        trainer: Model, optimizer, and the config of the recipe.
        setting: Policy gradient to follow.
        reference: Frozen start model for the KL term; None without one.
        critic: Config of the value head on the model, which then gives the advantages and is
            trained too; None to use the advantages of the samples.
    """

    trainer: Trainer[RLConfig]
    setting: PolicyGradient
    reference: Callable[..., Any] | None = None
    critic: CriticConfig | None = None

    def learn(self, samples: list[Sample], temperature: float, rng: random.Random) -> Update:
        """Update the weights, one optimizer step per mini-batch and pass.

        Args:
            samples: Samples of all ranks, the same list on every rank.
            temperature: Temperature the samples were drawn at; their log-probs are taken at it too.
            rng: Source of the mini-batches, in the same state on every rank.

        Returns:
            Outcome of the update; zeros if there are fewer samples than ranks.
        """
        trainer, cfg, world = self.trainer, self.trainer.cfg, self.trainer.world
        if len(samples) < world.size:
            return Update(0.0, 0.0, {"updates": 0})
        forward = partial(trainer.forward_logprobs, temperature=temperature, entropy=True)
        has_critic = self.critic is not None

        # Divide the samples into mini-batches, and this rank's share of each into micro-batches.
        shuffled = rng.sample(samples, len(samples))
        count = max(1, min(cfg.minibatches, len(samples) // world.size))
        minibatches = [self.policy_batches(shuffled[i::count]) for i in range(count)]
        batches = [batch for minibatch in minibatches for batch in minibatch]

        # Take log-probs and values before the first update, where later updates compare with them.
        masks = cfg.importance.beyond == "mask"
        with torch.no_grad():
            for batch in batches:
                if count * cfg.update_epochs > 1 or has_critic or masks:
                    output = forward(batch.inputs, values=has_critic)
                    old = response_tokens(batch, output, has_critic)
                    batch.old_logprobs = old.logprobs
                    batch.old_values = old.values
                if self.reference is not None:
                    output = forward(batch.inputs, self.reference)
                    batch.reference_logprobs = response_tokens(batch, output).logprobs
        if masks:
            minibatches = [
                minibatch
                for i, minibatch in enumerate(minibatches)
                if self.weigh(shuffled[i::count], minibatch)
            ]
        critic_metrics = critic_advantages(batches, self.critic, world) if self.critic else {}

        # Follow the gradient of each mini-batch.
        sums = Sums()
        losses, norms = [], []
        for _, minibatch in product(range(cfg.update_epochs), minibatches):
            shares = (
                self.loss(batch, forward(batch.inputs, values=has_critic), sums)
                for batch in minibatch
            )
            losses.append(trainer.backward(shares))
            norms.append(trainer.update())
        if not losses:
            return Update(0.0, 0.0, {"updates": 0})

        largest_gap = max(world.gather([sums.pop("largest_gap", 0.0)]))
        totals = world.sums(dict(sums))
        tokens = totals.pop("tokens")
        metrics = {name: total / tokens for name, total in totals.items()}
        metrics |= {
            "largest_logprob_gap": largest_gap,
            "updates": len(losses),
            "trained_tokens": tokens,
            **critic_metrics,
        }
        return Update(sum(losses) / len(losses), sum(norms) / len(norms), metrics)

    def policy_batches(self, samples: list[Sample]) -> list[PolicyBatch]:
        """Return this rank's micro-batches of one mini-batch.

        Args:
            samples: Samples of the mini-batch, of all ranks.
        """
        cfg, world = self.trainer.cfg, self.trainer.world
        lengths = [s.length for s in samples]
        sequence_lengths = [len(s.prompt_ids) + s.length for s in samples]
        costs = document_costs(self.trainer.model, ([n] for n in sequence_lengths))
        parts = split_batch(sequence_lengths, cfg.max_tokens_per_micro_batch, world.size, costs)
        weights = self.response_weights(samples, lengths)
        advantages = [s.advantage for s in samples]

        def per_token(values: list[float], part: list[int]) -> torch.Tensor:
            repeats = torch.tensor([lengths[i] for i in part])
            of_responses = torch.tensor([values[i] for i in part])
            return of_responses.repeat_interleave(repeats).to(world.device)

        return [
            PolicyBatch(
                indices=part,
                inputs=collate([samples[i].row() for i in part]),
                lengths=[lengths[i] for i in part],
                rewards=torch.tensor([samples[i].reward for i in part], device=world.device),
                engine_logprobs=torch.tensor(
                    [x for i in part for x in samples[i].completion.logprobs], device=world.device
                ),
                advantages=per_token(advantages, part),
                weights=per_token(weights, part),
            )
            for part in parts[world.rank]
        ]

    def response_weights(self, samples: list[Sample], lengths: list[int]) -> list[float]:
        """Return the weight of a token's loss for each sample of a mini-batch.

        Args:
            samples: Samples of the mini-batch, of all ranks.
            lengths: Tokens of each sample that count.
        """
        groups = [s.group for s in samples]
        limit = self.trainer.cfg.max_new_tokens
        return token_weights(lengths, groups, self.setting.aggregation, limit)

    def weigh(self, samples: list[Sample], batches: list[PolicyBatch]) -> bool:
        """Leave the tokens that the importance correction rejects out of the mini-batch's mean.

        Args:
            samples: Samples of the mini-batch, of all ranks.
            batches: This rank's micro-batches of it, with `old_logprobs`. Their corrections and
                weights are set.

        Returns:
            Whether any token is left, on any rank.
        """
        importance, world = self.trainer.cfg.importance, self.trainer.world
        kept = []
        for batch in batches:
            assert batch.old_logprobs is not None  # `learn` has set it
            batch.correction = importance_weights(
                batch.old_logprobs, batch.engine_logprobs, batch.lengths, importance
            )
            masks = (batch.correction > 0).split(batch.lengths)
            kept.append(list(zip(batch.indices, masks, strict=True)))
        counts = dict(world.gather([(i, int(m.sum())) for masks in kept for i, m in masks]))
        weights = self.response_weights(samples, [counts[i] for i in range(len(samples))])
        for batch, masks in zip(batches, kept, strict=True):
            batch.weights = torch.cat([mask * weights[i] for i, mask in masks])
        return any(counts.values())

    def loss(self, batch: PolicyBatch, output: Any, sums: Sums) -> torch.Tensor:
        """Return a micro-batch's share of the loss of its mini-batch.

        Args:
            batch: Micro-batch.
            output: Forward pass of the trained model on it; see `response_tokens`.
            sums: Sums over tokens of the logged values, which are added to; `largest_gap` is a
                maximum.
        """
        cfg, setting, critic = self.trainer.cfg, self.setting, self.critic
        tokens = response_tokens(batch, output, critic is not None)
        old = tokens.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        losses, ratios, clipped = policy_gradient_loss(
            tokens.logprobs, old, batch.advantages, batch.lengths, setting
        )
        correction = batch.correction
        if correction is None:
            correction = importance_weights(
                old, batch.engine_logprobs, batch.lengths, cfg.importance
            )
        gap = (old - batch.engine_logprobs).abs()
        sums.add(
            tokens=len(losses),
            entropy=float(tokens.entropies.sum()),
            ratio=float(ratios.sum()),
            clip_fraction=float(clipped.sum()),
            importance_weight=float(correction.sum()),
            rejected=float((batch.weights == 0).sum()),
            logprob_gap=float(gap.sum()),
        )
        sums["largest_gap"] = max(sums.get("largest_gap", 0.0), float(gap.max()))
        losses = losses * correction
        if batch.reference_logprobs is not None:
            kl = kl_penalty(tokens.logprobs, old, batch.reference_logprobs, cfg.loss.kl_estimator)
            sums.add(kl=float(kl.detach().sum()))
            losses = losses + cfg.loss.kl_coefficient * kl
        if critic is not None:
            assert tokens.values is not None and batch.old_values is not None
            assert batch.returns is not None  # `critic_advantages` has set it
            errors = value_loss(tokens.values, batch.old_values, batch.returns, critic.clip)
            sums.add(value_loss=float(errors.detach().sum()))
            losses = losses + critic.coefficient * errors
        return (losses * batch.weights).sum()


def response_tokens(batch: PolicyBatch, output: Any, with_values: bool = False) -> ResponseTokens:
    """Pick the response tokens out of a forward pass over prompts and responses.

    Args:
        batch: Micro-batch of the forward pass.
        output: (log-probs, entropies), each [1, seq]; with values ((log-probs, entropies), values).
        with_values: Whether the output has values.
    """
    (logprobs, entropies), values = output if with_values else (output, None)
    scored = batch.inputs.scored.to(logprobs.device)
    return ResponseTokens(
        logprobs[0, scored],
        entropies[0, scored].detach(),
        None if values is None else values[0, scored],
    )


def critic_advantages(
    batches: list[PolicyBatch], critic: CriticConfig, world: World
) -> dict[str, float]:
    """Replace the advantages by those of the critic, and set the returns it should predict.

    Args:
        batches: This rank's micro-batches of a step, with `old_values`.
        critic: Discount, lambda, and whether to normalise.
        world: Ranks to sum over.

    Returns:
        Metrics: `value`, the mean value, and `explained_variance`, the share of the returns'
        variance that the values explain.
    """
    sums = Sums()
    for batch in batches:
        assert batch.old_values is not None
        batch.advantages = generalised_advantages(
            batch.old_values, batch.rewards, batch.lengths, critic.gamma, critic.lam
        )
        batch.returns = batch.advantages + batch.old_values
        error = (batch.returns - batch.old_values).double()
        returns, advantages = batch.returns.double(), batch.advantages.double()
        sums.add(
            tokens=len(returns),
            value=float(batch.old_values.sum()),
            returns=float(returns.sum()),
            returns_squared=float(returns.square().sum()),
            error=float(error.sum()),
            error_squared=float(error.square().sum()),
            advantages=float(advantages.sum()),
            advantages_squared=float(advantages.square().sum()),
        )
    totals = world.sums(dict(sums))
    tokens = totals["tokens"]

    def variance(name: str) -> float:
        return max(0.0, totals[f"{name}_squared"] / tokens - (totals[name] / tokens) ** 2)

    if critic.normalise:
        mean, std = totals["advantages"] / tokens, variance("advantages") ** 0.5
        for batch in batches:
            batch.advantages = (batch.advantages - mean) / (std + 1e-8)
    returns_variance = variance("returns")
    explained = 1 - variance("error") / returns_variance if returns_variance > 1e-12 else 0.0
    return {"value": totals["value"] / tokens, "explained_variance": explained}
