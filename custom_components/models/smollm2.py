"""Builders of the SmolLM2 family (LlamaForCausalLM with tied embeddings)."""

from torchtune.modules import RotaryPositionalEmbeddings

from custom_components.models.decoder import Decoder, build_decoder


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
    """A Llama-shaped decoder with tied embeddings.

    Args:
        vocab_size: rows of the embedding.
        num_layers, num_heads, num_kv_heads, embed_dim, intermediate_dim: the usual sizes.
        max_seq_len: longest sequence.
        rope_base: rotary base.
        norm_eps: epsilon of the RMS norms.

    Returns:
        `Decoder` with random weights.
    """
    rope = RotaryPositionalEmbeddings(
        dim=embed_dim // num_heads, max_seq_len=max_seq_len, base=rope_base
    )
    return build_decoder(
        rope, vocab_size, num_layers, num_heads, num_kv_heads, embed_dim, intermediate_dim,
        max_seq_len, norm_eps,
    )  # fmt: skip


def smollm2_135m() -> Decoder:
    """HuggingFaceTB/SmolLM2-135M(-Instruct): 134,515,008 parameters."""
    return smollm2(
        vocab_size=49_152,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        embed_dim=576,
        intermediate_dim=1536,
        max_seq_len=8192,
    )
