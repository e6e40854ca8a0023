"""Rotate queries and keys by their positions."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import nn


def plain_frequencies(
    dim: int, base: float, factors: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Return the frequencies 1 / (factor_i base ** (2 i / dim)), dim / 2 values.

    Args:
        dim: dimensions of a head that rotate.
        base: rotary base (theta).
        factors: divisors of the frequencies (LongRoPE); None for none.
    """
    # Meta is the default device while a model is built for its shapes alone.
    with torch.device("cpu"):
        powers = base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        if factors is not None:
            powers = torch.tensor(factors, dtype=torch.float32) * powers
        return tuple((1.0 / powers).tolist())


def rotate(
    x: torch.Tensor, input_pos: torch.Tensor, frequencies: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Rotate the leading dimensions of each head, their first half against their second.

    transformers does the same, so weights need no permutation and rounding is equal.

    Args:
        x: queries or keys [batch, seq, heads, head_dim].
        input_pos: positions [batch, seq] or [1, seq], int.
        frequencies: radians per position, float32; n of them rotate 2 n dimensions.
        scale: factor of cos and sin.

    Returns:
        tensor of the shape and dtype of `x`.
    """
    angle = input_pos[..., None].float() * frequencies  # [batch, seq, n]
    cos = (angle.cos() * scale).to(x.dtype)[:, :, None]
    sin = (angle.sin() * scale).to(x.dtype)[:, :, None]
    half = len(frequencies)
    first, second, rest = x.tensor_split((half, 2 * half), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


class RotaryEmbedding(nn.Module):
    """Rotate queries or keys; for torchtune's `MultiHeadAttention(pos_embeddings=)`.

    Args:
        frequencies: radians per position of each pair of rotating dimensions.
        scale: factor of cos and sin (YaRN's attention factor).
    """

    inv_freq: torch.Tensor

    def __init__(self, frequencies: Sequence[float], scale: float = 1.0) -> None:
        super().__init__()
        self.frequencies = tuple(frequencies)
        self.scale = scale
        self.rope_init()

    def rope_init(self) -> None:
        """Fill the buffer of frequencies; recipes call it again after materialising from meta."""
        device = None
        if hasattr(self, "inv_freq") and not self.inv_freq.is_meta:
            device = self.inv_freq.device
        # Always float32, whatever the default dtype: bf16 frequencies ruin far positions.
        frequencies = torch.tensor(self.frequencies, dtype=torch.float32, device=device)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # `.to(bfloat16)` must not round the frequencies, so the buffer is filled again.
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32:
            self.rope_init()
        return self

    def forward(self, x: torch.Tensor, *, input_pos: torch.Tensor | None = None) -> torch.Tensor:
        """Rotate `x` [batch, seq, heads, head_dim]; positions are 0..seq-1 if None (see `rotate`)."""
        if input_pos is None:
            input_pos = torch.arange(x.shape[1], device=x.device)[None]
        return rotate(x, input_pos, self.inv_freq, self.scale)
