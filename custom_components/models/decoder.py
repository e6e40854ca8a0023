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
from custom_components.models.attention import Documents, Mask, document_attention


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


class Norm(RMSNorm):
    """Divide by the root mean square and scale, in the input's dtype.

    One kernel does both, and sums in float32. torchtune's norm makes a float32 copy of its input.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Norm the last dimension of `x`."""
        return F.rms_norm(x, self.normalized_shape, self.scale.to(x.dtype), self.eps)


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
        return (GemmaRMSNorm if variant.gemma else Norm)(dim, eps=size.norm_eps)

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
