"""Estimate the memory of a training stage from its config alone, before anything is loaded.

The training code runs the forward and backward pass of one micro-batch on fake tensors (shapes
without data), and the bytes alive are counted. This is done with few layers, and extended linearly
to all of them. The savings of sharding and the optimizer's state are arithmetic on top.
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
from custom_components.losses.logprobs import planned_for_cuda
from custom_components.models.attention import Documents
from custom_components.models.builders import build_on_meta
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES
from custom_components.models.lora import cast_weights
from custom_components.training.flops import model_size
from custom_components.training.model import prepare_layers
from custom_components.training.training_config import DPOConfig, TrainingConfig

OPTIMIZER_BYTES = {
    "torch.optim.AdamW": 8.0,
    "torch.optim.Adam": 8.0,
    "torch.optim.SGD": 0.0,
    # two one-byte moments and a float32 scale for each block of 256
    "torchao.optim.AdamW8bit": 2 + 2 * 4 / 256,
}
"""Bytes of optimizer state per trained parameter with float32 weights. torch's optimizers keep their
state in the dtype of the weights."""
OVERHEAD_GIB = 1.5
"""CUDA context, NCCL buffers and fragments of the allocator, GiB, by experience."""
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Hold the memory of one rank at its highest point in bytes, by what takes it.

    Attributes:
        weights: This rank's shard of the weights.
        gradients: This rank's shard of the gradients that exist at that point.
        optimizer: This rank's shard of the optimizer's state.
        reference: A second, frozen model (GRPO's KL term).
        gathered: Full weights of the layers at work, under sharding.
        activations: Activations saved for backward, and temporary tensors.
        engine: Memory that the rollout engine reserves.
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
        """Return the sum without the engine, bytes."""
        return sum(vars(self).values()) - self.engine


class PeakBytes(TorchDispatchMode):
    """Count the bytes of all storages that operations make within it.

    Attributes:
        alive: Bytes of the storages that exist now.
        peak: Most bytes that existed at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave out the storages of tensors that exist already."""
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


@dataclass(frozen=True)
class MicroBatchPass:
    """Describe the forward and backward pass of one micro-batch.

    Every token counts as scored, and documents are as long as `max_seq_len` allows: the most that
    a config can ask for.

    Attributes:
        model: `model` node of the config, as JSON.
        dtype, weights_dtype, head_chunk_size, max_seq_len: Keys of the config.
        checkpointed_layers: See `prepare_layers`.
        tokens: Tokens of the micro-batch.
        entropy: Whether the head also computes entropies, as in RL.
        gpu: Whether a GPU computes it.
    """

    model: str
    dtype: str
    weights_dtype: str
    checkpointed_layers: int | None
    head_chunk_size: int
    max_seq_len: int
    tokens: int
    entropy: bool
    gpu: bool

    @classmethod
    def of(cls, cfg: TrainingConfig, entropy: bool, gpu: bool) -> "MicroBatchPass":
        """Return the largest micro-batch of a config."""
        documents_per_row = 2 if isinstance(cfg, DPOConfig) else 1
        return cls(
            model=json.dumps(cfg.model),
            dtype=cfg.dtype,
            weights_dtype=cfg.weights_dtype,
            checkpointed_layers=cfg.checkpointed_layers,
            head_chunk_size=cfg.head_chunk_size,
            max_seq_len=cfg.max_seq_len,
            tokens=max(cfg.max_tokens_per_micro_batch, documents_per_row * cfg.max_seq_len),
            entropy=entropy,
            gpu=gpu,
        )


@functools.lru_cache(maxsize=256)  # the stages of a chain are often alike
def pass_peak(batch: MicroBatchPass, layers: int, keep_gradients: bool) -> float:
    """Return the most bytes that exist at once in a pass, besides the weights.

    Args:
        batch: The pass.
        layers: Number of the model's layers to run.
        keep_gradients: Keep the gradients; otherwise drop each as soon as it is complete.
    """
    whole, rest = divmod(batch.tokens, batch.max_seq_len)
    documents = Documents((batch.max_seq_len,) * whole + ((rest,) if rest else ()))
    model = build_on_meta(json.loads(batch.model))
    model.layers = model.layers[:layers]
    with FakeTensorMode():
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))
        cast_weights(model, DTYPES[batch.dtype], DTYPES[batch.weights_dtype])
        if batch.dtype == "bf16":  # FSDP casts a layer's gathered weights and its inputs
            for parameter in model.layers.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
            model.tok_embeddings.register_forward_hook(lambda _, __, h: h.to(torch.bfloat16))
        prepare_layers(model, False, batch.checkpointed_layers)
        if not keep_gradients:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_drop_gradient)
        tokens = torch.zeros(1, batch.tokens, dtype=torch.int64)
        inputs = {
            "mask": documents,
            "input_pos": documents.positions(),
            "targets": tokens,
            "scored": torch.arange(batch.tokens),
            "chunk_size": batch.head_chunk_size,
            "entropy": batch.entropy,
        }
        with planned_for_cuda() if batch.gpu else nullcontext(), PeakBytes() as count:
            count.ignore([*model.parameters(), *model.buffers()])
            output = model(tokens, **inputs)
            (output[0] if batch.entropy else output).sum().backward()
    return count.peak


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def stage_memory(
    cfg: TrainingConfig,
    ranks: int,
    entropy: bool = False,
    reference: bool = False,
    engine: float = 0.0,
    gpu: bool = True,
) -> Memory:
    """Estimate the peak memory of a rank of a training stage.

    Args:
        cfg: Config of the stage.
        ranks: Number of ranks that the model is sharded over (FSDP2).
        entropy: Compute entropies beside log-probs, as RL does.
        reference: Keep a frozen copy of the model. With LoRA there is none: the model without its
            adapters is the reference.
        engine: Bytes that the rollout engine reserves.
        gpu: Whether a GPU computes, whose head multiplies in half precision.

    Raises:
        UserError: When the memory of the optimizer's state is not known.
    """
    component = cfg.optimizer["_component_"]
    if component not in OPTIMIZER_BYTES:
        raise UserError(
            f"optimizer: the memory of {component} is not known; known: "
            f"{', '.join(OPTIMIZER_BYTES)}"
        )
    state_bytes = OPTIMIZER_BYTES[component]
    if cfg.weights_dtype == "bf16" and component.startswith("torch."):
        state_bytes /= 2
    model = build_on_meta(cfg.model)
    cast_weights(model, DTYPES[cfg.dtype], DTYPES[cfg.weights_dtype])
    parameters, layer_parameters = list(model.parameters()), list(model.layers[0].parameters())
    layers = len(model.layers)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    has_adapters = trained != model_size(model)
    weights, layer_weights = size_of(parameters), size_of(layer_parameters)
    gathered = 0.0
    half = cfg.dtype == "bf16"
    if ranks > 1 or half:
        # the root's weights stay; one layer is at work while the next is gathered; the same again
        # in gradients before they are reduced
        root = weights - layers * layer_weights
        of_layer = 2 * sum(p.numel() for p in layer_parameters) if half else layer_weights
        gathered = (root + 2 * of_layer) * (1 if has_adapters else 2)
    gradients = size_of(p for p in parameters if p.requires_grad)
    layer_gradients = size_of(p for p in layer_parameters if p.requires_grad)
    # activations are highest where backward begins; gradients where it ends, one layer still at work
    batch = MicroBatchPass.of(cfg, entropy, gpu)
    few = 2 * (cfg.checkpointed_layers or 1)
    fewer, more = (pass_peak(batch, n, keep_gradients=False) for n in (few, 2 * few))
    all_activations = fewer + (layers - few) / few * (more - fewer)
    last_layer = pass_peak(batch, 1, keep_gradients=True)
    points = [
        (0.0, all_activations),
        (layer_gradients * (layers - 1), last_layer),
        (gradients, 0.0),
    ]
    gradients_there, activations = max(points, key=lambda p: p[0] / ranks + p[1])
    copy = trained * DTYPES[cfg.dtype].itemsize if reference and not has_adapters else 0.0
    return Memory(
        weights=weights / ranks,
        gradients=gradients_there / ranks,
        optimizer=state_bytes * trained / ranks,
        reference=copy / ranks,
        gathered=gathered,
        activations=activations,
        engine=engine,
    )


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def kv_bytes_per_token(model: Decoder, element_size: int = 2) -> int:
    """Return the bytes of one token in the KV cache, over all layers."""
    size = model.size
    return 2 * size.num_layers * size.num_kv_heads * size.head_dim * element_size
