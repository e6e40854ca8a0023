"""Measure the peak memory of training steps on a CPU; print it and the estimate as JSON.

    MKL_DISABLE_FAST_MM=1 MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/step_memory.py KEY=VALUE...

The arguments override configs/tiny/midtrain.yaml. With MALLOC_MMAP_THRESHOLD_ freed memory goes
back to the system at once, and with MKL_DISABLE_FAST_MM MKL keeps no buffers between products, so
that the process holds only what is alive.
"""

import gc
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from custom_components.config import instantiate, load
from custom_components.models.decoder import Documents
from custom_components.models.hf import DTYPES
from custom_components.models.lora import cast_weights
from custom_components.training.estimate import stage_memory
from custom_components.training.trainer import prepare_layers
from custom_components.training.training_config import MidtrainConfig

cfg = load(MidtrainConfig, "configs/tiny/midtrain.yaml", sys.argv[1:])
estimate = stage_memory(cfg, ranks=1)


def field(name: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1]) * 1024


def train(length: int) -> None:
    """Build the model and take three steps of `length` tokens."""
    model = instantiate(cfg.model, "model")
    cast_weights(model, DTYPES[cfg.dtype], DTYPES[cfg.weights_dtype])
    prepare_layers(model, False, cfg.activation_checkpointing)
    optimizer = instantiate(
        cfg.optimizer, "optimizer", [p for p in model.parameters() if p.requires_grad]
    )
    whole, rest = divmod(length, cfg.max_seq_len)
    documents = Documents((cfg.max_seq_len,) * whole + ((rest,) if rest else ()))
    tokens = torch.randint(0, model.tok_embeddings.num_embeddings, (1, length))
    half = cfg.dtype == "bf16"
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
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
train(64)
gc.collect()
before = field("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
train(cfg.max_tokens_per_micro_batch)
print(json.dumps({"measured": field("VmHWM") - before, "estimated": estimate.trainer}))
