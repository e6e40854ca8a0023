"""Make micro-batches from rows: the same global batch for any number of ranks and any restart."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from custom_components.config import UserError
from custom_components.data.packing import IGNORE
from custom_components.models.attention import Documents


@dataclass(frozen=True)
class MicroBatch:
    """Hold rows laid end to end, without padding.

    Attributes:
        tokens: token ids, [1, T] int64.
        targets: next token of the same document, or -100, [1, T] int64.
        positions: positions, which restart with each document, [1, T] int64.
        scored: indices of `targets` that are not -100, [S] int64.
        documents: lengths of the documents.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    scored: torch.Tensor
    documents: Documents

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the batch on a device, without waiting for it."""

        def moved(t: torch.Tensor) -> torch.Tensor:
            return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t

        return MicroBatch(
            moved(self.tokens),
            moved(self.targets),
            moved(self.positions),
            moved(self.scored),
            self.documents.to(device),
        )


def collate(rows: list[dict[str, Any]], document_mask: bool = True) -> MicroBatch:
    """Lay rows (`input_ids`, `labels`, `lengths`) end to end.

    Labels are shifted here, within each document: the last token of a document never learns to
    predict the first token of the next.

    Args:
        rows: examples or packs.
        document_mask: whether documents are kept apart. False treats each row as a single document
            (an ablation: attention and positions run across the documents of a pack).
    """
    tokens: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for row in rows:
        tokens += row["input_ids"]
        start = 0
        for length in row["lengths"]:
            targets += [*row["labels"][start + 1 : start + length], IGNORE]
            start += length
        lengths += row["lengths"] if document_mask else [start]
    documents = Documents(tuple(lengths))
    scored = [i for i, target in enumerate(targets) if target != IGNORE]
    return MicroBatch(
        torch.tensor([tokens]),
        torch.tensor([targets]),
        documents.positions(),
        torch.tensor(scored, dtype=torch.int64),
        documents,
    )


def split_batch(
    lengths: list[int], max_tokens: int, ranks: int, costs: list[float] | None = None
) -> list[list[list[int]]]:
    """Divide a batch into micro-batches of similar cost, the same number for every rank.

    Args:
        lengths: tokens of each row.
        max_tokens: most tokens of a micro-batch; a longer row has a micro-batch of its own.
        ranks: number of ranks, which wait for the one with the most work.
        costs: work of each row, in any unit (see `training.flops.document_costs`); its tokens when
            None.

    Returns:
        [rank][micro-batch] -> indices into `lengths`.

    Raises:
        UserError: if there are fewer rows than ranks.
    """
    if len(lengths) < ranks:
        raise UserError(
            f"a batch of {len(lengths)} rows cannot be divided over {ranks} ranks; raise batch_size"
        )
    limit = max(max_tokens, *lengths) if lengths else max_tokens
    costs = costs or [float(n) for n in lengths]
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], i))
    per_rank = max(1, -(-sum(lengths) // (limit * ranks)))
    while True:
        bins: list[list[int]] = [[] for _ in range(min(per_rank * ranks, len(lengths)))]
        # Ranks meet in every forward pass, so each needs the same number of micro-batches.
        bins = bins[: len(bins) // ranks * ranks]
        totals = [0.0] * len(bins)
        tokens = [0] * len(bins)
        for i in order:
            smallest = min(range(len(bins)), key=lambda b: (totals[b], b))
            bins[smallest].append(i)
            totals[smallest] += costs[i]
            tokens[smallest] += lengths[i]
        if max(tokens) <= limit or len(bins) + ranks > len(lengths):
            break
        per_rank += 1
    return [[sorted(b) for b in bins[rank::ranks]] for rank in range(ranks)]


def batch_order(rows: int, batch_size: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the row indices of batch after batch, for ever; each epoch has a fresh order.

    A resumed run skips the batches that it has seen. The last batch of an epoch is filled from the
    next epoch, so every batch has its full size.

    Args:
        rows: number of rows.
        batch_size: rows in a batch.
        seed: seed of the orders.

    Yields:
        (epoch of the batch's first row, indices).
    """
    epoch = -1
    queue: list[int] = []
    while True:
        first = epoch if queue else epoch + 1
        while len(queue) < batch_size:
            epoch += 1
            order = list(range(rows))
            random.Random(f"{seed} {epoch}").shuffle(order)
            queue += order
        yield first, queue[:batch_size]
        queue = queue[batch_size:]
