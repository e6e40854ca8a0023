"""Write a run's LoRA adapters as PEFT's folder, by torchtune's own converter."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchtune.models.convert_weights import (
    tune_to_peft_adapter_config,
    tune_to_peft_adapter_weights,
)
from torchtune.modules.peft import LoRALinear

from custom_components.io import atomic_path, write_json
from custom_components.models.decoder import Decoder, DecoderSize
from custom_components.models.hf import HFCheckpointer
from custom_components.models.lora import is_adapter

Matrices = tuple[torch.Tensor, torch.Tensor]
"""An adapter's A [rank, in] and B [out, rank]."""


def save_adapter(
    state_dict: dict[str, torch.Tensor],
    model: Decoder,
    checkpointer: HFCheckpointer,
    output: str | Path,
    base: str,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors (float32), atomically.

    Args:
        state_dict: whole model with its adapters, torchtune's names.
        model: model that was trained; tells rank and alpha.
        checkpointer: checkpointer that the model's weights come from.
        output: folder to write.
        base: model that the adapters belong to, as PEFT finds it.
    """
    linear = next(m for m in model.modules() if isinstance(m, LoRALinear))
    rank, alpha, size = linear.rank, linear.alpha, checkpointer.model_config.size
    weights = {k: v.float().contiguous() for k, v in state_dict.items() if is_adapter(k)}
    modules = sorted({name.split(".")[-3] for name in weights})
    # The converter undoes the permutation of a model that rotates neighbouring dimensions. Heads
    # of two dimensions make it leave the rows of the others where they are.
    head_dim = size.head_dim if checkpointer.neighbours else 2
    peft = tune_to_peft_adapter_weights(
        weights,
        num_heads=size.num_heads * size.head_dim // head_dim,
        num_kv_heads=size.num_kv_heads * size.head_dim // head_dim,
        dim=size.embed_dim,
        head_dim=head_dim,
    )
    config = tune_to_peft_adapter_config(
        {"target_modules": modules, "r": rank, "lora_alpha": alpha}, base_model_name_or_path=base
    )
    if checkpointer.model_config.family.fused:
        peft = fused(peft, size)
        config["target_modules"] = sorted({name.split(".")[-3] for name in peft})
        config["r"] = next(t.shape[0] for name, t in peft.items() if ".lora_A." in name)
        config["lora_alpha"] = alpha / rank * config["r"]
    config |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "lora_dropout": 0.0}
    with atomic_path(output) as folder:
        folder.mkdir()
        save_file(peft, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(folder / "adapter_config.json", config)


FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Phi's matrices, and those that they hold one below the other."""


def fused(weights: dict[str, torch.Tensor], size: DecoderSize) -> dict[str, torch.Tensor]:
    """Return PEFT's weights of a model with Phi's fused matrices.

    The adapters of a matrix's parts are one adapter whose B is block-diagonal. All adapters get
    its rank, the others with rows and columns of zeros: vLLM reads one rank for all.

    Args:
        weights: PEFT's weights of the parts.
        size: sizes of the decoder.
    """
    query, key = size.num_heads * size.head_dim, size.num_kv_heads * size.head_dim
    rows = {"self_attn.q_proj": query, "self_attn.k_proj": key, "self_attn.v_proj": key}
    layers: dict[str, dict[str, Matrices]] = {}
    for name, a in weights.items():
        module, matrix, _ = name.rsplit(".", 2)
        if matrix == "lora_A":
            layer, *part = module.rsplit(".", 2)
            layers.setdefault(layer, {})[".".join(part)] = a, weights[f"{module}.lora_B.weight"]
    merged: dict[str, Matrices] = {}
    for layer, adapters in layers.items():
        for whole, parts in FUSED.items():
            a = [adapters[part][0] for part in parts if part in adapters]
            if a:
                nothing = {
                    part: torch.zeros(rows.get(part, size.intermediate_dim), 0) for part in parts
                }
                b = [adapters.pop(part)[1] if part in adapters else nothing[part] for part in parts]
                merged[f"{layer}.{whole}"] = torch.cat(a), torch.block_diag(*b)
        merged |= {f"{layer}.{part}": matrices for part, matrices in adapters.items()}
    highest = max(a.shape[0] for a, _ in merged.values())
    result = {}
    for module, (a, b) in merged.items():
        missing = highest - a.shape[0]
        result[f"{module}.lora_A.weight"] = F.pad(a, (0, 0, 0, missing))
        result[f"{module}.lora_B.weight"] = F.pad(b, (0, missing))
    return result
