"""Set up process group, device and FSDP2, the same way from one CPU to many nodes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from custom_components.config import UserError
from custom_components.models.decoder import Decoder
from custom_components.runs.processes import die_with_parent

LOST_AFTER = timedelta(minutes=30)
"""Wait for another rank in a collective after which that rank counts as lost."""
PATIENCE = timedelta(days=30)
"""The same where ranks work on their own for any time: torchrun ends them when one has died."""


@dataclass(frozen=True)
class World:
    """Describe this process among all.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: device that this process computes on.
    """

    rank: int
    size: int
    device: torch.device

    def describe(self) -> str:
        """Return the number of ranks and their device."""
        return describe(self.size, self.device)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def sum(self, value: float) -> float:
        """Return the sum of a number over all ranks."""
        if self.size == 1:
            return value
        return self.sums({"value": value})["value"]

    def max(self, value: float) -> float:
        """Return the largest of all ranks' numbers."""
        return max(self.gather([value]))

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sums of several numbers over all ranks, which must pass the same keys."""
        return dict(zip(values, self.sum_tensor(list(values.values())).tolist(), strict=True))

    def sum_tensor(self, values: Any) -> torch.Tensor:
        """Return the sum of an array over all ranks, float64 on CPU."""
        total = torch.as_tensor(values, dtype=torch.float64).clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, items: list[Any]) -> list[Any]:
        """Return all ranks' items on every rank, in the order of the ranks."""
        if self.size == 1:
            return items
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]


def describe(size: int, device: torch.device) -> str:
    """Return the number of ranks and their device: `8 x NVIDIA H100 80GB HBM3`, `2 x cpu`."""
    return f"{size} x {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'}"


def device_type(device: str) -> str:
    """Resolve a config's `device` to `cpu` or `cuda`: auto is cuda if torch sees one.

    Raises:
        UserError: if `device` is not auto, cpu or cuda, or is cuda without a CUDA device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, not {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device; set device=cpu")
    return device


def rank_device(device: str) -> torch.device:
    """Return the device of this rank, and make it the current one.

    A rank sees one GPU only (see `custom_components.see_one_gpu`).

    Args:
        device: cpu, cuda, or auto (cuda if torch sees one).

    Raises:
        UserError: see `device_type`; also if there are more ranks than GPUs.
    """
    device = device_type(device)
    if device == "cpu":
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU of its own, for this node shows "
            f"{torch.cuda.device_count()}; lower --nproc_per_node"
        )
    target = torch.device("cuda", local_rank)
    torch.cuda.set_device(target)
    return target


@contextmanager
def setup_world(device: str, uneven: bool = False, alone: bool = False) -> Iterator[World]:
    """Join the process group that torchrun announces, if any, and leave it at the end.

    Args:
        device: cpu, cuda, or auto (cuda if torch sees one).
        uneven: let ranks work on their own for any time before they wait for each other on the CPU;
            otherwise, and between GPUs, a rank that is minutes late counts as lost.
        alone: form a group also of a single process, which FSDP needs (see `shard`).

    Raises:
        UserError: see `rank_device`; also if some ranks have a GPU and others do not.
    """
    target = rank_device(device)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        # FSDP needs a group, and an engine would make one of its own.
        needed = alone or (uneven and target.type == "cuda")
        backend = "gloo" if target.type == "cpu" else "cpu:gloo,cuda:nccl"
        with lone_process_group(backend) if needed else nullcontext():
            yield World(0, 1, target)
        return
    # gloo serves the CPU tensors (counts, barriers, checkpoints) beside nccl.
    die_with_parent()  # a killed launcher must not leave ranks behind that keep writing
    dist.init_process_group(
        "gloo" if target.type == "cpu" else "cpu:gloo,cuda:nccl",
        timeout=PATIENCE if uneven else LOST_AFTER,
    )
    if target.type == "cuda":
        backend: Any = dist.group.WORLD._get_backend(target)  # type: ignore[union-attr]
        backend._set_default_timeout(LOST_AFTER)
    world = World(rank, size, target)
    try:
        if len(set(world.gather([target.type]))) > 1:
            raise UserError(
                "some ranks have a GPU and others do not; lower --nproc_per_node to the number of "
                "GPUs of a node, or set device=cpu"
            )
        yield world
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def lone_process_group(backend: str = "cpu:gloo,cuda:nccl") -> Iterator[None]:
    """Keep a process group of this process alone.

    An engine would otherwise make one with nccl only, and checkpoints in the background need gloo.

    Args:
        backend: backends by device.
    """
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def shard(model: Decoder, world: World, half: bool) -> None:
    """Shard a model over all ranks with FSDP2, which also does mixed precision.

    Each layer is a group; embedding, final norm and output layer belong to the root. With `half`
    a layer's weights are gathered, and its activations computed, in bf16, while gradients are
    summed over the ranks in float32; the root keeps the dtype of the weights, since the head casts
    them itself (see `losses.logprobs`). A single process needs this only with `half`.

    Args:
        model: decoder, on the meta device or any other.
        world: this process among all.
        half: compute the layers in bf16.
    """
    if world.size == 1 and not half:
        return
    dtype = torch.bfloat16 if half else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if half else None)
    for layer in model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, reshard_after_forward=True)


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether `shard` has made a model's weights parts of a whole."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def load_full_state_dict(
    model: torch.nn.Module, state_dict: dict[str, torch.Tensor], world: World
) -> None:
    """Load a full (unsharded) state dict, which only rank 0 needs, into a sharded model."""
    if not is_sharded(model):
        model.load_state_dict(state_dict, strict=True)
        return
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
    weights: dict[str, Any] = dict(state_dict) if world.rank == 0 else {}
    set_model_state_dict(model, weights, options=options)


def full_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole model's weights: on CPU on rank 0, empty on the other ranks.

    Args:
        model: model, sharded or not.
    """
    if not is_sharded(model):
        return {k: v.detach().cpu() for k, v in model.state_dict().items()}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))
