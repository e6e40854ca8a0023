"""Add LoRA adapters (arXiv 2106.09685) to a built decoder, start them, and merge them."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, cast

import torch
from torch import nn
from torchtune.modules.peft import (
    LoRALinear,
    disable_adapter,
    get_adapter_params,
    set_trainable_params,
)

from custom_components.models.decoder import Decoder

PLACES = {
    "q_proj": ("attn", "q_proj"),
    "k_proj": ("attn", "k_proj"),
    "v_proj": ("attn", "v_proj"),
    "output_proj": ("attn", "output_proj"),
    "gate_proj": ("mlp", "w1"),
    "down_proj": ("mlp", "w2"),
    "up_proj": ("mlp", "w3"),
}
"""Linear layers of a decoder layer: the submodule and the attribute of it that hold each."""

LORA_MODULES = tuple(PLACES)
"""Names of the linear layers, which all get an adapter by default."""


@dataclass(frozen=True)
class LoRA:
    """Describe the adapters of a model: W becomes W + (alpha / rank) B A.

    Attributes:
        rank: rows of A and columns of B; 0 for no adapters.
        alpha: numerator of the scale.
        modules: names of the linear layers that get an adapter.

    Raises:
        ValueError: if `modules` names an unknown layer.
    """

    rank: int
    alpha: float = 16.0
    modules: Sequence[str] = LORA_MODULES

    def __post_init__(self) -> None:
        if unknown := set(self.modules) - set(LORA_MODULES):
            raise ValueError(
                f"lora_modules: unknown {sorted(unknown)}; valid: {list(LORA_MODULES)}"
            )


def add_adapters(model: Decoder, lora: LoRA) -> None:
    """Replace linear layers by adapted ones that keep their weights, and freeze all but adapters.

    Args:
        model: decoder on any device, also meta; unchanged if the rank is 0.
        lora: adapters to add.
    """
    if not lora.rank:
        return
    for layer in model.layers:
        for name in lora.modules:
            module, attribute = PLACES[name]
            parent = getattr(layer, module)
            setattr(parent, attribute, _adapted(getattr(parent, attribute), lora))
    set_trainable_params(model, get_adapter_params(model))


def _adapted(linear: nn.Linear, lora: LoRA) -> LoRALinear:
    with linear.weight.device:
        adapted = LoRALinear(
            linear.in_features,
            linear.out_features,
            lora.rank,
            lora.alpha,
            use_bias=linear.bias is not None,
        )
    adapted.weight = cast(nn.Parameter, linear.weight)
    adapted.bias = linear.bias
    return adapted


_ARGUMENTS = """
    lora_rank: rank of the LoRA adapters, which alone are trained; 0 trains the whole model.
    lora_alpha: the adapters' output is scaled by lora_alpha / lora_rank.
    lora_modules: linear layers that get an adapter.
"""


def with_adapters(builder: Callable[..., Decoder]) -> Callable[..., Decoder]:
    """Decorate a builder to take `lora_rank`, `lora_alpha` and `lora_modules`, and add adapters.

    The three keyword arguments join the builder's signature and docstring, where the check of a
    config's `model` node and the configuration reference find them.
    """

    def build(
        *args: Any,
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        lora_modules: Sequence[str] = LORA_MODULES,
        **kwargs: Any,
    ) -> Decoder:
        lora = LoRA(lora_rank, lora_alpha, lora_modules)
        model = builder(*args, **kwargs)
        add_adapters(model, lora)
        return model

    own, outer = inspect.signature(builder), inspect.signature(build)
    added = [p for p in outer.parameters.values() if p.kind is p.KEYWORD_ONLY]
    summary, _, arguments = inspect.cleandoc(builder.__doc__ or "").partition("\n\nArgs:\n")
    wrapper: Any = update_wrapper(build, builder)
    wrapper.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])
    wrapper.__doc__ = f"{summary}\n\nArgs:{_ARGUMENTS}{arguments}"
    return wrapper


def is_adapter(name: str) -> bool:
    """Return whether a parameter's name is that of an adapter."""
    return ".lora_a." in name or ".lora_b." in name


def adapter_scale(model: nn.Module) -> float | None:
    """Return alpha / rank of a model's adapters, or None for a model without adapters."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            return module.alpha / module.rank
    return None


def cast_weights(model: nn.Module, compute: torch.dtype, trained: torch.dtype) -> None:
    """Cast trained parameters to `trained`, and frozen matrices to `compute`.

    A frozen matrix is never updated, so it loses nothing in the dtype it is computed with. Frozen
    norms stay float32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained)
        elif parameter.dim() > 1:
            parameter.data = parameter.data.to(compute)


def initial_adapters(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Return adapters that change nothing yet: A initialised like `nn.Linear`, B zero.

    They depend on the seed and the order of the adapters alone, not on the device or the number
    of ranks.

    Args:
        model: model with adapters, on any device, also meta.
        seed: seed of the draws.

    Returns:
        state dict of the adapters, float32 on CPU.
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
    """Compute W + scale * B A for every adapted weight, in float32; the input is not modified.

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
    """Return a context in which the model computes what it did before training: the reference."""
    return disable_adapter(model)
