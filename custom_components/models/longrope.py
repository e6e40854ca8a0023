"""Rotate queries and keys with LongRoPE factors on part of each head.

Source: LongRoPE (arXiv 2402.13753) as Phi-4-mini uses it: the first
`partial_rotary_factor * head_dim` dimensions rotate, frequency i is divided by `factor[i]`, and
cos and sin are scaled by sqrt(1 + ln(max / original) / ln(original)), with the short and the
long factors alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import nn

from custom_components.models.decoder import Decoder

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

    short_inv_freq: torch.Tensor
    long_inv_freq: torch.Tensor

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
        ratio = max_seq_len / original_max_seq_len
        self.scale = (
            math.sqrt(1 + math.log(ratio) / math.log(original_max_seq_len)) if ratio > 1 else 1.0
        )
        self.rope_init()

    def rope_init(self) -> None:
        """Compute the frequencies; recipes call it again after materialising from meta."""
        device = None
        if hasattr(self, "short_inv_freq") and self.short_inv_freq.device.type != "meta":
            device = self.short_inv_freq.device
        for name, factor in self.factors.items():
            # Always float32, whatever the default dtype: bf16 frequencies ruin far positions.
            exponent = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=device)
            divisor = torch.tensor(factor, dtype=torch.float32, device=device)
            inv_freq = 1.0 / (divisor * self.base ** (exponent / self.rotary_dim))
            self.register_buffer(f"{name}_inv_freq", inv_freq, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # `.to(bfloat16)` must not round the frequencies, so they are recomputed on the new device.
        super()._apply(fn, recurse)
        if self.short_inv_freq.dtype != torch.float32:
            self.rope_init()
        return self

    def forward(self, x: torch.Tensor, *, input_pos: torch.Tensor | None = None) -> torch.Tensor:
        """Rotate `x`.

        Args:
            x: queries or keys [batch, seq, heads, head_dim].
            input_pos: positions [batch, seq] (or [1, seq]), int; 0..seq-1 when None.

        Returns:
            tensor of the shape and dtype of `x`.
        """
        if input_pos is None:
            input_pos = torch.arange(x.shape[1], device=x.device)[None]
        branch = self.rope_factor
        if branch == "by_length":
            branch = "long" if int(input_pos.max()) + 1 > self.original_max_seq_len else "short"
        inv_freq = self.long_inv_freq if branch == "long" else self.short_inv_freq
        angle = input_pos[..., None].float() * inv_freq  # [batch, seq, rotary_dim / 2]
        cos = (angle.cos() * self.scale).to(x.dtype)[:, :, None]
        sin = (angle.sin() * self.scale).to(x.dtype)[:, :, None]
        first, second, rest = x.tensor_split((self.rotary_dim // 2, self.rotary_dim), dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def rope_factor_of(model: Decoder) -> RopeFactor | None:
    """Return the LongRoPE branch that a model computes, or None for other rotary embeddings."""
    return model.rope.rope_factor if isinstance(model.rope, LongRoPE) else None


def rope_factors_of(model: Decoder) -> tuple[float, ...] | None:
    """Return the LongRoPE factors of the branch in use, or None for other rotary embeddings."""
    return model.rope.factors[model.rope.rope_factor] if isinstance(model.rope, LongRoPE) else None
