"""Rotate queries and keys with LongRoPE factors on part of each head.

Source: LongRoPE (arXiv 2402.13753) as Phi-4-mini uses it: the first
`partial_rotary_factor * head_dim` dimensions rotate, frequency i is divided by `factor[i]`, and
cos and sin are scaled by sqrt(1 + ln(max / original) / ln(original)), with the short and the
long factors alike.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from custom_components.models.decoder import Decoder
from custom_components.models.rotary import RotaryEmbedding, plain_frequencies

RopeFactor = Literal["short", "long", "by_length"]


class LongRoPE(nn.Module):
    """Rotate queries or keys; for torchtune's `MultiHeadAttention(pos_embeddings=)`.

    Args:
        head_dim: size of one head.
        rotary_dim: leading dimensions of a head that rotate (even, <= head_dim).
        max_seq_len: longest position + 1 the model is built for.
        original_max_seq_len: length before the extension; decides the scale and `by_length`.
        short_factor, long_factor: rotary_dim / 2 frequency divisors each.
        rope_factor: branch in use. `by_length` is transformers' rule (long as soon as the
            batch's longest position exceeds the original length): for parity only, since it
            makes a loss depend on how a batch is cut.
        base: rotary base (theta).

    Raises:
        ValueError: if a factor list has the wrong length, or `rope_factor` is unknown.
    """

    def __init__(
        self,
        head_dim: int,
        rotary_dim: int,
        max_seq_len: int,
        original_max_seq_len: int,
        short_factor: Sequence[float],
        long_factor: Sequence[float],
        rope_factor: RopeFactor = "long",
        base: float = 10_000.0,
    ) -> None:
        super().__init__()
        for name, factor in (("short_factor", short_factor), ("long_factor", long_factor)):
            if len(factor) != rotary_dim // 2:
                raise ValueError(f"{name} has {len(factor)} values, expected {rotary_dim // 2}")
        if rope_factor not in ("short", "long", "by_length"):
            raise ValueError(f"rope_factor must be short, long or by_length, not {rope_factor!r}")
        self.head_dim = head_dim
        self.rotary_dim = rotary_dim
        self.base = base
        self.original_max_seq_len = original_max_seq_len
        self.rope_factor: RopeFactor = rope_factor
        self.factors = {"short": tuple(short_factor), "long": tuple(long_factor)}
        self.scale = long_rope_scale(max_seq_len, original_max_seq_len)
        short, long = (plain_frequencies(rotary_dim, base, f) for f in self.factors.values())
        self.short = RotaryEmbedding(short, self.scale)
        self.long = RotaryEmbedding(long, self.scale)

    def forward(self, x: torch.Tensor, *, input_pos: torch.Tensor | None = None) -> torch.Tensor:
        """Rotate `x` [batch, seq, heads, head_dim] by the branch in use (see `RotaryEmbedding`)."""
        branch = self.rope_factor
        if branch == "by_length":
            longest = x.shape[1] if input_pos is None else int(input_pos.max()) + 1
            branch = "long" if longest > self.original_max_seq_len else "short"
        embedding = self.long if branch == "long" else self.short
        return embedding(x, input_pos=input_pos)


def long_rope_scale(max_seq_len: int, original_max_seq_len: int) -> float:
    """Return LongRoPE's factor of cos and sin for an extension of the context."""
    ratio = max_seq_len / original_max_seq_len
    return math.sqrt(1 + math.log(ratio) / math.log(original_max_seq_len)) if ratio > 1 else 1.0


def rope_factor_of(model: Decoder) -> RopeFactor | None:
    """Return the LongRoPE branch that a model computes, or None for other rotary embeddings."""
    return model.rope.rope_factor if isinstance(model.rope, LongRoPE) else None


def rope_factors_of(model: Decoder) -> tuple[float, ...] | None:
    """Return the LongRoPE factors of the branch in use; None for other embeddings and `by_length`."""
    rope = model.rope
    return rope.factors.get(rope.rope_factor) if isinstance(rope, LongRoPE) else None
