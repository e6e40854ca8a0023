"""Convert state dicts between Hugging Face's names and torchtune's."""

import re
from collections.abc import Mapping

import torch
from torchtune.models.phi3._convert_weights import phi3_hf_to_tune, phi3_tune_to_hf

from custom_components.config import UserError
from custom_components.models.config_json import ModelConfig

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
LAYER = re.compile(r"(?<=layers\.)\d+")

NAMES = {
    EMBEDDING: "tok_embeddings.weight",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.attn.q_proj.weight",
    "model.layers.{}.self_attn.q_proj.bias": "layers.{}.attn.q_proj.bias",
    "model.layers.{}.self_attn.k_proj.weight": "layers.{}.attn.k_proj.weight",
    "model.layers.{}.self_attn.k_proj.bias": "layers.{}.attn.k_proj.bias",
    "model.layers.{}.self_attn.v_proj.weight": "layers.{}.attn.v_proj.weight",
    "model.layers.{}.self_attn.v_proj.bias": "layers.{}.attn.v_proj.bias",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.attn.output_proj.weight",
    "model.layers.{}.self_attn.o_proj.bias": "layers.{}.attn.output_proj.bias",
    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attn.q_norm.scale",
    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attn.k_norm.scale",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.w1.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.w2.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.w3.weight",
    "model.layers.{}.input_layernorm.weight": "layers.{}.sa_norm.scale",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.mlp_norm.scale",
    "model.norm.weight": "norm.scale",
    HEAD: "output.weight",
}
"""torchtune's names by Hugging Face's, {} for the number of a layer."""

GEMMA_NAMES = NAMES | {
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.sa_scale.scale",
    "model.layers.{}.pre_feedforward_layernorm.weight": "layers.{}.mlp_norm.scale",
    "model.layers.{}.post_feedforward_layernorm.weight": "layers.{}.mlp_scale.scale",
}
"""Names where a norm follows attention."""


def to_tune(weights: dict[str, torch.Tensor], model: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert a Hugging Face state dict; leave out old buffers of frequencies.

    Raises:
        UserError: if a name is not one of the architecture's.
    """
    weights = {k: v for k, v in weights.items() if not k.endswith("rotary_emb.inv_freq")}
    if not model.family.fused:
        return _renamed(weights, GEMMA_NAMES if model.family.gemma else NAMES)
    size = model.size
    try:
        return phi3_hf_to_tune(weights, size.num_heads, size.num_kv_heads, size.embed_dim)
    except Exception as e:  # torchtune raises nothing more specific for a name
        raise UserError(str(e)) from e


def to_hf(state_dict: dict[str, torch.Tensor], model: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert a torchtune state dict."""
    if model.family.fused:
        return phi3_tune_to_hf(state_dict)
    names = GEMMA_NAMES if model.family.gemma else NAMES
    return _renamed(state_dict, {ours: theirs for theirs, ours in names.items()})


def _renamed(weights: dict[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        layer = LAYER.search(name)
        key = LAYER.sub("{}", name)
        if key not in names:
            raise UserError(f"unexpected weight {name}")
        renamed[names[key].format(layer and layer[0])] = tensor
    return renamed
