"""The next-token objective on prepared rows, for midtrain and sft."""

from collections.abc import Iterator
from typing import Any

import torch

from custom_components.data.batching import MicroBatch, collate, split_batch
from custom_components.training.trainer import Trainer


def global_batch(
    trainer: Trainer, rows: Any, indices: list[int], document_mask: bool = True
) -> tuple[list[MicroBatch], int, int]:
    """This rank's micro-batches of a global batch.

    Args:
        trainer: gives the ranks and the token limit.
        rows: Arrow rows (`input_ids`, `labels`, `lengths`, `num_scored`).
        indices: rows of the global batch.
        document_mask: see `collate`.

    Returns:
        (micro-batches, scored tokens of the whole batch, tokens of the whole batch).
    """
    batch = rows[indices]
    lengths = [len(ids) for ids in batch["input_ids"]]
    parts = split_batch(lengths, trainer.cfg.max_tokens_per_micro_batch, trainer.world.size)
    columns = ("input_ids", "labels", "lengths")
    micro_batches = [
        collate([{c: batch[c][i] for c in columns} for i in part], document_mask)
        for part in parts[trainer.world.rank]
    ]
    return micro_batches, sum(batch["num_scored"]), sum(lengths)


def next_token_losses(
    trainer: Trainer, micro_batches: list[MicroBatch], scored: int
) -> Iterator[torch.Tensor]:
    """Each micro-batch's share of the mean negative log-likelihood per scored token.

    Args:
        trainer: runs the model.
        micro_batches: this rank's.
        scored: scored tokens of the whole batch, over all ranks (a count known beforehand, so
            that no split of the batch changes the loss).
    """
    for batch in micro_batches:
        yield -trainer.forward_logprobs(batch).sum() / scored
