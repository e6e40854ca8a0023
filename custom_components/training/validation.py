"""Validation loss on held-out packs, and the rule that ends training when it saturates."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer


@dataclass
class Saturation:
    """Whether the validation loss still falls.

    Attributes:
        best: lowest loss so far, nats per token.
        best_step: when.
        waited: validations since.
    """

    best: float = math.inf
    best_step: int = 0
    waited: int = 0

    def update(self, step: int, loss: float, min_delta: float) -> bool:
        """Take a new loss in. Returns whether it is the best."""
        if loss < self.best - min_delta:
            self.best, self.best_step, self.waited = loss, step, 0
            return True
        self.waited += 1
        return False


def validation_losses(
    trainer: Trainer, tables: dict[str, Any], max_packs: int, document_mask: bool = True
) -> dict[str, float]:
    """Mean loss per scored token of each domain's packs, and over all.

    Args:
        trainer: runs the model.
        tables: {domain: packs}.
        max_packs: of each domain, the first ones.
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
            # every rank needs a pack in each batch: the first ones are seen again where they must
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
