"""Count the FLOPs of training, and name what known GPUs can do: for MFU and the estimate."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from custom_components.models.decoder import Decoder


@dataclass(frozen=True)
class Device:
    """Describe a GPU.

    Attributes:
        flops: dense bf16 peak per second, from its data sheet.
        memory_gib: memory that a process can take, GiB.
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
"""GPUs by a part of the name that torch.cuda.get_device_name returns."""


def known_device(name: str) -> Device | None:
    """Return the device whose key in `DEVICES` is part of `name`, or None."""
    return next((d for part, d in DEVICES.items() if part in name), None)


def model_size(model: nn.Module) -> int:
    """Return the number of parameters of a model, counting tied ones once."""
    return sum(p.numel() for p in model.parameters())


def training_flops(model: Decoder, tokens: float, document_length: float) -> float:
    """Return the model FLOPs of training, without recomputation.

    The forward pass takes 2 per weight and token; an embedding takes none, unless it also serves
    as the output layer. The gradients of the inputs take as many, and so do those of the trained
    weights. Causal attention adds 2 * length * width per layer and token to the forward pass.

    Args:
        model: decoder; weights that require no gradient are not trained.
        tokens: number of tokens.
        document_length: length of the document around a token, mean over the tokens.
    """
    embedding = model.tok_embeddings.weight
    multiplied = [p for p in model.parameters() if p is not embedding or p is model.head_weight]
    size = sum(p.numel() for p in multiplied)
    trained = sum(p.numel() for p in multiplied if p.requires_grad)
    return (4 * size + 2 * trained + attention_flops(model, document_length)) * tokens


def attention_flops(model: Decoder, document_length: float) -> float:
    """Return the FLOPs of training per token in causal attention, over all layers."""
    width = model.size.num_heads * model.size.head_dim
    # A query sees half of its document in the mean, or its window.
    windows = (attention.window for attention in model.attentions)
    lengths = sum(min(document_length, 2 * w) if w else document_length for w in windows)
    return 3 * 2 * lengths * width


def document_costs(model: Decoder, rows: Iterable[list[int]]) -> list[float]:
    """Return the work of training on each row, in units of a token without attention.

    A document of n tokens costs n + c n^2: the layers multiply each token by their weights, and
    causal attention each pair of tokens.

    Args:
        model: decoder.
        rows: lengths of each row's documents.
    """
    token = training_flops(model, 1, 0)
    return [sum(n + n * attention_flops(model, n) / token for n in row) for row in rows]
