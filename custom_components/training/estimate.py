"""Estimate the memory of a training stage from its config alone, before anything is loaded.

The training code runs the forward and backward pass of one micro-batch on fake tensors (shapes
without data), and the bytes alive are counted. It runs a few layers, and the result is extended
linearly to all. Sharding and the optimizer's state are added by arithmetic.
"""

import functools
import json
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from custom_components.config import UserError
from custom_components.models.builders import build_on_meta
from custom_components.models.decoder import Decoder, Documents
from custom_components.models.hf import DTYPES
from custom_components.models.lora import cast_weights
from custom_components.training.flops import model_size
from custom_components.training.trainer import prepare_layers
from custom_components.training.training_config import TrainingConfig

# Bytes of optimizer state per trained parameter with float32 weights; torch's states have the
# weights' dtype.
OPTIMIZER_BYTES = {
    "torch.optim.AdamW": 8.0,
    "torch.optim.Adam": 8.0,
    "torch.optim.SGD": 0.0,
    # Two one-byte moments, each with a float32 scale for every block of 256.
    "torchao.optim.AdamW8bit": 2 + 2 * 4 / 256,
}
# CUDA context, NCCL buffers and the allocator's fragmentation take about this much.
OVERHEAD_GIB = 1.5
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Hold one rank's memory at its highest point by what uses it, in bytes.

    Attributes:
        weights, gradients, optimizer: this rank's shards; gradients as far as they exist then.
        reference: second, frozen model (GRPO's KL term).
        gathered: full weights of the layers at work, under sharding.
        activations: tensors saved for backward, and temporary ones.
        engine: memory that the rollout engine reserves.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    gathered: float
    activations: float
    engine: float

    @property
    def trainer(self) -> float:
        """Return the memory of everything except the engine."""
        return sum(vars(self).values()) - self.engine


class PeakBytes(TorchDispatchMode):
    """Count the bytes of all storages that operations create within this context.

    Attributes:
        alive: bytes of the storages that exist now.
        peak: largest number of bytes that existed at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave the storages of existing tensors out of the count."""
        self._seen |= {t.untyped_storage()._cdata for t in tensors}

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, nbytes: int) -> None:
        self._seen.discard(key)
        self.alive -= nbytes


def pass_peak(
    cfg: TrainingConfig,
    layers: int,
    documents_per_row: int = 1,
    entropy: bool = False,
    keep: bool = True,
) -> float:
    """Return the most bytes at once in one micro-batch's forward and backward, besides weights.

    Args:
        cfg: config of a training recipe. Every token counts as scored, and documents are as long
            as `max_seq_len` allows: the most that the config can need.
        layers: number of the model's layers to run.
        documents_per_row: 2 for preference pairs, else 1.
        entropy: whether the head also computes entropies, as in RL.
        keep: keep the gradients; False drops each as soon as it is complete.
    """
    total = max(cfg.max_tokens_per_micro_batch, documents_per_row * cfg.max_seq_len)
    return _pass_peak(
        json.dumps(cfg.model),
        cfg.dtype,
        cfg.weights_dtype,
        cfg.activation_checkpointing,
        cfg.head_chunk_size,
        total,
        cfg.max_seq_len,
        layers,
        entropy,
        keep,
    )


@functools.lru_cache(maxsize=256)  # stages of a chain often have the same sizes
def _pass_peak(
    model_node: str,
    dtype: str,
    weights_dtype: str,
    checkpointing: bool,
    chunk_size: int,
    total: int,
    max_seq_len: int,
    layers: int,
    entropy: bool,
    keep: bool,
) -> float:
    whole, rest = divmod(total, max_seq_len)
    lengths = [max_seq_len] * whole
    if rest:
        lengths.append(rest)
    documents = Documents(tuple(lengths))
    model = build_on_meta(json.loads(model_node))
    model.layers = model.layers[:layers]
    with FakeTensorMode():
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))
        cast_weights(model, DTYPES[dtype], DTYPES[weights_dtype])
        prepare_layers(model, False, checkpointing)
        if not keep:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_drop_gradient)
        tokens = torch.zeros(1, total, dtype=torch.int64)
        inputs = {
            "mask": documents,
            "input_pos": documents.positions(),
            "targets": tokens,
            "scored": torch.arange(total),
            "chunk_size": chunk_size,
            "entropy": entropy,
        }
        with PeakBytes() as count:
            count.ignore([*model.parameters(), *model.buffers()])
            half = dtype == "bf16"
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                output = model(tokens, **inputs)
            (output[0] if entropy else output).sum().backward()
    return count.peak


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def stage_memory(cfg: TrainingConfig, ranks: int, device_gib: float) -> Memory:
    """Estimate the peak memory of one rank of a training stage.

    Args:
        cfg: config of midtrain, sft, dpo, grpo or ppo.
        ranks: number of ranks that the model is sharded over (FSDP2).
        device_gib: memory of the device, GiB, of which a vLLM engine reserves a share.

    Raises:
        UserError: if the size of the optimizer's state is not known.
    """
    component = cfg.optimizer["_component_"]
    if component not in OPTIMIZER_BYTES:
        raise UserError(
            f"optimizer: the memory of {component} is not known; known: "
            f"{', '.join(OPTIMIZER_BYTES)}"
        )
    model = build_on_meta(cfg.model)
    cast_weights(model, DTYPES[cfg.dtype], DTYPES[cfg.weights_dtype])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    state_bytes = OPTIMIZER_BYTES[component]
    if cfg.weights_dtype == "bf16" and component.startswith("torch."):
        state_bytes /= 2
    engine = getattr(cfg, "engine", None)
    engine_gib = device_gib * (engine or {}).get("gpu_memory_utilization", 0.0)
    full = trained == model_size(model)
    has_copy = engine is not None and cfg.loss.kl_coefficient and full
    gathered = 0.0
    if ranks > 1:
        # The root's weights stay gathered, and one layer is at work while the next is gathered.
        # Gradients take as much again before they are reduced.
        layer = sum(p.numel() * p.element_size() for p in model.layers[0].parameters())
        root = weights - len(model.layers) * layer
        gathered = (root + 2 * layer) * (2 if full else 1)
    options = {"documents_per_row": 2 if hasattr(cfg, "beta") else 1, "entropy": engine is not None}
    layer_gradients = sum(
        p.numel() * p.element_size() for p in model.layers[0].parameters() if p.requires_grad
    )
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    # Activations are highest at the start of backward, gradients at its end, when one layer is
    # still at work.
    two, four = (pass_peak(cfg, n, **options, keep=False) for n in (2, 4))
    highest = two + (len(model.layers) - 2) / 2 * (four - two)
    last_layer = pass_peak(cfg, 1, **options)
    earlier = layer_gradients * (len(model.layers) - 1)
    points = [(0.0, highest), (earlier, last_layer), (gradients, 0.0)]
    gradients_there, activations = max(points, key=lambda p: p[0] / ranks + p[1])
    return Memory(
        weights=weights / ranks,
        gradients=gradients_there / ranks,
        optimizer=state_bytes * trained / ranks,
        reference=trained * DTYPES[cfg.dtype].itemsize / ranks if has_copy else 0.0,
        gathered=gathered,
        activations=activations,
        engine=engine_gib * GIB,
    )


def kv_bytes_per_token(model: Decoder, element_size: int = 2) -> int:
    """Return the bytes that one token takes in the KV cache of all layers."""
    size = model.size
    return 2 * size.num_layers * size.num_kv_heads * size.head_dim * element_size
