"""Set the learning rate of each update by the share of the run that the update takes."""

import math
from typing import Literal

import torch


def learning_rate_factor(
    start: float, end: float, warmup: float, decay: Literal["cosine", "none"] = "cosine"
) -> float:
    """Return the factor of an update's learning rate: a linear warm-up, then half a cosine.

    The factor of the first update and that of the last one are above 0. Over N updates of equal
    size, W of which warm up, they are 1/W, 2/W, ..., 1, and then (1 + cos(pi i / (N - W))) / 2 for
    i = 0, ..., N - W - 1.

    Args:
        start, end: Shares of the run that are done before and after the update, from 0 to 1.
        warmup: Share of the run in which the factor rises; 0 for none.
        decay: cosine, or none for a constant factor after the warm-up.
    """
    if start < warmup:
        return min(1.0, end / warmup)
    if decay == "none":
        return 1.0
    return (1 + math.cos(math.pi * (start - warmup) / (1 - warmup))) / 2


class Schedule:
    """Set the learning rates of an optimizer. It has no state: the place in the run decides.

    Args:
        optimizer: Optimizer whose groups have their highest learning rates.
        warmup: Share of the run in which they rise.
        decay: See `learning_rate_factor`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup: float, decay: Literal["cosine", "none"]
    ) -> None:
        self.optimizer = optimizer
        self.warmup = warmup
        self.decay: Literal["cosine", "none"] = decay
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]

    def set(self, start: float, end: float) -> float:
        """Set the learning rates of an update, and return that of the first group.

        Args:
            start, end: Shares of the run that are done before and after the update.
        """
        factor = learning_rate_factor(start, end, self.warmup, self.decay)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            if isinstance(group["lr"], torch.Tensor):  # torchao keeps it in a tensor
                group["lr"].fill_(factor * highest)
            else:
                group["lr"] = factor * highest
        return factor * self.highest[0]
