"""Compute what PPO adds to a policy gradient: generalised advantages and the value loss."""

import torch


def generalised_advantages(
    values: torch.Tensor, rewards: torch.Tensor, lengths: list[int], gamma: float, lam: float
) -> torch.Tensor:
    """Return the advantages of responses that are rewarded once, at their last token.

    A_t = sum over k >= 0 of (gamma lam)^k d_(t+k), with d_t = r_t + gamma V_(t+1) - V_t and V = 0
    after the last token (Schulman et al. 2016, High-Dimensional Continuous Control Using
    Generalized Advantage Estimation, arXiv 1506.02438, eq. 16). With gamma = lam = 1 it is the
    reward less the value.

    Args:
        values: Values [tokens] of the responses laid end to end; values[t] is that of the state
            from which token t was sampled.
        rewards: Rewards [responses].
        lengths: Tokens of each response; they sum to `tokens`.
        gamma: Discount per token.
        lam: Lambda; 0 trusts the next value, 1 trusts the reward.

    Returns:
        Advantages [tokens], without gradient.
    """
    parts = values.detach().split(lengths)
    padded = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    last = torch.tensor([n - 1 for n in lengths], device=values.device)[:, None]
    # Zeros follow every response, so that nothing below crosses its end.
    deltas = gamma * _later(padded, 1) - padded
    advantages = deltas.scatter_add(1, last, rewards.to(values.dtype)[:, None])
    # Each pass doubles the number of deltas that a token's sum holds: log2(length) passes.
    span = 1
    while span < padded.shape[1]:
        advantages = advantages + (gamma * lam) ** span * _later(advantages, span)
        span *= 2
    return torch.cat([row[:n] for row, n in zip(advantages, lengths, strict=True)])


def _later(rows: torch.Tensor, steps: int) -> torch.Tensor:
    """Return what stands `steps` columns later in each row, and 0 beyond its end."""
    return torch.nn.functional.pad(rows[:, steps:], (0, steps))


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return the token losses max((V - R)^2, (clip(V) - R)^2) / 2, with V clipped to old V +- clip.

    They are those of the PPO in OpenAI's Baselines; an infinite `clip` leaves the squared error.

    Args:
        values: Current values [tokens].
        old_values: Values [tokens] before this step's updates, without gradient.
        returns: Values [tokens] to predict.
        clip: Change of a value beyond which the loss does not fall.
    """
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (bounded - returns).square()) / 2
