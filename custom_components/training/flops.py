"""FLOPs of training, and what known GPUs can do: for model FLOPs utilisation and the estimate."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        flops: dense bf16 peak, per second, by its data sheet.
        memory_gib: that a process can take, GiB.
    """

    flops: float
    memory_gib: float


DEVICES = {
    "H200": Device(989e12, 139.0),
    "H100": Device(989e12, 79.0),
    "A100": Device(312e12, 79.0),
    "L40S": Device(362e12, 44.0),
    "RTX 4090": Device(165e12, 23.5),
    "RTX 3090": Device(71e12, 23.5),
}
"""By a part of the name that torch.cuda.get_device_name gives."""


def known_device(name: str) -> Device | None:
    """The device whose name contains one of `DEVICES`; None for others."""
    return next((d for part, d in DEVICES.items() if part in name), None)


def model_size(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def training_flops(model: nn.Module, tokens: float, document_length: float) -> float:
    """Model FLOPs of training on `tokens` tokens in documents of a length; no recomputation.

    2 per weight and token forward (the tied embedding serves as the head), as much again for the
    gradients of the inputs and, where they are trained, of the weights; causal attention adds
    2 * length * width per layer and token forward.
    """
    size, trained = model_size(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    attention = model.layers[0].attn
    width = attention.num_heads * attention.head_dim
    per_token = 4 * size + 2 * trained + 3 * 2 * document_length * width * len(model.layers)
    return per_token * tokens
