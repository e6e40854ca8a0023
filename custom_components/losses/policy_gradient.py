"""Compute the clipped policy gradient over sampled responses; GRPO's relatives are its settings."""

from dataclasses import dataclass, fields, replace

import torch

from custom_components.config import UserError, option


@dataclass(frozen=True)
class PolicyGradient:
    """Hold what distinguishes the members of the family; the defaults are GRPO's.

    Attributes:
        normalise_std: Whether a group's centred rewards are divided by their standard deviation.
        clip_low, clip_high: Bounds of the ratio, [1 - clip_low, 1 + clip_high]; infinite for none.
        aggregation: How token losses become one number: sequence_mean (mean over each response,
            then over the responses), token_mean (mean over all tokens), or constant (sum over all
            tokens, divided by responses x longest allowed length).
    """

    normalise_std: bool = True
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: str = "sequence_mean"


SETTINGS = {
    # Shao et al. 2024 (arXiv 2402.03300), eq. 3
    "grpo": PolicyGradient(),
    # Yu et al. 2025 (arXiv 2503.14476): a higher upper bound, and the mean over all tokens
    "dapo": PolicyGradient(clip_high=0.28, aggregation="token_mean"),
    # Liu et al. 2025 (arXiv 2503.20783): neither the std nor the length is a denominator
    "dr_grpo": PolicyGradient(normalise_std=False, aggregation="constant"),
    # Williams 1992, with the group's mean as the baseline
    "reinforce": PolicyGradient(
        normalise_std=False, clip_low=torch.inf, clip_high=torch.inf, aggregation="token_mean"
    ),
}
"""Settings by the name in `loss.name`. Each states how it differs from GRPO."""


KL_ESTIMATORS = {
    # Schulman 2020, "Approximating KL divergence", with r = p_reference / p
    "k1": lambda log_r: -log_r,
    "k2": lambda log_r: log_r.square() / 2,
    "k3": lambda log_r: log_r.exp() - 1 - log_r,
}


@dataclass
class LossConfig:
    """Configure the policy gradient. A null keeps the value of the named setting."""

    name: str = option("grpo", "setting: grpo, dapo, dr_grpo or reinforce")
    normalise_std: bool | None = option(
        None, "divide a group's centred rewards by their standard deviation"
    )
    clip_low: float | None = option(None, "the ratio is at least 1 - clip_low")
    clip_high: float | None = option(None, "the ratio is at most 1 + clip_high")
    aggregation: str | None = option(
        None, "mean of the token losses: sequence_mean, token_mean or constant"
    )
    kl_coefficient: float = option(
        0.0, "weight of the KL to the start model; 0 needs no reference model"
    )
    kl_estimator: str = option("k3", "estimator of the KL: k1, k2 or k3")

    def resolve(self) -> PolicyGradient:
        """Return the named setting with this config's changes.

        Raises:
            UserError: If no setting or estimator has the name.
        """
        if self.name not in SETTINGS:
            raise UserError(f"loss.name must be one of {', '.join(SETTINGS)}, not {self.name!r}")
        if self.kl_estimator not in KL_ESTIMATORS:
            raise UserError(f"loss.kl_estimator must be k1, k2 or k3, not {self.kl_estimator!r}")
        values = {f.name: getattr(self, f.name) for f in fields(PolicyGradient)}
        return replace(SETTINGS[self.name], **{k: v for k, v in values.items() if v is not None})


def policy_gradient_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the token losses -min(ratio * A, clip(ratio) * A) (Schulman et al. 2017, eq. 7).

    Args:
        logprobs: Log-probs [tokens] under the trained policy, at the sampling temperature.
        old_logprobs: Log-probs [tokens] under the policy before this step's updates, without
            gradient.
        advantages: Advantages [tokens]; without a critic all tokens of a response have the same.
        clip_low, clip_high: Bounds of the ratio; see `PolicyGradient`.

    Returns:
        (losses [tokens], ratios [tokens], clipped [tokens] bool). `clipped` marks tokens whose
        gradient the clip takes away. Ratios carry no gradient.
    """
    ratios = (logprobs - old_logprobs).exp()
    bounded = ratios.clamp(1 - clip_low, 1 + clip_high)
    plain, limited = ratios * advantages, bounded * advantages
    return -torch.minimum(plain, limited), ratios.detach(), (limited < plain).detach()


def token_weights(lengths: list[int], aggregation: str, max_new_tokens: int) -> list[float]:
    """Return the weight of one token's loss, for each response of a whole mini-batch.

    The weighted token losses of the mini-batch sum to its loss, however they are split over
    micro-batches and ranks.

    Args:
        lengths: Tokens of every response of the mini-batch, over all ranks.
        aggregation: How token losses become one number; see `PolicyGradient`.
        max_new_tokens: Longest allowed response, tokens; `constant` divides by it.

    Returns:
        One weight per response.

    Raises:
        UserError: If there is no such aggregation.
    """
    if aggregation == "sequence_mean":
        return [1 / (n * len(lengths)) for n in lengths]
    if aggregation == "token_mean":
        return [1 / sum(lengths)] * len(lengths)
    if aggregation == "constant":
        return [1 / (max_new_tokens * len(lengths))] * len(lengths)
    raise UserError(
        f"loss.aggregation must be sequence_mean, token_mean or constant, not {aggregation!r}"
    )


def importance_weights(
    old_logprobs: torch.Tensor, engine_logprobs: torch.Tensor, cap: float
) -> torch.Tensor:
    """Return the truncated importance weights min(p_trainer / p_engine, cap), token by token.

    They correct for an engine that samples from slightly different probabilities than the trainer
    computes for the same weights (Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training").

    Args:
        old_logprobs: Log-probs [tokens] by the trainer, before this step's updates.
        engine_logprobs: Log-probs [tokens] by the engine, of the distribution it sampled from.
        cap: Largest weight.

    Returns:
        Weights [tokens], without gradient.
    """
    return (old_logprobs - engine_logprobs).exp().clamp(max=cap).detach()


def kl_penalty(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: str
) -> torch.Tensor:
    """Estimate KL(policy || reference) from tokens that the policy sampled.

    Args:
        logprobs: Log-probs [tokens] under the policy.
        reference_logprobs: Log-probs [tokens] under the frozen reference, without gradient.
        estimator: Name of the estimator: k1 (unbiased, may be negative), k2 (biased, smooth) or k3
            (unbiased, never negative).

    Returns:
        Estimates [tokens].
    """
    return KL_ESTIMATORS[estimator](reference_logprobs - logprobs)
