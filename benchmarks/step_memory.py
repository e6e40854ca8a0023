"""Measure the peak memory of training steps on a CPU; print it and the estimate as JSON.

    MKL_DISABLE_FAST_MM=1 MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/step_memory.py KEY=VALUE...

The arguments override configs/tiny/midtrain.yaml. With MALLOC_MMAP_THRESHOLD_ freed memory goes
back to the system at once, and with MKL_DISABLE_FAST_MM MKL keeps no buffers between products, so
that the process holds only what is alive.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from custom_components.config import instantiate, load
from custom_components.models.attention import Documents
from custom_components.models.builders import build_on_meta
from custom_components.training.distributed import World, setup_world
from custom_components.training.estimate import stage_memory
from custom_components.training.model import materialise, prepare_layers
from custom_components.training.training_config import MidtrainConfig

cfg = load(MidtrainConfig, "configs/tiny/midtrain.yaml", sys.argv[1:])
estimate = stage_memory(cfg, ranks=1, gpu=False)


def field(name: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1]) * 1024


def train(length: int, world: World) -> None:
    """Build the model and take three steps of `length` tokens."""
    model = build_on_meta(cfg.model)
    prepare_layers(model, False, cfg.checkpointed_layers)
    materialise(model, world, cfg.dtype, cfg.weights_dtype)
    for parameter in model.parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        torch.nn.init.normal_(local, std=0.02)
    optimizer = instantiate(
        cfg.optimizer, "optimizer", [p for p in model.parameters() if p.requires_grad]
    )
    whole, rest = divmod(length, cfg.max_seq_len)
    documents = Documents((cfg.max_seq_len,) * whole + ((rest,) if rest else ()))
    tokens = torch.randint(0, model.tok_embeddings.num_embeddings, (1, length))
    for _ in range(3):
        logprobs = model(
            tokens,
            mask=documents,
            input_pos=documents.positions(),
            targets=tokens,
            chunk_size=cfg.head_chunk_size,
        )
        (-logprobs.mean()).backward()
        del logprobs
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


# The first steps load the processor's kernels and start thread pools, which are not part of a step.
with setup_world("cpu", alone=cfg.dtype == "bf16") as one:
    train(64, one)
    gc.collect()
    before = field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    train(cfg.max_tokens_per_micro_batch, one)
print(json.dumps({"measured": field("VmHWM") - before, "estimated": estimate.trainer}))
