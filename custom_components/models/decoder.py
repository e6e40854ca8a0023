"""Build torchtune's decoder with attention inside documents and log-probs from its forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

from custom_components.losses.logprobs import token_logprobs


@dataclass(frozen=True)
class Documents:
    """Describe documents laid end to end in one row: the attention "mask" of packed training.

    Attributes:
        lengths: tokens of each document; they sum to the row's length.
    """

    lengths: tuple[int, ...]

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

    Memory is linear in the row's length: varlen kernels on CUDA (half precision), and causal SDPA
    document by document elsewhere. The result equals that of each document on its own.

    Args:
        q, k, v: [batch, heads, seq, head_dim]; batch is 1 when `mask` is `Documents`. With a tensor
            as mask, keys may be more than queries; the queries are those of the last positions.
        mask: see `Mask`.
        window: number of positions, up to its own, that a query attends to; None for all.
        scale: factor of the products of queries and keys; None for head_dim ** -0.5.

    Returns:
        [batch, heads, seq, head_dim].
    """
    if mask is None:
        return _causal_attention(q, k, v, window, scale)
    if not isinstance(mask, Documents):
        if window is not None and k.shape[2] > window:
            mask = mask & _band(k.shape[2] - q.shape[2], k.shape[2], 0, window, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=scale)
    if q.shape[0] != 1 or sum(mask.lengths) != q.shape[2]:
        raise ValueError(f"documents of {sum(mask.lengths)} tokens do not fit q {tuple(q.shape)}")
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        ends = torch.tensor((0, *mask.lengths), dtype=torch.int32, device=q.device).cumsum(
            0, dtype=torch.int32
        )
        longest = max(mask.lengths)
        # The kernel counts the positions before the query's own; -1 stands for all.
        before = -1 if window is None or longest <= window else window - 1
        flat_q, flat_k, flat_v = (t[0].transpose(0, 1) for t in (q, k, v))
        out = varlen_attn(
            flat_q, flat_k, flat_v, ends, ends, longest, longest, scale=scale,
            window_size=(before, 0),
        )  # fmt: skip
        return cast(torch.Tensor, out).transpose(0, 1)[None]
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


class DocumentAttention(MultiHeadAttention):
    """Extend torchtune's self-attention.

    `mask` may also be `Documents`. Queries and keys are normed before they rotate, as in Qwen3 and
    Gemma 3, where torchtune norms them afterwards.

    Attributes:
        window, scale: see `document_attention`.
    """

    window: int | None = None
    scale: float | None = None

    # pyrefly: ignore[bad-override]: `Documents` take the place of torchtune's block mask.
    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        *,
        mask: Mask = None,
        input_pos: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to the sequence itself.

        Args:
            x: [batch, seq, dim].
            y: `x` again, as torchtune's layer passes it.
            mask: see `Mask`.
            input_pos: positions [batch, seq]; 0..seq-1 when None.

        Returns:
            [batch, seq, dim].
        """
        q = self._rotated(self.q_proj(x), self.q_norm, input_pos)
        k = self._rotated(self.k_proj(x), self.k_norm, input_pos)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.kv_cache is not None:
            k, v = self.kv_cache.update(k, v)
        if self.num_heads != self.num_kv_heads:
            groups = (self.num_kv_heads, self.num_heads // self.num_kv_heads)
            k, v = (t.unsqueeze(2).expand(-1, *groups, -1, -1).flatten(1, 2) for t in (k, v))
        out = document_attention(q, k, v, mask, self.window, self.scale)
        return self.output_proj(out.transpose(1, 2).flatten(2))

    def _rotated(
        self, projected: torch.Tensor, norm: nn.Module | None, input_pos: torch.Tensor | None
    ) -> torch.Tensor:
        """Return queries or keys [batch, heads, seq, head_dim] of a projection's output."""
        heads = projected.unflatten(-1, (-1, self.head_dim))
        if norm is not None:
            heads = norm(heads)
        if self.pos_embeddings is not None:
            heads = self.pos_embeddings(heads, input_pos=input_pos)
        return heads.transpose(1, 2)


@dataclass(frozen=True)
class DecoderSize:
    """Hold the sizes of a decoder.

    Attributes:
        vocab_size: rows of the embedding.
        num_layers: transformer layers.
        num_heads: query heads of a layer.
        num_kv_heads: key and value heads of a layer; fewer than `num_heads` is GQA.
        head_dim: dimensions of a head.
        embed_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward network.
        max_seq_len: longest sequence, tokens.
        norm_eps: epsilon of the RMS norms.
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    embed_dim: int
    intermediate_dim: int
    max_seq_len: int
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class Variant:
    """Describe how a decoder differs from Llama's, which has no biases.

    Attributes:
        tied: the output layer is the embedding.
        qkv_bias: the projections to queries, keys and values have biases.
        output_bias: the attention's output projection has a bias.
        qk_norm: queries and keys are normed head by head.
        gemma: norms multiply by 1 + weight and also follow attention and feed-forward network, GELU
            takes the place of SiLU, and the embedding is scaled by the root of its width.
        attention_scale: see `document_attention`.
    """

    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    gemma: bool = False
    attention_scale: float | None = None


class Decoder(TransformerDecoder):
    """Extend torchtune's decoder: it can return per-token log-probs instead of logits.

    The log-probs are computed inside forward, so that under FSDP2 the output layer's weight is
    gathered once, and the full logits never exist. A `value_head`, if one is set (see
    `models.value_head`), gives each position's value in the same pass.

    Attributes:
        size: sizes the decoder was built with.
    """

    size: DecoderSize
    value_head: nn.Module

    # pyrefly: ignore[bad-override]: torchtune's arguments for an encoder do not apply.
    def forward(
        self,
        tokens: torch.Tensor,
        *,
        mask: Mask = None,
        input_pos: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        chunk_size: int = 1024,
        entropy: bool = False,
        scored: torch.Tensor | None = None,
        values: bool = False,
    ) -> Any:
        """Compute logits, or log-probs of `targets`.

        Args:
            tokens: [batch, seq] int64.
            mask: see `Mask`; with `Documents` the batch is 1.
            input_pos: positions [batch, seq]; 0..seq-1 when None.
            targets: [batch, seq] int64, the token to score at each position, -100 for none;
                None returns logits instead.
            temperature: divisor of the logits before the softmax.
            chunk_size: scored tokens per chunk of the head.
            entropy: also return each position's entropy in nats.
            scored: indices of the positions that have a target (see `token_logprobs`).
            values: also return the value head's output at each position.

        Returns:
            logits [batch, seq, vocab] float32 without `targets`; with them log-probs
            [batch, seq] float32, 0 where the target is -100, and with `entropy` the pair
            (log-probs, entropies). With `values`, (all that, values [batch, seq] float32).
        """
        h = self.hidden_states(tokens, mask=mask, input_pos=input_pos)
        if targets is None:
            return self.output(h).float()
        result = token_logprobs(
            h, self.head_weight, targets, temperature, chunk_size, entropy, scored
        )
        return (result, self.value_head(h)) if values else result

    def hidden_states(
        self, tokens: torch.Tensor, *, mask: Mask = None, input_pos: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the head's input, [batch, seq, dim]. The arguments are those of forward.

        Raises:
            ValueError: if a sequence, or a document of a row, exceeds `max_seq_len`.
        """
        # A row of many documents may be longer than the model's context; no document may.
        longest = max(mask.lengths) if isinstance(mask, Documents) else tokens.shape[1]
        if longest > self.max_seq_len:
            raise ValueError(
                f"a sequence of {longest} tokens exceeds the model's context of {self.max_seq_len}"
            )
        h = self.tok_embeddings(tokens)
        for layer in self.layers:
            h = layer(h, mask=mask, input_pos=input_pos)
        return self.norm(h)

    @property
    def attentions(self) -> list[DocumentAttention]:
        """Return the attention of each layer."""
        return [cast(Any, layer).attn for layer in self.layers]

    @property
    def rope(self) -> nn.Module:
        """Return the rotary embedding of the first layer that has one."""
        return next(a.pos_embeddings for a in self.attentions if a.pos_embeddings is not None)

    @property
    def head_weight(self) -> torch.Tensor:
        """Return the tied embedding or the output layer's weight, [vocab, dim]."""
        module: Any = getattr(self.output, "tied_module", self.output)
        return module.weight


def build_decoder(
    size: DecoderSize,
    ropes: Sequence[nn.Module | None],
    variant: Variant,
    windows: Sequence[int | None] | None = None,
) -> Decoder:
    """Build a pre-norm decoder with GQA and a gated feed-forward network.

    Args:
        size: sizes of the decoder.
        ropes: rotary embedding of each layer's queries and keys, or None for a layer without one.
        variant: biases, norms, activation and output layer of the decoder.
        windows: sliding window of each layer (see `document_attention`); None for none.

    Returns:
        `Decoder` with random weights.
    """

    def norm(dim: int) -> nn.Module:
        return (GemmaRMSNorm if variant.gemma else RMSNorm)(dim, eps=size.norm_eps)

    def attention(rope: nn.Module | None, window: int | None) -> DocumentAttention:
        query_dim, key_dim = size.num_heads * size.head_dim, size.num_kv_heads * size.head_dim
        module = DocumentAttention(
            embed_dim=size.embed_dim,
            num_heads=size.num_heads,
            num_kv_heads=size.num_kv_heads,
            head_dim=size.head_dim,
            q_proj=nn.Linear(size.embed_dim, query_dim, variant.qkv_bias),
            k_proj=nn.Linear(size.embed_dim, key_dim, variant.qkv_bias),
            v_proj=nn.Linear(size.embed_dim, key_dim, variant.qkv_bias),
            output_proj=nn.Linear(query_dim, size.embed_dim, variant.output_bias),
            q_norm=norm(size.head_dim) if variant.qk_norm else None,
            k_norm=norm(size.head_dim) if variant.qk_norm else None,
            pos_embeddings=rope,
            max_seq_len=size.max_seq_len,
        )
        module.window = window
        module.scale = variant.attention_scale
        return module

    def layer(rope: nn.Module | None, window: int | None) -> TransformerSelfAttentionLayer:
        return TransformerSelfAttentionLayer(
            attn=attention(rope, window),
            mlp=FeedForward(
                gate_proj=nn.Linear(size.embed_dim, size.intermediate_dim, bias=False),
                down_proj=nn.Linear(size.intermediate_dim, size.embed_dim, bias=False),
                up_proj=nn.Linear(size.embed_dim, size.intermediate_dim, bias=False),
                activation=nn.GELU("tanh") if variant.gemma else nn.SiLU(),
            ),
            sa_norm=norm(size.embed_dim),
            mlp_norm=norm(size.embed_dim),
            # torchtune's name for what the output of attention and network passes through.
            sa_scale=norm(size.embed_dim) if variant.gemma else None,
            mlp_scale=norm(size.embed_dim) if variant.gemma else None,
        )

    embedding = GemmaNormEmbeddings if variant.gemma else nn.Embedding
    embeddings = embedding(size.vocab_size, size.embed_dim)
    head = nn.Linear(size.embed_dim, size.vocab_size, bias=False) if not variant.tied else None
    windows = windows or [None] * size.num_layers
    model = Decoder(
        tok_embeddings=embeddings,
        layers=[layer(*kind) for kind in zip(ropes, windows, strict=True)],
        max_seq_len=size.max_seq_len,
        num_heads=size.num_heads,
        head_dim=size.head_dim,
        norm=norm(size.embed_dim),
        output=head or TiedLinear(embeddings),
    )
    model.size = size
    return model
