"""Tiny random models of every supported family, written by transformers."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from custom_components.tokenizer.character import save_character_tokenizer

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + 0.01 * i for i in range(12)],
    "long_factor": [1.0 + 0.7 * i for i in range(12)],
    "original_max_position_embeddings": 32,
}


@dataclass
class TinyModel:
    """Describe a tiny model: transformers' class and the fields in which it differs from `SIZES`."""

    architecture: str
    fields: dict[str, Any] = field(default_factory=dict)

    def save_with_tokenizer(self, folder: Path, **changes: Any) -> None:
        """Write the model with the tiny track's characters, as recipes take it."""
        tokenizer = save_character_tokenizer(folder)
        stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
        self.save(folder, vocab_size=88, eos_token_id=stop, bos_token_id=None, **changes)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))

    def save(self, folder: Path, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
        """Write the model with random weights, and return it; `changes` are further fields."""
        torch.manual_seed(seed)
        builder = getattr(transformers, self.architecture)
        config = builder.config_class(**SIZES | self.fields | changes)
        model = builder(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms of ones and biases of zeros would hide their absence
                center = 0.0 if name.endswith(".bias") or "Gemma" in self.architecture else 1.0
                torch.nn.init.uniform_(parameter, center - 0.5, center + 0.5)
            else:  # far from uniform logits, so that greedy tokens are clear
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
        return model


SIZES = {
    "vocab_size": 101,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""Heads of 32, the smallest that vLLM's CPU build serves."""

TIED = {"tie_word_embeddings": True}
FAMILIES = {
    "smollm2": TinyModel("LlamaForCausalLM", TIED),
    "tinyllama": TinyModel("LlamaForCausalLM", {"num_key_value_heads": 4}),
    "llama3_1": TinyModel("LlamaForCausalLM", {"rope_parameters": LLAMA3_SCALING}),
    "llama3_2": TinyModel("LlamaForCausalLM", TIED | {"rope_parameters": LLAMA3_SCALING}),
    "llama_linear": TinyModel("LlamaForCausalLM", {"rope_parameters": LINEAR}),
    "llama_biased": TinyModel("LlamaForCausalLM", {"attention_bias": True, "head_dim": 64}),
    "mistral": TinyModel("MistralForCausalLM", {"head_dim": 64, "sliding_window": None}),
    "mistral_window": TinyModel("MistralForCausalLM", {"sliding_window": 24}),
    "qwen2_5": TinyModel("Qwen2ForCausalLM", TIED | {"sliding_window": 16, "rms_norm_eps": 1e-6}),
    "r1_distill_qwen": TinyModel("Qwen2ForCausalLM", {"sliding_window": 16}),
    "qwen2_5_yarn": TinyModel("Qwen2ForCausalLM", {"rope_parameters": YARN}),
    "qwen3": TinyModel("Qwen3ForCausalLM", TIED | {"head_dim": 64}),
    "qwen3_8b": TinyModel("Qwen3ForCausalLM", {"head_dim": 32}),
    "smollm3": TinyModel("SmolLM3ForCausalLM", TIED),
    "phi4": TinyModel("Phi3ForCausalLM"),
    "phi3_5": TinyModel(
        "Phi3ForCausalLM",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": LONG_ROPE
            | {
                "short_factor": [1.0 + 0.01 * i for i in range(16)],
                "long_factor": [1.0 + 0.7 * i for i in range(16)],
            },
        },
    ),
    "phi4_mini": TinyModel(
        "Phi3ForCausalLM",
        TIED
        | {
            "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.75,
            "rope_parameters": LONG_ROPE | {"partial_rotary_factor": 0.75},
        },
    ),
    "gemma3": TinyModel(
        "Gemma3ForCausalLM",
        TIED
        | {
            "head_dim": 64,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "query_pre_attn_scalar": 100,
        },
    ),
}
"""Models that stand for what people train, by name."""
