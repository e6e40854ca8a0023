"""Compute the clipped policy gradient over sampled responses; GRPO's relatives are its settings."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

from custom_components.config import UserError, option

Baseline = Literal["group_mean", "leave_one_out"]
Scale = Literal["group_std", "batch_std", "none"]
Ratio = Literal["token", "sequence"]
Clip = Literal["objective", "weight"]
Aggregation = Literal["prompt_mean", "prompt_token_mean", "sequence_mean", "token_mean", "constant"]
SettingName = Literal[
    "grpo",
    "dapo",
    "dr_grpo",
    "reinforce",
    "rloo",
    "reinforce_plus_plus",
    "cispo",
    "gspo",
    "dual_clip",
]


@dataclass(frozen=True)
class PolicyGradient:
    """Hold what distinguishes the members of the family; the defaults are GRPO's.

    Attributes:
        baseline: What is subtracted from a reward: group_mean, the mean of its group, or
            leave_one_out, the mean of the group's other responses.
        scale: What the difference is divided by: group_std, its standard deviation in the group;
            batch_std, that over all responses of the step; or none.
        ratio: Ratio of new to old probability: token, each token its own; or sequence, the
            geometric mean over the response, which all of its tokens share.
        clip: What the bounds apply to. objective: the lower of the clipped and the unclipped
            objective counts (PPO), which takes the gradient from tokens beyond the bounds. weight:
            the clipped ratio is a constant weight of the token's log-prob, so that every token
            keeps a gradient.
        clip_low, clip_high: Bounds of the ratio, [1 - clip_low, 1 + clip_high]; infinite for none.
        dual_clip: Upper bound of the ratio where the advantage is negative, for the clip of the
            objective; infinite for none.
        aggregation: How token losses become one number. prompt_mean: mean over each response, then
            over each prompt's responses, then over the prompts. prompt_token_mean: mean over all
            tokens of each prompt, then over the prompts. sequence_mean: mean over each response,
            then over all responses. token_mean: mean over all tokens. constant: sum over all
            tokens, divided by responses x longest allowed length.
    """

    baseline: Baseline = "group_mean"
    scale: Scale = "group_std"
    ratio: Ratio = "token"
    clip: Clip = "objective"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = torch.inf
    aggregation: Aggregation = "prompt_mean"


NO_CLIP = {"clip_low": torch.inf, "clip_high": torch.inf}

SETTINGS: dict[str, PolicyGradient] = {
    # Shao et al. 2024 (arXiv 2402.03300), eq. 3: the mean over the responses is inside the
    # expectation over the prompts, so a prompt counts as much with two responses as with twenty.
    "grpo": PolicyGradient(),
    # Yu et al. 2025 (arXiv 2503.14476): a higher upper bound, and the mean over all tokens
    "dapo": PolicyGradient(clip_high=0.28, aggregation="token_mean"),
    # Liu et al. 2025 (arXiv 2503.20783): neither the std nor the length is a denominator
    "dr_grpo": PolicyGradient(scale="none", aggregation="constant"),
    # Williams 1992, with the group's mean as the baseline
    "reinforce": PolicyGradient(scale="none", aggregation="token_mean", **NO_CLIP),
    # Ahmadian et al. 2024 (arXiv 2402.14740): the other responses are the baseline, and the loss
    # of a response is the sum over its tokens (here divided by the longest allowed length)
    "rloo": PolicyGradient("leave_one_out", scale="none", aggregation="constant", **NO_CLIP),
    # Hu et al. 2025 (arXiv 2501.03262), "REINFORCE++ with baseline": the std of the whole batch
    "reinforce_plus_plus": PolicyGradient(scale="batch_std", aggregation="token_mean"),
    # MiniMax 2025 (arXiv 2506.13585), eq. 4 and 5, without a lower bound; the upper bound of 5 is
    # that of Khatri et al. 2025 (ScaleRL, arXiv 2510.13786)
    "cispo": PolicyGradient(
        clip="weight", clip_low=torch.inf, clip_high=4.0, aggregation="token_mean"
    ),
    # Zheng et al. 2025 (arXiv 2507.18071), eq. 5 and 7, with the bounds of its experiments
    "gspo": PolicyGradient(ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    # Ye et al. 2020 (arXiv 1912.09729), dual-clip PPO with c = 3
    "dual_clip": PolicyGradient(dual_clip=3.0),
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

    name: SettingName = option("grpo", "setting; docs/RL.md has their table")
    baseline: Baseline | None = option(
        None, "what is subtracted from a reward: mean of its group, or of the group's others"
    )
    scale: Scale | None = option(
        None, "what the difference is divided by: its std in the group, in the whole step, or 1"
    )
    ratio: Ratio | None = option(
        None, "ratio of each token, or geometric mean over the response (GSPO)"
    )
    clip: Clip | None = option(
        None, "clip the objective (PPO), or the weight of a token's log-prob (CISPO)"
    )
    clip_low: float | None = option(None, "the ratio is at least 1 - clip_low")
    clip_high: float | None = option(None, "the ratio is at most 1 + clip_high")
    dual_clip: float | None = option(
        None, "largest ratio of a token with a negative advantage; above 1 + clip_high"
    )
    aggregation: Aggregation | None = option(None, "mean of the token losses")
    kl_coefficient: float = option(
        0.0, "weight of the KL to the start model; 0 needs no reference model"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = option(
        "k3", "estimator of the KL's value; the gradient is that of the KL with each of them"
    )

    def __post_init__(self) -> None:
        """Refuse a bound of negative advantages within the other bounds, which it would undo."""
        setting = self.resolve()
        if setting.dual_clip <= 1 + setting.clip_high:
            raise UserError(
                f"loss.dual_clip={setting.dual_clip:g} must be above "
                f"1 + loss.clip_high={setting.clip_high:g}"
            )

    def resolve(self) -> PolicyGradient:
        """Return the named setting with this config's changes."""
        values = {f.name: getattr(self, f.name) for f in fields(PolicyGradient)}
        return replace(SETTINGS[self.name], **{k: v for k, v in values.items() if v is not None})


@dataclass
class ImportanceConfig:
    """Configure the correction for an engine whose log-probs differ from the trainer's."""

    level: Literal["token", "sequence", "geometric"] = option(
        "token",
        "ratio p_trainer / p_engine of each token; of the whole response (the product over its "
        "tokens); or the geometric mean over its tokens",
    )
    beyond: Literal["truncate", "mask"] = option(
        "truncate",
        "a ratio beyond the bounds becomes the bound, or its token or response is left out",
    )
    low: float = option(0.0, "smallest ratio", least=0.0)
    high: float = option(2.0, "largest ratio", least=0.0)

    def __post_init__(self) -> None:
        """Refuse bounds between which there is no ratio."""
        if self.low > self.high:
            raise UserError(
                f"importance.low={self.low:g} must not be above importance.high={self.high:g}"
            )


def policy_gradient_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    lengths: list[int],
    setting: PolicyGradient,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the token losses of a setting.

    With the clip of the objective they are -min(ratio * A, clip(ratio) * A) (Schulman et al. 2017,
    arXiv 1707.06347, eq. 7), with that of the weight -clip(ratio) * A * log p.

    Args:
        logprobs: Log-probs [tokens] under the trained policy, at the sampling temperature.
        old_logprobs: Log-probs [tokens] under the policy before this step's updates, without
            gradient.
        advantages: Advantages [tokens]; without a critic all tokens of a response have the same.
        lengths: Tokens of each response; they sum to `tokens`.
        setting: Ratio, clip and bounds.

    Returns:
        (losses [tokens], ratios [tokens], clipped [tokens] bool). `clipped` marks the tokens whose
        ratio a bound changes; a clip of the objective takes their gradient. Ratios carry no
        gradient.
    """
    log_ratios = logprobs - old_logprobs
    if setting.ratio == "sequence":
        log_ratios = per_response(torch.mean, log_ratios, lengths)
    ratios = log_ratios.exp()
    bounded = ratios.clamp(1 - setting.clip_low, 1 + setting.clip_high)
    if setting.clip == "weight":
        losses = -bounded.detach() * advantages * logprobs
        return losses, ratios.detach(), (bounded != ratios).detach()
    unclipped = ratios * advantages
    objective = torch.minimum(unclipped, bounded * advantages)
    floor = torch.where(advantages < 0, setting.dual_clip * advantages, -torch.inf)
    objective = torch.maximum(objective, floor)
    return -objective, ratios.detach(), (objective != unclipped).detach()


def per_response(
    reduce: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, lengths: list[int]
) -> torch.Tensor:
    """Reduce the values [tokens] of each response to one, and return it at each of its tokens."""
    reduced = torch.stack([reduce(part) for part in values.split(lengths)])
    return reduced.repeat_interleave(torch.tensor(lengths, device=values.device))


def token_weights(
    lengths: list[int], prompts: list[int], aggregation: str, max_new_tokens: int
) -> list[float]:
    """Return the weight of one token's loss, for each response of a whole mini-batch.

    The weighted token losses of the mini-batch sum to its loss, however they are split over
    micro-batches and ranks.

    Args:
        lengths: Tokens that count in every response of the mini-batch, over all ranks. A response
            without any is in no denominator.
        prompts: Number of the prompt of every response.
        aggregation: How token losses become one number; see `PolicyGradient`.
        max_new_tokens: Longest allowed response, tokens; `constant` divides by it.

    Returns:
        One weight per response; 0 for those without a token that counts.
    """
    counting = [(n, prompt) for n, prompt in zip(lengths, prompts, strict=True) if n]
    responses = Counter(prompt for _, prompt in counting)
    tokens: Counter[int] = Counter()
    for n, prompt in counting:
        tokens[prompt] += n
    denominators = {
        "prompt_mean": lambda n, prompt: n * responses[prompt] * len(responses),
        "prompt_token_mean": lambda n, prompt: tokens[prompt] * len(responses),
        "sequence_mean": lambda n, prompt: n * len(counting),
        "token_mean": lambda n, prompt: tokens.total(),
        "constant": lambda n, prompt: max_new_tokens * len(counting),
    }
    denominator = denominators[aggregation]
    return [
        1 / denominator(n, prompt) if n else 0.0 for n, prompt in zip(lengths, prompts, strict=True)
    ]


def importance_weights(
    old_logprobs: torch.Tensor,
    engine_logprobs: torch.Tensor,
    lengths: list[int],
    importance: ImportanceConfig,
) -> torch.Tensor:
    """Return the importance weights p_trainer / p_engine of the tokens, bounded.

    They correct for an engine that samples from slightly different probabilities than the trainer
    computes for the same weights (Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training", which truncates them token by token; Liu et al. 2025, "When speed
    kills stability", which masks whole responses).

    Args:
        old_logprobs: Log-probs [tokens] by the trainer, before this step's updates.
        engine_logprobs: Log-probs [tokens] by the engine, of the distribution it sampled from.
        lengths: Tokens of each response; they sum to `tokens`.
        importance: Level of the ratios, their bounds, and what happens beyond them.

    Returns:
        Weights [tokens], without gradient. With `mask` they are 0 at the tokens that are left out.
    """
    log_ratios = (old_logprobs - engine_logprobs).detach()
    if importance.level != "token":
        reduce = torch.sum if importance.level == "sequence" else torch.mean
        log_ratios = per_response(reduce, log_ratios, lengths)
    ratios = log_ratios.exp()
    bounded = ratios.clamp(importance.low, importance.high)
    if importance.beyond == "truncate":
        return bounded
    return torch.where(ratios == bounded, ratios, 0.0)


def kl_penalty(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor,
    estimator: str,
) -> torch.Tensor:
    """Estimate KL(policy || reference) from tokens that the old policy sampled.

    The value is the estimator's, times the ratio p / p_old. The gradient is p / p_old times
    log(p / p_reference) grad log p with every estimator, whose expectation is the gradient of the
    KL. The derivatives of the estimators themselves are not: that of k1 is zero in expectation, and
    that of k3 belongs to the reverse divergence (Tang & Munos 2025, arXiv 2506.09477; Liu et al.
    2025, arXiv 2510.01555). The derivative of k3 times its ratio is (DeepSeek-V3.2, arXiv
    2512.02556).

    Args:
        logprobs: Log-probs [tokens] under the policy.
        old_logprobs: Log-probs [tokens] under the policy that sampled, without gradient.
        reference_logprobs: Log-probs [tokens] under the frozen reference, without gradient.
        estimator: Name of the estimator: k1 (unbiased, may be negative), k2 (biased, smooth) or k3
            (unbiased, never negative).

    Returns:
        Estimates [tokens].
    """
    fixed = logprobs.detach()
    log_r = reference_logprobs - fixed
    ratios = (fixed - old_logprobs).exp()
    values = ratios * KL_ESTIMATORS[estimator](log_r)
    return values - ratios * log_r * (logprobs - fixed)
