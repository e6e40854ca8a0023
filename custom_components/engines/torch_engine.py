"""Sample in batches with a KV cache on the project's own decoder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Sampling
from custom_components.engines.heartbeat import beat
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES, HFCheckpointer, build_from_folder
from custom_components.models.longrope import RopeFactor, rope_factors_of
from custom_components.tokenizer.chat import ChatTokenizer


class GrowingCache(nn.Module):
    """Hold keys and values so far; attention sees only the filled part.

    It replaces torchtune's KVCache, whose update returns the whole allocation.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        shape = (batch, heads, length, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.size = 0

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append k and v [batch, heads, new, head_dim], and return all so far."""
        start = self.size
        self.size += k.shape[2]
        self.keys[:, :, start : self.size] = k
        self.values[:, :, start : self.size] = v
        return self.keys[:, :, : self.size], self.values[:, :, : self.size]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but those with these indices."""
        self.keys = self.keys[rows]
        self.values = self.values[rows]


@contextmanager
def growing_caches(model: Decoder, batch: int, length: int) -> Iterator[list[GrowingCache]]:
    """Give every attention layer a `GrowingCache`, yield the caches, and remove them again."""
    size, weight = model.size, model.head_weight
    caches = [
        GrowingCache(batch, size.num_kv_heads, length, size.head_dim, weight.dtype, weight.device)
        for _ in model.layers
    ]
    try:
        for attention, cache in zip(model.attentions, caches, strict=True):
            attention.kv_cache = cast(Any, cache)
        yield caches
    finally:
        for attention in model.attentions:
            attention.kv_cache = None


def tempered_logprobs(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Return the log-probs of the distribution to sample from.

    Args:
        logits: [batch, vocab] float32.
        temperature: divisor of the logits, > 0.
        top_p: mass that the smallest set of kept tokens reaches; the top token is always kept.

    Returns:
        [batch, vocab]; -inf outside the kept set.
    """
    logprobs = (logits / temperature).log_softmax(-1)
    if top_p >= 1.0:
        return logprobs
    ordered, index = logprobs.sort(-1, descending=True)
    probs = ordered.exp()
    ordered[probs.cumsum(-1) - probs >= top_p] = -torch.inf
    return torch.empty_like(ordered).scatter_(-1, index, ordered).log_softmax(-1)


class TorchEngine:
    """Sample with torch alone.

    Args:
        model: Hugging Face folder to serve.
        tokenizer: tokenizer with the stop and pad ids.
        rope_factor: LongRoPE's branch.
        batch_size: sequences decoded together.
        dtype: fp32 or bf16.
        device: cpu, cuda, or auto (cuda if torch sees one).
        progress: show a progress bar.
    """

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        rope_factor: RopeFactor = "long",
        batch_size: int = 128,
        dtype: str = "fp32",
        device: str = "auto",
        progress: bool = True,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"engine.dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        self.name = model
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.progress = progress
        self.checkpointer = HFCheckpointer(model)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = build_from_folder(model, rope_factor).to(self.device, DTYPES[dtype]).eval()
        self.rope_factors = rope_factors_of(self.model)
        self.version = 0

    def sleep(self) -> None:
        """Do nothing: the caches live for one call only."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights. Tensors have their names in a Hugging Face checkpoint."""
        self.model.load_state_dict(self.checkpointer.to_tune(dict(named_tensors)), strict=True)
        self.version = version

    def close(self) -> None:
        """Do nothing: nothing outlives the object."""

    @torch.no_grad()
    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in the order of the prompts.

        Raises:
            UserError: if a prompt and `max_new_tokens` exceed the model's context.
        """
        if not prompt_ids or n < 1:
            return [[] for _ in prompt_ids]
        longest = max(map(len, prompt_ids))
        if longest + sampling.max_new_tokens > self.model.max_seq_len:
            raise UserError(
                f"a prompt of {longest} tokens and max_new_tokens={sampling.max_new_tokens} exceed "
                f"the model's context of {self.model.max_seq_len}; lower max_new_tokens"
            )
        generator = torch.Generator(self.device)
        generator.manual_seed(sampling.seed if sampling.seed is not None else torch.seed())
        # Sorting by length saves padding, and rows of a batch end at about the same time.
        order = sorted(
            (i for i in range(len(prompt_ids)) for _ in range(n)), key=lambda i: len(prompt_ids[i])
        )
        results: list[list[Completion]] = [[] for _ in prompt_ids]
        with tqdm(
            total=len(order), unit="sample", desc="generate", disable=not self.progress
        ) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                done = self._batch([prompt_ids[i] for i in batch], sampling, generator)
                for i, completion in zip(batch, done, strict=True):
                    results[i].append(completion)
                bar.update(len(batch))
        return results

    def _batch(
        self, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator
    ) -> list[Completion]:
        width, total = max(map(len, prompts)), len(prompts)
        pad = torch.tensor([width - len(p) for p in prompts], device=self.device)
        tokens = torch.tensor(
            [[self.tokenizer.pad_id] * (width - len(p)) + p for p in prompts], device=self.device
        )
        columns = torch.arange(width + sampling.max_new_tokens, device=self.device)
        stop = torch.tensor(self.tokenizer.stop_ids, device=self.device)
        rows = torch.arange(total, device=self.device)  # index of each live row's sequence
        out_tokens: list[list[int]] = [[] for _ in prompts]
        out_logprobs: list[list[float]] = [[] for _ in prompts]
        finished = [False] * total
        with growing_caches(self.model, total, len(columns)) as caches:
            for length in range(width, width + sampling.max_new_tokens):
                beat()
                query = columns[length - tokens.shape[1] : length]
                keys = columns[:length]
                mask = (keys[None, None] <= query[None, :, None]) & (
                    keys[None, None] >= pad[:, None, None]
                )
                # A padded position attends to itself: a row without any key would be NaN.
                mask |= keys[None, None] == query[None, :, None]
                positions = (query[None] - pad[:, None]).clamp(min=0)
                hidden = self.model.hidden_states(tokens, mask=mask, input_pos=positions)[:, -1]
                logits = hidden.float() @ self.model.head_weight.float().T
                if sampling.temperature == 0:
                    logprobs = logits.log_softmax(-1)
                    chosen = logits.argmax(-1)
                else:
                    logprobs = tempered_logprobs(logits, sampling.temperature, sampling.top_p)
                    chosen = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
                picked = logprobs.gather(-1, chosen[:, None])[:, 0]
                ended = torch.isin(chosen, stop)
                for row, token, logprob, end in zip(
                    rows.tolist(), chosen.tolist(), picked.tolist(), ended.tolist(), strict=True
                ):
                    if not finished[row]:
                        out_tokens[row].append(token)
                        out_logprobs[row].append(logprob)
                        finished[row] = end
                live = torch.tensor([not finished[r] for r in rows.tolist()], device=self.device)
                if not live.any():
                    break
                if live.sum() <= 0.75 * len(rows):  # copying the caches costs about a step
                    keep = live.nonzero()[:, 0]
                    rows, pad, chosen = rows[keep], pad[keep], chosen[keep]
                    for cache in caches:
                        cache.keep(keep)
                tokens = chosen[:, None]
        return [
            Completion(t, lp, "stop" if end else "length", self.version)
            for t, lp, end in zip(out_tokens, out_logprobs, finished, strict=True)
        ]
