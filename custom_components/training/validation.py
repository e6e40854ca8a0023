"""Measure the loss on held-out packs, and keep track of the best value so far."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer


@dataclass
class BestSoFar:
    """Keep the lowest of the values seen so far, such as a validation loss, and its step.

    Attributes:
        best: lowest value.
        best_step: step of the lowest value.
        waited: number of values since.
    """

    best: float = math.inf
    best_step: int = 0
    waited: int = 0

    def update(self, step: int, value: float, min_delta: float) -> bool:
        """Add a value, and return whether it is the best by more than `min_delta`."""
        if value < self.best - min_delta:
            self.best = value
            self.best_step = step
            self.waited = 0
            return True
        self.waited += 1
        return False


def validation_losses(
    trainer: Trainer, tables: dict[str, Any], max_packs: int, document_mask: bool = True
) -> dict[str, float]:
    """Compute the mean loss per scored token, of each domain's packs and of all.

    Args:
        trainer: trainer that runs the model.
        tables: {domain: packs}.
        max_packs: number of packs of each domain to use, the first ones.
        document_mask: see `collate`.

    Returns:
        {"val_loss", "val_loss_<domain>"...}.
    """
    losses, sums, scored = {}, 0.0, 0
    ranks = trainer.world.size
    size = -(-trainer.cfg.batch_size // ranks) * ranks
    trainer.model.eval()
    with torch.no_grad():
        for domain, rows in tables.items():
            total, count = 0.0, 0
            indices = list(range(min(max_packs, len(rows))))
            # Repeat the first packs until their number is a multiple of the rank count, so that
            # every rank gets one.
            indices += [i % len(indices) for i in range(-len(indices) % ranks)]
            for start in range(0, len(indices), size):
                batch = global_batch(trainer, rows, indices[start : start + size], document_mask)
                share = sum(float(x) for x in next_token_losses(trainer, batch))
                total += trainer.world.sum(share) * batch.scored
                count += batch.scored
            losses[f"val_loss_{domain}"] = total / count
            sums, scored = sums + total, scored + count
    trainer.model.train()
    return {"val_loss": sums / scored, **losses}
