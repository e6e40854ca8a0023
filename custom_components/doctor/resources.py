"""Check memory, time and disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from custom_components.doctor.doctor_config import DoctorConfig
from custom_components.doctor.findings import Finding, duration
from custom_components.doctor.planning import estimate
from custom_components.doctor.stage import Stage
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES
from custom_components.rl.rl_config import RLConfig
from custom_components.training.estimate import GIB, OPTIMIZER_BYTES
from custom_components.training.flops import model_size
from custom_components.training.training_config import TrainingConfig

TIGHT = 0.9
"""Share of the memory or the free disk above which a stage is a tight fit."""


def check_memory(stage: Stage, options: DoctorConfig) -> Iterator[Finding]:
    """Check that a training stage fits its device, and say how long it takes if that is known."""
    needs = estimate(stage, options)
    if needs is None:
        return
    name, gib, _ = needs.target
    if needs.need_gib > TIGHT * gib:
        yield Finding(
            "memory",
            "error" if needs.need_gib > gib else "warning",
            f"needs about {needs.need_gib:.1f} GiB of the {gib:.1f} GiB of {name}",
            "the stage would run out of memory on its longest batch, possibly after hours",
            "activation_checkpointing=true, a smaller max_tokens_per_micro_batch, max_seq_len or "
            "engine.gpu_memory_utilization, more ranks, or model.lora_rank",
        )
    if needs.tokens and needs.seconds:
        rollouts = "; rollouts come on top" if isinstance(stage.cfg, RLConfig) else ""
        yield Finding(
            "time",
            "note",
            f"training takes about {duration(needs.seconds)} on {stage.ranks} x {name}",
            f"{needs.tokens / 1e6:,.0f}M tokens at {options.mfu:.0%} of the peak{rollouts}",
            "",
        )


def bytes_on_disk(cfg: TrainingConfig, model: Decoder) -> float:
    """Return the bytes that a training run leaves: checkpoints and the model.

    One checkpoint more than `keep_checkpoints` exists while it is written.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = DTYPES[cfg.weights_dtype].itemsize
    state = OPTIMIZER_BYTES.get(cfg.optimizer["_component_"], 8.0)
    checkpoints = (cfg.keep_checkpoints + 1) * trained * (width + state)
    return checkpoints + model_size(model) * DTYPES[cfg.save_dtype].itemsize


def bytes_there(run: Path) -> int:
    """Return the bytes of a run's checkpoints and model that are on the disk already."""
    files = [f for part in ("checkpoints", "model") for f in (run / part).rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)


def check_disk(stages: list[Stage]) -> Iterator[Finding]:
    """Check that all that training stages have yet to write fits on the disks they write to."""
    needs: dict[Path, tuple[str, float]] = {}
    for stage in stages:
        if stage.model is None or not isinstance(stage.cfg, TrainingConfig):
            continue
        folder = Path(stage.cfg.output_dir).absolute()
        # a resumed or repeated run occupies part of this space already
        more = max(0.0, bytes_on_disk(stage.cfg, stage.model) - bytes_there(folder))
        while not folder.exists():
            folder = folder.parent
        mount = next(p for p in (folder, *folder.parents) if os.path.ismount(p))
        first, before = needs.get(mount, (stage.name, 0.0))
        needs[mount] = first, before + more
    for mount, (first, need) in needs.items():
        free = shutil.disk_usage(mount).free
        if need > TIGHT * free:
            yield Finding(
                "disk",
                "error" if need > free else "warning",
                f"checkpoints and models take {need / GIB:.1f} GiB more; {free / GIB:.1f} GiB are free",
                "a full disk stops the run at a checkpoint",
                "a smaller keep_checkpoints, run_dir on another disk, or model.lora_rank",
                first,
            )
