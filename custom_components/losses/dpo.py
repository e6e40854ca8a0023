"""Direct preference optimisation."""

import torch
from torch.nn import functional as F


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sigmoid DPO (Rafailov et al. 2023, eq. 7), pair by pair.

    Args:
        chosen, rejected: [pairs] log-probs of whole responses under the policy: sums over their
            tokens (or means, for the length-normalised variant).
        reference_chosen, reference_rejected: the same under the frozen reference.
        beta: how strongly the policy is held to the reference.

    Returns:
        (losses, chosen rewards, rejected rewards), each [pairs]. A reward is
        beta * (log pi - log pi_ref); rewards carry no gradient.
    """
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()
