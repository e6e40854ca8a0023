"""Run by torchrun: the gradients of one global batch, gathered, saved by rank 0.

torchrun --nproc_per_node N tests/training/gradients.py CONFIG OUTPUT [overrides]
"""

import sys
from collections import Counter
from pathlib import Path

import torch

from custom_components.config import instantiate, load
from custom_components.data.packing import open_table
from custom_components.training.distributed import setup_world
from custom_components.training.run_folder import RunFolder
from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer

name, config, prepared, output, *overrides = sys.argv[1:]
module = __import__(f"recipes.{name}", fromlist=["main"])
cfg = load(module.main.schema, config, overrides)
with setup_world("cpu") as world:
    run = RunFolder(name, cfg, [], world)
    trainer = Trainer(cfg, run, world, instantiate(cfg.tokenizer, "tokenizer"), steps=10)
    rows = open_table(Path(prepared))
    batch = global_batch(trainer, rows, list(range(cfg.batch_size)))
    if name == "dpo":
        reference = module.reference_logprobs(trainer, rows)
        trainer.backward(module.pair_losses(trainer, batch, reference, Counter()))
    else:
        trainer.backward(next_token_losses(trainer, batch))
    gradients = {
        n: (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
        for n, p in trainer.model.named_parameters()
    }
    if world.rank == 0:
        torch.save(gradients, output)
