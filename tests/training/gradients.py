"""Save the gradients of one global batch and the weights after five steps; run by torchrun.

torchrun --nproc_per_node N tests/training/gradients.py RECIPE CONFIG TABLE OUTPUT [overrides]
"""

import sys
from pathlib import Path

import torch

from custom_components.config import instantiate, load
from custom_components.data.packing import open_table
from custom_components.runs.metrics import Sums
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import setup_world
from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer

name, config, prepared, output, *overrides = sys.argv[1:]
module = __import__(f"recipes.{name}", fromlist=["main"])
cfg = load(module.main.schema, config, overrides)


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


with setup_world("cpu") as world:
    run = RunFolder(name, cfg, world)
    trainer = Trainer(cfg, run, world, instantiate(cfg.tokenizer, "tokenizer"), steps=10)
    rows = open_table(Path(prepared))
    batch = global_batch(trainer, rows, list(range(cfg.batch_size)))
    reference = module.reference_logprobs(trainer, rows) if name == "dpo" else None
    saved = {"parts": len(batch.parts)}
    for step in range(5):
        if name == "dpo":
            trainer.backward(module.pair_losses(trainer, batch, reference, Sums()))
        else:
            trainer.backward(next_token_losses(trainer, batch))
        if step == 0:
            saved["gradients"] = {n: whole(p.grad) for n, p in trainer.model.named_parameters()}
        trainer.update()
        trainer.step += 1
    saved["weights"] = {n: whole(p) for n, p in trainer.model.named_parameters()}
    if world.rank == 0:
        torch.save(saved, output)
