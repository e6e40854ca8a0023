"""Clipped policy gradient over sampled responses; GRPO and its relatives are settings of it."""

from dataclasses import dataclass, fields, replace

import torch

from custom_components.config import UserError, option


@dataclass(frozen=True)
class PolicyGradient:
    """What distinguishes the members of the family.

    Attributes:
        normalise_std: divide a group's centred rewards by their standard deviation.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]; infinite
            for none.
        aggregation: how token losses become one number: sequence_mean (each response's mean,
            then the mean over responses), token_mean (mean over all tokens), or constant (sum
            over tokens, divided by responses x longest allowed length).
    """

    normalise_std: bool
    clip_low: float
    clip_high: float
    aggregation: str


SETTINGS = {
    # Shao et al. 2024 (arXiv 2402.03300), eq. 3
    "grpo": PolicyGradient(True, 0.2, 0.2, "sequence_mean"),
    # Yu et al. 2025 (arXiv 2503.14476): clip-higher and token mean
    "dapo": PolicyGradient(True, 0.2, 0.28, "token_mean"),
    # Liu et al. 2025 (arXiv 2503.20783): neither the std nor the length in a denominator
    "dr_grpo": PolicyGradient(False, 0.2, 0.2, "constant"),
    # Williams 1992, with the group's mean as baseline
    "reinforce": PolicyGradient(False, torch.inf, torch.inf, "token_mean"),
}


KL_ESTIMATORS = {
    # Schulman 2020, "Approximating KL divergence", with r = p_reference / p
    "k1": lambda log_r: -log_r,
    "k2": lambda log_r: log_r.square() / 2,
    "k3": lambda log_r: log_r.exp() - 1 - log_r,
}


def kl_penalty(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: str
) -> torch.Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled.

    Args:
        logprobs: [tokens] under the policy.
        reference_logprobs: [tokens] under the frozen reference; no gradient.
        estimator: k1 (unbiased, may be negative), k2 (biased, smooth) or k3 (unbiased, positive).

    Returns:
        [tokens].
    """
    return KL_ESTIMATORS[estimator](reference_logprobs - logprobs)


@dataclass
class LossConfig:
    """Which policy gradient. A null keeps the named setting's own value."""

    name: str = option("grpo", "grpo, dapo, dr_grpo or reinforce")
    normalise_std: bool | None = option(None, "divide a group's rewards by their std")
    clip_low: float | None = option(None, "the ratio is at least 1 - clip_low")
    clip_high: float | None = option(None, "the ratio is at most 1 + clip_high")
    aggregation: str | None = option(None, "sequence_mean, token_mean or constant")
    kl_coefficient: float = option(0.0, "weight of the KL to the start model; 0 needs no reference")
    kl_estimator: str = option("k3", "k1, k2 or k3")

    def resolve(self) -> PolicyGradient:
        """The setting with this config's changes.

        Raises:
            UserError: when there is no setting or estimator of that name.
        """
        if self.name not in SETTINGS:
            raise UserError(f"loss.name must be one of {', '.join(SETTINGS)}, not {self.name!r}")
        if self.kl_estimator not in KL_ESTIMATORS:
            raise UserError(f"loss.kl_estimator must be k1, k2 or k3, not {self.kl_estimator!r}")
        values = {f.name: getattr(self, f.name) for f in fields(PolicyGradient)}
        return replace(SETTINGS[self.name], **{k: v for k, v in values.items() if v is not None})


def token_weights(lengths: list[int], aggregation: str, longest: int) -> list[float]:
    """The weight of one token's loss, for each response of a whole batch.

    Weighted token losses of the batch sum to the loss, however they are split over
    micro-batches and ranks.

    Args:
        lengths: tokens of every response of the batch, over all ranks.
        aggregation: see `PolicyGradient`.
        longest: longest allowed response, tokens; used by `constant`.

    Returns:
        as many weights as lengths.

    Raises:
        UserError: when the aggregation has no such name.
    """
    if aggregation == "sequence_mean":
        return [1 / (n * len(lengths)) for n in lengths]
    if aggregation == "token_mean":
        return [1 / sum(lengths)] * len(lengths)
    if aggregation == "constant":
        return [1 / (longest * len(lengths))] * len(lengths)
    raise UserError(
        f"loss.aggregation must be sequence_mean, token_mean or constant, not {aggregation!r}"
    )


def policy_gradient_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token losses -min(ratio * A, clip(ratio) * A) (Schulman et al. 2017, eq. 7).

    Args:
        logprobs: [tokens] under the policy that is trained, after temperature.
        old_logprobs: [tokens] under the policy before this step's updates; no gradient.
        advantages: [tokens], each response's advantage at all its tokens.
        clip_low, clip_high: see `PolicyGradient`.

    Returns:
        (losses [tokens], ratios [tokens], clipped [tokens] bool): clipped marks tokens whose
        gradient the clip takes away. Ratios carry no gradient.
    """
    ratios = (logprobs - old_logprobs).exp()
    bounded = ratios.clamp(1 - clip_low, 1 + clip_high)
    plain, limited = ratios * advantages, bounded * advantages
    return -torch.minimum(plain, limited), ratios.detach(), (limited < plain).detach()


def importance_weights(
    old_logprobs: torch.Tensor, engine_logprobs: torch.Tensor, cap: float
) -> torch.Tensor:
    """Truncated importance weights min(p_trainer / p_engine, cap), token by token.

    They correct for an engine that samples from slightly other probabilities than the trainer
    computes for the same weights (Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training").

    Args:
        old_logprobs: [tokens] by the trainer, before this step's updates.
        engine_logprobs: [tokens] by the engine, of the distribution sampled from.
        cap: largest weight.

    Returns:
        [tokens], without gradient.
    """
    return (old_logprobs - engine_logprobs).exp().clamp(max=cap).detach()
