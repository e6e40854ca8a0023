"""Per-token log-probs from hidden states, without the full logits. SFT, DPO and GRPO share it."""

import torch
from torch.utils.checkpoint import checkpoint


def _chunk(hidden, weight, targets, temperature: float, entropy: bool):
    # autocast would round the logits to bf16: ratios and sums over long answers need float32
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.float() @ weight.float().T / temperature
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    if not entropy:
        return logprobs, None
    # without a graph: a checkpoint keeps what it recomputed for an output that backward never asks
    # for, and that would be the logits of every chunk
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
):
    """log p(target | hidden) of each scored position, in float32.

    Positions whose target is -100 cost nothing: they are taken out before the projection. The
    rest goes through the head in checkpointed chunks, so that memory holds the logits of one
    chunk whatever the length.

    Args:
        hidden: [batch, seq, dim], any float dtype.
        weight: [vocab, dim] of the output head.
        targets: [batch, seq] int64; -100 marks positions without a target.
        temperature: divides the logits before the softmax.
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

    def spread(values):
        out = torch.zeros(targets.numel(), dtype=torch.float32, device=targets.device)
        return out.index_put((scored,), torch.cat(values)).view(targets.shape)

    return (spread(logprobs), spread(entropies)) if entropy else spread(logprobs)
