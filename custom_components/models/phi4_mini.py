"""Build the Phi-4-mini family (Phi3ForCausalLM with LongRoPE and tied embeddings)."""

from collections.abc import Sequence

from custom_components.models.decoder import Decoder, DecoderSize, Variant, build_decoder
from custom_components.models.longrope import LongRoPE, RopeFactor
from custom_components.models.lora import with_adapters

# Source: config.json of microsoft/Phi-4-mini-instruct.
PHI4_MINI_LONG_FACTOR = (
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
    2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845,
    5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158,
    11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105,
    25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71,
    32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)  # fmt: skip


@with_adapters
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
) -> Decoder:
    """Build a decoder of Phi-4-mini's shape: GQA, SwiGLU, RMSNorm, LongRoPE on part of each head,
    input and output embeddings tied, no biases.

    Args:
        vocab_size: rows of the embedding.
        num_layers: transformer layers.
        num_heads: query heads of a layer.
        num_kv_heads: key and value heads of a layer.
        embed_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward network.
        max_seq_len: longest sequence after LongRoPE's extension, tokens.
        original_max_seq_len: longest sequence before the extension, tokens.
        short_factor: frequency divisors of the short branch, one for two rotating dimensions.
        long_factor: frequency divisors of the long branch, one for two rotating dimensions.
        rope_factor: LongRoPE's branch, `short` or `long` (`by_length` for parity tests only).
        partial_rotary_factor: share of each head's dimensions that rotate.
        rope_base: rotary base.
        norm_eps: epsilon of the RMS norms.

    Returns:
        `Decoder` with random weights.
    """
    size = DecoderSize(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=embed_dim // num_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim,
        max_seq_len=max_seq_len,
        norm_eps=norm_eps,
    )
    rope = LongRoPE(
        head_dim=size.head_dim,
        rotary_dim=int(size.head_dim * partial_rotary_factor),
        max_seq_len=max_seq_len,
        original_max_seq_len=original_max_seq_len,
        short_factor=short_factor,
        long_factor=long_factor,
        rope_factor=rope_factor,
        base=rope_base,
    )
    return build_decoder(size, [rope] * num_layers, Variant(tied=True))


@with_adapters
def phi4_mini_3_8b(rope_factor: RopeFactor = "long") -> Decoder:
    """Build microsoft/Phi-4-mini-instruct (3,836,021,760 parameters). Arguments as for `phi4_mini`."""
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
    )


@with_adapters
def phi4_mini_tiny(vocab_size: int = 88, rope_factor: RopeFactor = "long") -> Decoder:
    """Build the same shape at about 2M parameters: the `tiny` track, which takes minutes on a CPU.
    Arguments as for `phi4_mini`.

    Heads of 32 are the smallest that vLLM's CPU build accepts; a quarter of each does not
    rotate, and LongRoPE extends the context 4 times, where it extends the real model's 32 times.
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
    )
