"""Builders of the SmolLM2 family (LlamaForCausalLM with tied embeddings)."""

from collections.abc import Sequence

from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings

from custom_components.models.decoder import Decoder, build_decoder
from custom_components.models.lora import LORA_MODULES


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
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """A Llama-shaped decoder with tied embeddings.

    Args:
        vocab_size: rows of the embedding.
        num_layers, num_heads, num_kv_heads, embed_dim, intermediate_dim: the usual sizes.
        max_seq_len: longest sequence.
        rope_base: rotary base.
        norm_eps: epsilon of the RMS norms.
        lora_rank: rank of the LoRA adapters, which alone are trained; 0 trains the whole model.
        lora_alpha: their output is scaled by lora_alpha / lora_rank.
        lora_modules: which linear layers get one.

    Returns:
        `Decoder` with random weights.
    """
    # halves rotate against each other, as in transformers: no permuted weights, the same rounding
    rope = Qwen2RotaryPositionalEmbeddings(
        dim=embed_dim // num_heads, max_seq_len=max_seq_len, base=rope_base
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


def smollm2_135m(
    lora_rank: int = 0, lora_alpha: float = 16.0, lora_modules: Sequence[str] = LORA_MODULES
) -> Decoder:
    """HuggingFaceTB/SmolLM2-135M(-Instruct): 134,515,008 parameters. Arguments as for `smollm2`."""
    return smollm2(
        vocab_size=49_152,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        embed_dim=576,
        intermediate_dim=1536,
        max_seq_len=8192,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_modules=lora_modules,
    )
