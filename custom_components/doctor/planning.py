"""Estimate memory and time of training stages on a device, and show them as a table."""

import dataclasses
import functools
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from custom_components.config import UserError, nearest
from custom_components.doctor.doctor_config import DoctorConfig
from custom_components.doctor.stage import Stage
from custom_components.rl.rl_config import RLConfig
from custom_components.training.estimate import (
    GIB,
    OPTIMIZER_BYTES,
    OVERHEAD_GIB,
    Memory,
    kv_bytes_per_token,
    stage_memory,
)
from custom_components.training.flops import DEVICES, known_device, model_size, training_flops
from custom_components.training.training_config import TrainingConfig


class Target(NamedTuple):
    """Hold the device that a stage runs on.

    Attributes:
        name: Name of the GPU, or `this CPU`.
        memory_gib: Its memory, GiB.
        is_gpu: Whether it is a GPU.
    """

    name: str
    memory_gib: float
    is_gpu: bool


@dataclass(frozen=True)
class Estimate:
    """Hold what a training stage needs on its device.

    Attributes:
        stage: Name of the stage.
        ranks: Number of its processes.
        target: Device of each process.
        memory: Memory of one rank at its highest point, bytes.
        need_gib: Memory taken of the device, GiB; of a CPU by all ranks together.
        kv_tokens: Tokens that the rollout engine's KV cache holds; None without a share of a GPU.
        tokens: Tokens to train on; None if they are not known.
        seconds: Duration of the training, without rollouts; None if it cannot be known.
    """

    stage: str
    ranks: int
    target: Target
    memory: Memory
    need_gib: float
    kv_tokens: float | None
    tokens: float | None
    seconds: float | None


def target_of(device: str, options: DoctorConfig) -> Target:
    """Return the device that a stage is planned for.

    Args:
        device: The stage's own key: auto, cpu or cuda.
        options: Keys of the doctor.

    Raises:
        UserError: When the device to plan for is not known.
    """
    if options.device:
        if options.device not in DEVICES:
            known = nearest(options.device, DEVICES)
            raise UserError(f"doctor.device: {options.device!r} is not known{known}")
        memory_gib = options.memory_gib or DEVICES[options.device].memory_gib
        return Target(options.device, memory_gib, True)
    if device != "cpu" and (gpu := installed_gpu()):
        return Target(gpu[0], options.memory_gib or gpu[1], True)
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Target("this CPU", options.memory_gib or installed / GIB, False)


@functools.cache
def installed_gpu() -> tuple[str, float] | None:
    """Return (name, memory in GiB) of the first GPU of this machine; None if there is none.

    nvidia-smi is asked, because torch would hold memory of the GPU for as long as this process
    lives.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, mebibytes = done.stdout.partition("\n")[0].rpartition(",")
    return (name.strip(), float(mebibytes) / 1024) if mebibytes.strip().isdigit() else None


def estimate(stage: Stage, options: DoctorConfig) -> Estimate | None:
    """Estimate a training stage from its config alone.

    Returns:
        None if the stage does not train, its model does not exist yet or has a shorter context, or
        the memory of its optimizer is not known.

    Raises:
        UserError: When the device to plan for is not known.
    """
    cfg, model = stage.cfg, stage.model
    if not isinstance(cfg, TrainingConfig) or model is None:
        return None
    # no pass can be simulated beyond the model's context; check_context reports it
    if cfg.optimizer["_component_"] not in OPTIMIZER_BYTES or cfg.max_seq_len > model.max_seq_len:
        return None
    target = target_of(cfg.device, options)
    memory = memory_of(cfg, stage.ranks, target)
    need_gib, kv_tokens = memory.trainer / GIB + OVERHEAD_GIB, None
    if target.is_gpu:
        need_gib += memory.engine / GIB
        # the engine's weights are bf16; the rest of its share is KV cache
        cache = memory.engine - 2 * model_size(model)
        kv_tokens = cache / kv_bytes_per_token(model) if memory.engine else None
    else:  # the ranks share the machine's memory; each engine has float32 weights and a cache
        engine = stage.engine
        served = 4 * model_size(model) / GIB if engine else 0.0
        cache_gib = 2.0 if stage.runs_vllm else 0.0
        need_gib = stage.ranks * (need_gib + served + engine.get("cpu_kv_cache_gib", cache_gib))
    length = options.mean_document * cfg.max_seq_len
    tokens = tokens_of(stage.name, cfg, length, options)
    device = known_device(target.name) if target.is_gpu else None
    seconds = None
    if tokens and device:
        flops = training_flops(model, tokens, length)
        seconds = flops / (stage.ranks * device.flops * options.mfu)
    return Estimate(stage.name, stage.ranks, target, memory, need_gib, kv_tokens, tokens, seconds)


def memory_of(cfg: TrainingConfig, ranks: int, target: Target) -> Memory:
    """Return the peak memory of a rank; a vLLM engine reserves its share of the device."""
    if not isinstance(cfg, RLConfig):
        return stage_memory(cfg, ranks, gpu=target.is_gpu)
    reserved = target.memory_gib * GIB * cfg.engine.get("gpu_memory_utilization", 0.0)
    reference = cfg.loss.kl_coefficient != 0
    return stage_memory(cfg, ranks, True, reference, reserved, gpu=target.is_gpu)


def tokens_of(name: str, cfg: TrainingConfig, length: float, options: DoctorConfig) -> float | None:
    """Return how many tokens a stage trains on; None if that depends on its data.

    Args:
        name: Name of the stage.
        cfg: Its config.
        length: Mean length of a document, tokens.
        options: Keys of the doctor.
    """
    if name in options.million_tokens:
        return options.million_tokens[name] * 1e6
    if not cfg.max_steps:
        return None
    responses = cfg.group_size if isinstance(cfg, RLConfig) else 1
    return cfg.max_steps * cfg.batch_size * length * responses


def show_estimates(stages: Iterable[Stage], options: DoctorConfig) -> None:
    """Print a table of what each training stage needs on one GPU; nothing if none can be estimated."""
    parts = [field.name for field in dataclasses.fields(Memory)]
    table = Table(title="one GPU at its highest point, GiB")
    for column in ("stage", "GPUs", *parts, "all", "of", "KV tokens", "tokens", "hours"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        if (needs := estimate(stage, options)) is None:
            continue
        table.add_row(
            needs.stage,
            f"{needs.ranks} x {needs.target.name}",
            *(f"{getattr(needs.memory, part) / GIB:.1f}" for part in parts),
            f"{needs.need_gib:.1f}",
            f"{needs.target.memory_gib:.0f}",
            short(needs.kv_tokens),
            short(needs.tokens),
            "" if needs.seconds is None else f"{needs.seconds / 3600:.1f}",
        )
    if table.row_count:
        Console(width=170).print(table)
        print(
            f"all includes {OVERHEAD_GIB} GiB for the CUDA context and the allocator; hours at "
            f"{options.mfu:.0%} MFU"
        )


def short(value: float | None) -> str:
    """Return a count as `5.5B`, `168.0k` or `12`; empty for None."""
    if value is None:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"
