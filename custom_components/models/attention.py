"""Attend inside the documents of a packed row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

LONG = 2048
"""Tokens from which a document has an attention kernel of its own on CUDA: cuDNN's, which is faster
than the varlen kernel on long documents, and plans its work for each length it meets."""
STEP = 512
"""Multiple to which a long document's length is rounded up, so that few lengths are met."""


@dataclass(frozen=True)
class Run:
    """Describe neighbouring documents of a row on a CUDA device: one long or some short ones.

    Attributes:
        lengths: tokens of each document.
        offsets: where each document begins, and the run's end, [documents + 1] int32.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, lengths: Sequence[int]) -> "Run":
        """Return the run of documents of these lengths."""
        offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(tuple(lengths), offsets.pin_memory().to(device, non_blocking=True))

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        window: int | None,
        scale: float | None,
    ) -> torch.Tensor:
        """Attend causally inside each document, in half precision (see `document_attention`)."""
        longest = max(self.lengths)
        windowed = window is not None and longest > window
        if (
            longest >= LONG
            and not windowed
            and torch.cuda.get_device_capability(q.device) >= (9, 0)
        ):
            # Keys past a document's end come after all of its queries, which are causal.
            padding = (0, 0, 0, -longest % STEP)
            q, k, v = (F.pad(t, padding) for t in (q, k, v))
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                out = F.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scale, enable_gqa=True
                )
            return out[:, :, :longest]
        from torch.nn.attention.varlen import varlen_attn

        # The kernel counts the positions before the query's own; -1 stands for all.
        before = window - 1 if windowed else -1
        flat_q, flat_k, flat_v = (t[0].transpose(0, 1) for t in (q, k, v))
        out = varlen_attn(
            flat_q, flat_k, flat_v, self.offsets, self.offsets, longest, longest,
            scale=scale, window_size=(before, 0), enable_gqa=True,
        )  # fmt: skip
        return cast(torch.Tensor, out).transpose(0, 1)[None]


@dataclass(frozen=True)
class Documents:
    """Describe documents laid end to end in one row: the attention "mask" of packed training.

    Attributes:
        lengths: tokens of each document; they sum to the row's length.
        runs: neighbouring documents that one kernel attends to on CUDA; None on a CPU.
    """

    lengths: tuple[int, ...]
    runs: tuple["Run", ...] | None = None

    def to(self, device: torch.device) -> "Documents":
        """Return the documents with their runs on a CUDA device, without waiting for it."""
        if device.type != "cuda" or self.runs is not None:
            return self
        runs: list[list[int]] = []
        for length in self.lengths:
            if runs and length < LONG and runs[-1][-1] < LONG:
                runs[-1].append(length)
            else:
                runs.append([length])
        return Documents(self.lengths, tuple(Run.on(device, lengths) for lengths in runs))

    def positions(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return positions that restart with each document, [1, sum(lengths)] int64."""
        return torch.cat([torch.arange(n, device=device) for n in self.lengths])[None]


Mask = Documents | torch.Tensor | None
"""`Documents`, a boolean tensor [batch, seq, keys] (True = attend), or None for plain causal."""


# Documents change with every batch, and compiled code would be recompiled for each.
@torch.compiler.disable
def document_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    window: int | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attend causally inside each document.

    Memory is linear in the row's length: flash kernels on CUDA in half precision (see `Run`), and
    causal SDPA document by document elsewhere. The result equals that of each document on its own.

    Args:
        q, k, v: [batch, heads, seq, head_dim]; batch is 1 when `mask` is `Documents`. Keys and
            values may have fewer heads than queries, each for a group of neighbouring ones. With a
            tensor as mask, keys may be more than queries; the queries are those of the last
            positions.
        mask: see `Mask`.
        window: number of positions, up to its own, that a query attends to; None for all.
        scale: factor of the products of queries and keys; None for head_dim ** -0.5.

    Returns:
        [batch, heads, seq, head_dim].
    """
    packed = isinstance(mask, Documents)
    if packed and (q.shape[0] != 1 or sum(mask.lengths) != q.shape[2]):
        raise ValueError(f"documents of {sum(mask.lengths)} tokens do not fit q {tuple(q.shape)}")
    if packed and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        runs = mask.to(q.device).runs or ()
        sizes = [sum(run.lengths) for run in runs]
        parts = zip(runs, q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True)
        outs = [run.attention(rq, rk, rv, window, scale) for run, rq, rk, rv in parts]
        return torch.cat(outs, dim=2)
    if k.shape[1] != q.shape[1]:
        groups = (k.shape[1], q.shape[1] // k.shape[1])
        k, v = (t.unsqueeze(2).expand(-1, *groups, -1, -1).flatten(1, 2) for t in (k, v))
    if mask is None:
        return _causal_attention(q, k, v, window, scale)
    if not packed:
        if window is not None and k.shape[2] > window:
            mask = mask & _band(k.shape[2] - q.shape[2], k.shape[2], 0, window, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=scale)
    queries, keys, values = (t.split(mask.lengths, dim=2) for t in (q, k, v))
    documents = zip(queries, keys, values, strict=True)
    return torch.cat([_causal_attention(*d, window=window, scale=scale) for d in documents], dim=2)


def _causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, scale: float | None
) -> torch.Tensor:
    """Attend causally, block by block with a window, whose whole mask would be quadratic."""
    length = q.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    parts = []
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(0, start - window + 1)
        band = _band(start, stop, first, window, q.device)
        keys, values = k[:, :, first:stop], v[:, :, first:stop]
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, start:stop], keys, values, attn_mask=band, scale=scale
            )
        )
    return torch.cat(parts, dim=2)


def _band(start: int, stop: int, first_key: int, window: int, device: torch.device) -> torch.Tensor:
    """Return which keys first_key..stop-1 the queries start..stop-1 attend to, boolean."""
    queries = torch.arange(start, stop, device=device)[:, None]
    keys = torch.arange(first_key, stop, device=device)
    return (keys <= queries) & (keys > queries - window)
