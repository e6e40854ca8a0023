"""Compute per-token log-probs from hidden states without the full logits, for SFT, DPO and RL."""

import torch
from torch.utils.checkpoint import checkpoint


def _chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    # Autocast would round the logits to bf16; ratios and sums over long answers need float32.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.float() @ weight.float().T / temperature
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    if not entropy:
        return logprobs, None
    # The entropy gets no gradient, and checkpointing would otherwise keep every chunk's logits
    # alive for it.
    with torch.no_grad():
        return logprobs, normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    entropy: bool = False,
    scored: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute log p(target | hidden) of each scored position, in float32.

    Positions whose target is -100 cost nothing: they are taken out before the projection. The
    rest goes through the head in checkpointed chunks, so that memory holds the logits of one
    chunk whatever the length.

    Args:
        hidden: [batch, seq, dim], any float dtype.
        weight: weight of the output head, [vocab, dim].
        targets: [batch, seq] int64; -100 marks positions without a target.
        temperature: divisor of the logits before the softmax.
        chunk_size: scored tokens per chunk.
        entropy: also return the entropy of each scored position's distribution, in nats; it has
            no gradient.
        scored: positions with a target, as indices into the flattened `targets`; looked up when
            None (on CUDA that waits for the device).

    Returns:
        [batch, seq] float32, 0 at -100; with `entropy` the pair (log-probs, entropies).
    """
    if scored is None:
        scored = (targets != -100).flatten().nonzero()[:, 0]
    hidden, flat_targets = hidden.flatten(0, 1)[scored], targets.flatten()[scored]
    logprobs, entropies = [], []
    for h, t in zip(hidden.split(chunk_size), flat_targets.split(chunk_size), strict=True):
        args = (h, weight, t, temperature, entropy)
        lp, ent = (
            checkpoint(_chunk, *args, use_reentrant=False) if h.requires_grad else _chunk(*args)
        )
        logprobs.append(lp)
        entropies.append(ent)

    def spread(values: list[torch.Tensor]) -> torch.Tensor:
        out = torch.zeros(targets.numel(), dtype=torch.float32, device=targets.device)
        return out.index_put((scored,), torch.cat(values)).view(targets.shape)

    return (spread(logprobs), spread(entropies)) if entropy else spread(logprobs)
