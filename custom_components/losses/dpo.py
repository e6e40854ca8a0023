"""Compute the loss of direct preference optimisation."""

import torch
from torch.nn import functional as F


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sigmoid DPO loss of each pair (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    Args:
        chosen, rejected: Log-probs [pairs] of whole responses under the policy: sums over their
            tokens, or means for the length-normalised variant.
        reference_chosen, reference_rejected: Log-probs [pairs] under the frozen reference.
        beta: How strongly the policy is held to the reference.

    Returns:
        (losses, chosen rewards, rejected rewards), each [pairs]. A reward is
        beta * (log pi - log pi_ref); rewards carry no gradient.
    """
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()
