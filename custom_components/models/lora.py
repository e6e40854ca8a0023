"""LoRA (arXiv 2106.09685) by torchtune's layers: which parameters, their start, and the merge."""

from contextlib import AbstractContextManager

import torch
from torch import nn
from torchtune.modules.peft import (
    LoRALinear,
    disable_adapter,
    get_adapter_params,
    set_trainable_params,
)

LORA_MODULES = ("q_proj", "k_proj", "v_proj", "output_proj", "gate_proj", "down_proj", "up_proj")
"""Linear layers of a decoder layer, all of which get an adapter by default."""


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return ".lora_a." in name or ".lora_b." in name


def adapter_scale(model: nn.Module) -> float | None:
    """alpha / rank of a model's adapters; None for a model without."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            return module.alpha / module.rank
    return None


def train_adapters_only(model: nn.Module) -> None:
    """Freeze everything but the adapters."""
    set_trainable_params(model, get_adapter_params(model))


def cast_weights(model: nn.Module, compute: torch.dtype, trained: torch.dtype) -> None:
    """Keep what is trained in `trained`, and frozen matrices as they are computed with, in `compute`.

    A frozen matrix is never updated, so nothing is lost by it. Frozen norms stay float32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained)
        elif parameter.dim() > 1:
            parameter.data = parameter.data.to(compute)


def initial_adapters(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Adapters that change nothing yet: A as `nn.Linear` starts, B zero, float32 on CPU.

    They follow from the seed and their order alone, whatever the device or number of ranks.

    Args:
        model: on any device, also meta.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    start = {}
    for name, parameter in model.state_dict().items():
        if is_adapter(name):
            start[name] = torch.zeros(parameter.shape)
            if ".lora_a." in name:
                nn.init.kaiming_uniform_(start[name], a=5**0.5, generator=generator)
    return start


def merge_adapters(
    weights: dict[str, torch.Tensor], scale: float | None
) -> dict[str, torch.Tensor]:
    """W + scale * B A for every adapted weight, in float32; the model's own tensors stay.

    Args:
        weights: full state dict in torchtune's names.
        scale: alpha / rank; None returns `weights`.

    Returns:
        state dict of the plain model.
    """
    if scale is None:
        return weights
    merged = {name: tensor for name, tensor in weights.items() if not is_adapter(name)}
    for name, a in weights.items():
        if name.endswith(".lora_a.weight"):
            module = name.removesuffix(".lora_a.weight")
            b = weights[f"{module}.lora_b.weight"].float()
            merged[f"{module}.weight"] = merged[f"{module}.weight"].float() + scale * (
                b @ a.float()
            )
    return merged


def adapters_off(model: nn.Module) -> AbstractContextManager[None]:
    """Within it the model computes what it did before training: the reference policy."""
    return disable_adapter(model)
