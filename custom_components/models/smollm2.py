"""Build the SmolLM2 family (LlamaForCausalLM with tied embeddings)."""

from custom_components.models.decoder import Decoder, DecoderSize, Variant, build_decoder
from custom_components.models.lora import with_adapters
from custom_components.models.rotary import RotaryEmbedding, plain_frequencies


@with_adapters
def smollm2(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    rope_base: float = 100_000.0,
    norm_eps: float = 1e-5,
) -> Decoder:
    """Build a Llama-shaped decoder with tied embeddings.

    Args:
        vocab_size: rows of the embedding.
        num_layers: transformer layers.
        num_heads: query heads of a layer.
        num_kv_heads: key and value heads of a layer.
        embed_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward network.
        max_seq_len: longest sequence, tokens.
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
    rope = RotaryEmbedding(plain_frequencies(size.head_dim, rope_base))
    return build_decoder(size, [rope] * num_layers, Variant(tied=True))


@with_adapters
def smollm2_135m() -> Decoder:
    """Build HuggingFaceTB/SmolLM2-135M(-Instruct) (134,515,008 parameters)."""
    return smollm2(
        vocab_size=49_152,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        embed_dim=576,
        intermediate_dim=1536,
        max_seq_len=8192,
    )
