"""Checks of memory, disk and time, by the estimate."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from custom_components.config import UserError, nearest
from custom_components.doctor.findings import DoctorConfig, Finding, Stage, duration
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES
from custom_components.rl.rl_config import RLConfig
from custom_components.training.estimate import GIB, OPTIMIZER_BYTES, OVERHEAD_GIB, stage_memory
from custom_components.training.flops import DEVICES, known_device, model_size, training_flops
from custom_components.training.training_config import TrainingConfig

TIGHT = 0.9
MFU = 0.4


def device_of(stage: Stage, options: DoctorConfig) -> tuple[str, float, bool]:
    """(name, memory in GiB, whether it is a GPU) of what the stage runs on.

    Raises:
        UserError: when the device to plan for is not known.
    """
    if options.device:
        if options.device not in DEVICES:
            known = nearest(options.device, list(DEVICES))
            raise UserError(f"doctor.device: {options.device!r} is not known{known}")
        return options.device, options.memory_gib or DEVICES[options.device].memory_gib, True
    if stage.cfg.device != "cpu" and (found := gpu()):
        return found[0], options.memory_gib or found[1], True
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "this CPU", options.memory_gib or pages / GIB, False


@functools.cache
def gpu() -> tuple[str, float] | None:
    """(name, memory in GiB) of the first GPU; None where there is none.

    By its own tool: asking torch would take memory of it for as long as this process lives.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, mebibytes = done.stdout.partition("\n")[0].rpartition(",")
    return (name.strip(), float(mebibytes) / 1024) if mebibytes.strip().isdigit() else None


def check_memory(stage: Stage, options: DoctorConfig) -> Iterator[Finding]:
    """Whether a training stage fits its device, and how long it takes where that is known."""
    cfg = stage.cfg
    if stage.model is None or cfg.optimizer["_component_"] not in OPTIMIZER_BYTES:
        return
    if cfg.max_seq_len > stage.model.max_seq_len:  # no pass to estimate; check_context says so
        return
    name, gib, gpu = device_of(stage, options)
    memory = stage_memory(cfg, stage.ranks, gib)
    need = memory.trainer / GIB + OVERHEAD_GIB
    if gpu:
        need += memory.engine / GIB
    else:  # all ranks share the machine's memory, and each engine has weights and a cache
        engine = stage.engine
        cache = 2.0 if engine.get("_component_", "").endswith("VLLMEngine") else 0.0
        served = 4 * model_size(stage.model) / GIB if engine else 0.0
        need = stage.ranks * (need + served + engine.get("cpu_kv_cache_gib", cache))
    if need > TIGHT * gib:
        yield Finding(
            "memory",
            "error" if need > gib else "warning",
            f"needs about {need:.1f} GiB of the {gib:.1f} GiB of {name}",
            "the stage would run out of memory on its longest batch, possibly after hours",
            "activation_checkpointing=true, a smaller max_tokens_per_micro_batch, max_seq_len or "
            "engine.gpu_memory_utilization, more ranks, or model.lora_rank",
        )
    device = known_device(name) if gpu else None
    if device and cfg.max_steps:
        length = 0.5 * cfg.max_seq_len
        tokens = (
            cfg.max_steps
            * cfg.batch_size
            * length
            * (cfg.group_size if isinstance(cfg, RLConfig) else 1)
        )
        seconds = training_flops(stage.model, tokens, length)
        seconds /= stage.ranks * device.flops * MFU
        yield Finding(
            "time",
            "note",
            f"training takes about {duration(seconds)} on {stage.ranks} x {name}",
            f"{tokens / 1e6:,.0f}M tokens at {MFU:.0%} of the peak; rollouts come on top",
            "",
        )


def bytes_on_disk(cfg: TrainingConfig, model: Decoder) -> float:
    """What a training run leaves: checkpoints (one more while it is written) and the model."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = DTYPES[cfg.weights_dtype].itemsize
    state = OPTIMIZER_BYTES.get(cfg.optimizer["_component_"], 8.0)
    kept = cfg.keep_checkpoints + 1
    return kept * trained * (width + state) + model_size(model) * DTYPES[cfg.save_dtype].itemsize


def bytes_there(run: Path) -> int:
    """What the disk holds already of a run's checkpoints and model."""
    files = [f for part in ("checkpoints", "model") for f in (run / part).rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)


def check_disk(stages: list[Stage]) -> Iterator[Finding]:
    """Whether all that training stages have still to write fits on the disks they write to."""
    asked: dict[Path, tuple[str, float]] = {}
    for stage in stages:
        if stage.model is None:
            continue
        folder = Path(stage.cfg.output_dir).absolute()
        # a run that goes on, or is made anew, has a part of it already
        more = max(0.0, bytes_on_disk(stage.cfg, stage.model) - bytes_there(folder))
        while not folder.exists():
            folder = folder.parent
        mount = next(p for p in (folder, *folder.parents) if os.path.ismount(p))
        first, before = asked.get(mount, (stage.name, 0.0))
        asked[mount] = first, before + more
    for mount, (first, need) in asked.items():
        free = shutil.disk_usage(mount).free
        if need > TIGHT * free:
            yield Finding(
                "disk",
                "error" if need > free else "warning",
                f"checkpoints and models take {need / GIB:.1f} GiB more; {free / GIB:.1f} GiB are free",
                "a full disk stops the run at a checkpoint",
                "a smaller keep_checkpoints, run_dir on another disk, or model.lora_rank",
            ).of(first)
