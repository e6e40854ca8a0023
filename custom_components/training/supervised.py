"""Divide global batches of prepared rows, and compute the next-token objective on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from custom_components.data.batching import MicroBatch, collate, split_batch
from custom_components.training.flops import document_costs
from custom_components.training.trainer import Trainer


@dataclass(frozen=True)
class GlobalBatch:
    """Hold one rank's part of a global batch.

    Attributes:
        parts: this rank's micro-batches, each with the indices of its rows.
        rows, scored, tokens: counts of the whole batch, over all ranks. They are known
            beforehand, so no split of the batch changes the loss.
        document_length: length of the document around a token, mean over the tokens.
    """

    parts: list[tuple[list[int], MicroBatch]]
    rows: int
    scored: int
    tokens: int
    document_length: float


def global_batch(
    trainer: Trainer, rows: Any, indices: list[int], document_mask: bool = True
) -> GlobalBatch:
    """Divide a global batch over ranks and micro-batches.

    Args:
        trainer: trainer with the ranks and the token limit.
        rows: Arrow table (`input_ids`, `labels`, `lengths`, `num_scored`).
        indices: indices of the global batch's rows.
        document_mask: see `collate`.
    """
    batch = rows[indices]
    lengths = [len(ids) for ids in batch["input_ids"]]
    costs = document_costs(trainer.model, batch["lengths"])
    limit = trainer.cfg.max_tokens_per_micro_batch
    parts = split_batch(lengths, limit, trainer.world.size, costs)
    columns = ("input_ids", "labels", "lengths")
    return GlobalBatch(
        parts=[
            (
                [indices[i] for i in part],
                collate([{c: batch[c][i] for c in columns} for i in part], document_mask),
            )
            for part in parts[trainer.world.rank]
        ],
        rows=len(indices),
        scored=sum(batch["num_scored"]),
        tokens=sum(lengths),
        document_length=sum(n * n for row in batch["lengths"] for n in row) / sum(lengths),
    )


def next_token_losses(trainer: Trainer, batch: GlobalBatch) -> Iterator[torch.Tensor]:
    """Yield each micro-batch's share of the mean negative log-likelihood per scored token."""
    for _, micro_batch in batch.parts:
        yield -trainer.forward_logprobs(micro_batch).sum() / batch.scored
