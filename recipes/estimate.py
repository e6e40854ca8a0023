"""Memory and time of training stages, from their configs, before a GPU is taken.

    tune run recipes/estimate.py --config configs/phi4_mini/estimate.yaml
    tune run recipes/estimate.py --config configs/phi4_mini/estimate.yaml only=[dpo] device=H200 ranks=1

Memory is that of one rank at its highest point: the longest documents that the config allows, all
of their tokens scored. Time is tokens x FLOPs at an assumed share of the GPUs' peak. The run ends
with status 2 when a stage does not fit.
"""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from custom_components.config import UserError, load, nearest, option, recipe_main, required
from custom_components.io import write_json
from custom_components.models.builders import build_on_meta
from custom_components.training.estimate import GIB, OVERHEAD_GIB, kv_bytes_per_token, stage_memory
from custom_components.training.flops import DEVICES, Device, model_size, training_flops


@dataclass
class StageEstimate:
    """One stage to look at."""

    name: str = required("name in the table")
    config: str = required("YAML of the stage")
    recipe: str = option("", "recipe file; recipes/<name>.py by default")
    overrides: list[str] = option(list, "key=value for this stage")
    device: str | None = option(None, "GPU, in place of the top-level one")
    ranks: int | None = option(None, "GPUs, in place of the top-level number")
    million_tokens: float | None = option(None, "trained tokens; by default from max_steps")


@dataclass
class EstimateConfig:
    """Config of recipes/estimate.py."""

    stages: list[StageEstimate] = required("stages to look at")
    device: str = option("H100", f"GPU: {', '.join(DEVICES)}")
    ranks: int = option(8, "GPUs that a stage is sharded over")
    mfu: float = option(0.4, "share of the peak that training reaches")
    mean_document: float = option(0.5, "mean document length, as a share of max_seq_len")
    only: list[str] | None = option(None, "names of the stages; all by default")
    output: str | None = option(None, "JSON file to write the figures to")
    run_dir: str = option("runs", "folder of the chain, passed to the stages")


@recipe_main
def main(cfg: EstimateConfig) -> None:
    """Estimate memory and time."""
    for name in cfg.only or []:
        if name not in (names := [s.name for s in cfg.stages]):
            raise UserError(f"only: no stage {name!r}{nearest(name, names)}")
    table = Table(title="one GPU at its highest point, GiB")
    columns = (
        "stage",
        "GPUs",
        "weights",
        "gradients",
        "optimizer",
        "reference",
        "gathered",
        "activations",
        "engine",
        "all",
        "of",
        "KV tokens",
        "tokens",
        "hours",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "stage" else "right")
    found = []
    for stage in cfg.stages:
        if cfg.only is not None and stage.name not in cfg.only:
            continue
        figures = estimate_stage(cfg, stage)
        found.append(figures)
        parts = [
            f"{figures['memory_gib'][k]:.1f}"
            for k in (
                "weights",
                "gradients",
                "optimizer",
                "reference",
                "gathered",
                "activations",
                "engine",
            )
        ]
        table.add_row(
            stage.name,
            f"{figures['ranks']} x {figures['device']}",
            *parts,
            f"{figures['total_gib']:.1f}",
            f"{figures['device_gib']:.0f}",
            _short(figures["kv_tokens"]),
            _short(figures["tokens"]),
            f"{figures['hours']:.1f}" if figures["hours"] is not None else "",
        )
    Console(width=170).print(table)
    print(
        f"all includes {OVERHEAD_GIB} GiB for the CUDA context and the allocator; hours at {cfg.mfu:.0%} MFU"
    )
    if cfg.output:
        write_json(cfg.output, found)
    if bad := [f for f in found if f["total_gib"] > f["device_gib"]]:
        worst = bad[0]
        raise UserError(
            f"stage {worst['name']} needs {worst['total_gib']:.0f} GiB of {worst['device_gib']:.0f} on "
            f"{worst['ranks']} x {worst['device']}; more ranks, activation_checkpointing=true, a "
            "smaller max_tokens_per_micro_batch or model.lora_rank make it smaller"
        )


def _short(value: float | None) -> str:
    if value is None:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def estimate_stage(cfg: EstimateConfig, stage: StageEstimate) -> dict[str, Any]:
    """Figures of one stage.

    Raises:
        UserError: when its recipe or device is not known.
    """
    name, ranks = stage.device or cfg.device, stage.ranks or cfg.ranks
    if name not in DEVICES:
        raise UserError(f"device: {name!r} is not known{nearest(name, list(DEVICES))}")
    device: Device = DEVICES[name]
    recipe = Path(stage.recipe or f"recipes/{stage.name}.py")
    if not recipe.is_file():
        raise UserError(f"stage {stage.name}: no recipe {recipe}")
    schema = importlib.import_module(f"recipes.{recipe.stem}").main.schema
    stage_cfg = load(schema, stage.config, [f"run_dir={cfg.run_dir}", *stage.overrides])
    memory = stage_memory(stage_cfg, ranks, device.memory_gib)
    model = build_on_meta(stage_cfg.model)
    tokens = stage.million_tokens and stage.million_tokens * 1e6
    length = cfg.mean_document * stage_cfg.max_seq_len
    if not tokens and stage_cfg.max_steps:
        tokens = stage_cfg.max_steps * stage_cfg.batch_size * length
        tokens *= getattr(stage_cfg, "group_size", 1)
    flops = tokens and training_flops(model, tokens, length)
    # the weights of the served model are bf16; the rest of the engine's share is KV cache
    room = memory.engine - 2 * model_size(model)
    return {
        "name": stage.name,
        "device": name,
        "device_gib": device.memory_gib,
        "ranks": ranks,
        "parameters": model_size(model),
        "memory_gib": {k: v / GIB for k, v in asdict(memory).items()},
        "total_gib": (memory.trainer + memory.engine) / GIB + OVERHEAD_GIB,
        "kv_tokens": room / kv_bytes_per_token(model) if memory.engine else None,
        "tokens": tokens or None,
        "flops": flops or None,
        "hours": flops and flops / (ranks * device.flops * cfg.mfu) / 3600,
    }


if __name__ == "__main__":
    main()
