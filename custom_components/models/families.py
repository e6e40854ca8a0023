"""List the architectures that the decoder computes, and what their config.json means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]
"""config.json with the defaults of its family."""

SCALINGS = ("default", "linear", "llama3", "yarn")
"""Types of rotary scaling with fixed frequencies; transformers' functions compute them."""


@dataclass(frozen=True)
class Family:
    """Describe what config.json of an architecture means.

    Attributes:
        defaults: values of fields that may be absent, as transformers has them. A field that is
            neither here nor read for every family has to have a value of `FIXED`.
        fixed: fields of this family alone that the decoder does not represent, with the values
            that it computes.
        qkv_bias: the projections to queries, keys and values always have biases.
        qk_norm: queries and keys are normed.
        rope_types: types of rotary scaling.
        partial_rotary: part of a head may rotate.
        fused: weights hold queries, keys and values in one matrix, and gate and up in another.
        gemma: see `decoder.Variant`; layers with a window also have a rotary embedding of their own.
        is_sliding: whether a layer, by its number, attends within `sliding_window`.
    """

    defaults: Fields
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_types: tuple[str, ...] = SCALINGS
    partial_rotary: bool = False
    fused: bool = False
    gemma: bool = False
    is_sliding: Callable[[Fields, int], bool] = lambda fields, layer: True


def _slides_from_layer(fields: Fields, layer: int) -> bool:
    return layer >= fields["max_window_layers"]


def rotates(fields: Fields, layer: int) -> bool:
    """Return whether a layer rotates queries and keys (SmolLM3 has layers that do not)."""
    if (flags := fields.get("no_rope_layers")) is not None:
        return bool(flags[layer])  # in spite of its name, 1 is for rotation
    interval = fields.get("no_rope_layer_interval")
    return interval is None or bool((layer + 1) % interval)


FAMILIES = {
    "LlamaForCausalLM": Family(
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": None,
            "head_dim": None,
            "attention_bias": False,
        }
    ),
    "MistralForCausalLM": Family(
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": 8,
            "head_dim": None,
            "sliding_window": 4096,
        }
    ),
    "Qwen2ForCausalLM": Family(
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": 32,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "layer_types": None,
        },
        qkv_bias=True,
        is_sliding=_slides_from_layer,
    ),
    "Qwen3ForCausalLM": Family(
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "layer_types": None,
        },
        qk_norm=True,
        is_sliding=_slides_from_layer,
    ),
    "SmolLM3ForCausalLM": Family(
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "attention_bias": False,
            "rope_theta": 2_000_000.0,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": None,
        },
        is_sliding=lambda fields, layer: not rotates(fields, layer),
    ),
    "Phi3ForCausalLM": Family(
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": None,
            "original_max_position_embeddings": 4096,
            "sliding_window": None,
        },
        rope_types=("default", "longrope"),
        partial_rotary=True,
        fused=True,
    ),
    "Gemma3ForCausalLM": Family(
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "attention_bias": False,
            "query_pre_attn_scalar": 256,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "layer_types": None,
        },
        fixed={
            "hidden_act": ("gelu_pytorch_tanh",),
            "hidden_activation": ("gelu_pytorch_tanh",),
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
            "use_bidirectional_attention": (False, None),
        },
        qk_norm=True,
        gemma=True,
        is_sliding=lambda fields, layer: bool((layer + 1) % fields["sliding_window_pattern"]),
    ),
}
"""Values of `architectures` that the decoder computes."""

FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0, 0.0, None),
    "resid_pdrop": (0, 0.0, None),
    "embd_pdrop": (0, 0.0, None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "layer_types": (None,),
}
"""Fields that the decoder does not represent where a family does not read them, with the values of
them that it computes."""
