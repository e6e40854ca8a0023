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


class RotaryEmbedding(nn.Module):
    """Rotate queries or keys; for torchtune's `MultiHeadAttention(pos_embeddings=)`.

    The first half of the rotating dimensions turns against the second, as in transformers, so that
    weights need no permutation and rounding is equal. torchtune's Llama models turn neighbours
    against each other instead, and permute the weights.

    Args:
        frequencies: radians per position; n of them rotate the leading 2 n dimensions of a head.
        scale: factor of cos and sin (YaRN's attention factor).
        neighbours: turn neighbouring dimensions against each other.
    """

    inv_freq: torch.Tensor

    def __init__(
        self, frequencies: Sequence[float], scale: float = 1.0, neighbours: bool = False
    ) -> None:
        super().__init__()
        self.frequencies = tuple(frequencies)
        self.scale = scale
        self.neighbours = neighbours
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
        """Rotate `x`.

        Args:
            x: queries or keys [batch, seq, heads, head_dim].
            input_pos: positions [batch, seq] or [1, seq], int; 0..seq-1 when None.

        Returns:
            tensor of the shape and dtype of `x`.
        """
        if input_pos is None:
            input_pos = torch.arange(x.shape[1], device=x.device)[None]
        angle = input_pos[..., None].float() * self.inv_freq  # [batch, seq, n]
        cos = (angle.cos() * self.scale).to(x.dtype)[:, :, None]
        sin = (angle.sin() * self.scale).to(x.dtype)[:, :, None]
        half = len(self.inv_freq)
        if self.neighbours:
            pairs, rest = x.tensor_split((2 * half,), dim=-1)
            first, second = pairs.unflatten(-1, (-1, 2)).unbind(-1)
        else:
            first, second, rest = x.tensor_split((half, 2 * half), dim=-1)
        turned = first * cos - second * sin, second * cos + first * sin
        if self.neighbours:
            return torch.cat((torch.stack(turned, dim=-1).flatten(-2), rest), dim=-1)
        return torch.cat((*turned, rest), dim=-1)
