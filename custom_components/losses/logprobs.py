"""Compute per-token log-probs from hidden states without the full logits, for SFT, DPO and RL."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_PLANNED = ContextVar("planned_for_cuda", default=False)


@contextmanager
def planned_for_cuda() -> Iterator[None]:
    """Multiply tensors without data as CUDA would, for an estimate of its memory."""
    token = _PLANNED.set(True)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def head_logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return hidden @ weight.T / temperature in float32, accumulated in float32.

    Args:
        hidden: [tokens, dim]; in half precision on CUDA alone.
        weight: [vocab, dim] in the dtype of `hidden`.
        temperature: divisor of the logits.
    """
    if hidden.dtype in (torch.bfloat16, torch.float16):
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden @ weight.T
    return logits if temperature == 1.0 else logits.div_(temperature)


class HeadLogprobs(torch.autograd.Function):
    """Compute log-probs and entropies of targets, keeping the logits of one chunk at a time.

    Products take the hidden states' dtype and accumulate in float32; the softmax is in float32.
    The backward pass computes each chunk's logits again from the saved normaliser, and adds the
    weight's gradient up in one float32 buffer. Autograd would instead keep the logits, or run the
    entropy twice, and sum a whole gradient of the weight per chunk. The entropy has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probs and entropies [tokens]; the entropies are 0 if they are not wanted.

        Args:
            ctx: autograd's context.
            hidden: [tokens, dim].
            weight: [vocab, dim], any float dtype.
            targets: [tokens] int64.
            temperature, chunk_size, entropy: see `token_logprobs`.
        """
        cast = weight.to(hidden.dtype)
        logprobs = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        normalisers, entropies = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        for start in range(0, len(targets), chunk_size):
            part = slice(start, start + chunk_size)
            logits = head_logits(hidden[part], cast, temperature)
            normaliser = logits.logsumexp(-1)
            normalisers[part] = normaliser
            logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - normaliser
            if entropy:
                probabilities = (logits - normaliser[:, None]).exp_()
                entropies[part] = normaliser - probabilities.mul_(logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normalisers)
        ctx.temperature = temperature
        ctx.chunk_size = chunk_size
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of hidden states and weight.

        The gradient of log p(target) by the logits is onehot(target) - softmax, over temperature.
        """
        hidden, weight, targets, normalisers = ctx.saved_tensors
        cast = weight.to(hidden.dtype)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        scales = gradients[0] / ctx.temperature
        for start in range(0, len(targets), ctx.chunk_size):
            part = slice(start, start + ctx.chunk_size)
            h, scale = hidden[part], scales[part, None]
            logits = head_logits(h, cast, ctx.temperature)
            of_logits = logits.sub_(normalisers[part, None]).exp_().mul_(-scale)
            of_logits = of_logits.scatter_add_(1, targets[part, None], scale).to(h.dtype)
            if of_hidden is not None:
                torch.mm(of_logits, cast, out=of_hidden[part])
            if of_weight is not None:
                _add_product(of_weight, of_logits.T, h)
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        return of_hidden, of_weight, None, None, None, None


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a @ b to `total`, which is float32 also where the factors are in half precision."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


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
    rest goes through the head in chunks, so that memory holds the logits of one chunk whatever
    the length. On CUDA the products of hidden states in half precision run in half precision and
    accumulate in float32; a CPU multiplies in float32, since its half-precision products round
    the logits.

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
    hidden = hidden.flatten(0, 1)[scored]
    if not (hidden.is_cuda or _PLANNED.get()):
        hidden, weight = hidden.float(), weight.float()
    # Autocast would round the logits of float32 inputs; ratios and sums over long answers need them.
    with torch.autocast(hidden.device.type, enabled=False):
        results = HeadLogprobs.apply(
            hidden, weight, targets.flatten()[scored], temperature, chunk_size, entropy
        )

    def spread(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        return out.index_put((scored // targets.shape[1], scored % targets.shape[1]), values)

    logprobs, entropies = (spread(values) for values in results)
    return (logprobs, entropies) if entropy else logprobs
