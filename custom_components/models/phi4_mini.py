"""Builders of the Phi-4-mini family (Phi3ForCausalLM with LongRoPE and tied embeddings)."""

from collections.abc import Sequence

from custom_components.models.decoder import Decoder, build_decoder
from custom_components.models.longrope import LongRoPE, RopeFactor
from custom_components.models.lora import LORA_MODULES

# microsoft/Phi-4-mini-instruct, config.json
PHI4_MINI_LONG_FACTOR = (
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
    2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845,
    5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158,
    11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105,
    25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71,
    32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)  # fmt: skip


def phi4_mini(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    original_max_seq_len: int,
    short_factor: Sequence[float],
    long_factor: Sequence[float],
    rope_factor: RopeFactor = "long",
    partial_rotary_factor: float = 0.75,
    rope_base: float = 10_000.0,
    norm_eps: float = 1e-5,
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """A decoder of Phi-4-mini's shape: GQA, SwiGLU, RMSNorm, LongRoPE on part of each head,
    input and output embeddings tied, no biases.

    Args:
        vocab_size: rows of the embedding.
        num_layers, num_heads, num_kv_heads, embed_dim, intermediate_dim: the usual sizes.
        max_seq_len, original_max_seq_len: lengths after and before LongRoPE's extension.
        short_factor, long_factor: frequency divisors, rotary_dim / 2 each.
        rope_factor: LongRoPE's branch, `short` or `long` (`by_length` for parity tests only).
        partial_rotary_factor: share of each head's dimensions that rotate.
        rope_base: rotary base.
        norm_eps: epsilon of the RMS norms.
        lora_rank: rank of the LoRA adapters, which alone are trained; 0 trains the whole model.
        lora_alpha: their output is scaled by lora_alpha / lora_rank.
        lora_modules: which linear layers get one.

    Returns:
        `Decoder` with random weights.
    """
    head_dim = embed_dim // num_heads
    rope = LongRoPE(
        head_dim=head_dim,
        rotary_dim=int(head_dim * partial_rotary_factor),
        max_seq_len=max_seq_len,
        original_max_seq_len=original_max_seq_len,
        short_factor=short_factor,
        long_factor=long_factor,
        rope_factor=rope_factor,
        base=rope_base,
    )
    return build_decoder(
        rope,
        vocab_size,
        num_layers,
        num_heads,
        num_kv_heads,
        embed_dim,
        intermediate_dim,
        max_seq_len,
        norm_eps,
        lora_rank,
        lora_alpha,
        lora_modules,
    )


def phi4_mini_3_8b(
    rope_factor: RopeFactor = "long",
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """microsoft/Phi-4-mini-instruct: 3,836,021,760 parameters. Arguments as for `phi4_mini`."""
    return phi4_mini(
        vocab_size=200_064,
        num_layers=32,
        num_heads=24,
        num_kv_heads=8,
        embed_dim=3072,
        intermediate_dim=8192,
        max_seq_len=131_072,
        original_max_seq_len=4096,
        short_factor=(1.0,) * 48,
        long_factor=PHI4_MINI_LONG_FACTOR,
        rope_factor=rope_factor,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_modules=lora_modules,
    )


def phi4_mini_tiny(
    vocab_size: int = 88,
    rope_factor: RopeFactor = "long",
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """The same shape at about 2M parameters: the `tiny` track, minutes on a CPU. Arguments as for
    `phi4_mini`.

    Heads of 32 are the smallest that vLLM's CPU build accepts; a quarter of each does not
    rotate, and the context is extended 4 times by LongRoPE, as the real model's is 32 times.
    """
    return phi4_mini(
        vocab_size=vocab_size,
        num_layers=4,
        num_heads=6,
        num_kv_heads=2,
        embed_dim=192,
        intermediate_dim=640,
        max_seq_len=1024,
        original_max_seq_len=256,
        short_factor=(1.0,) * 12,
        long_factor=tuple(1.0 + 0.25 * i for i in range(12)),
        rope_factor=rope_factor,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_modules=lora_modules,
    )
