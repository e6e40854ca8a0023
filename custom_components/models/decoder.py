"""torchtune's decoder with document-aware attention and per-token log-probs in its forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)
from torchtune.modules.peft import LoRALinear

from custom_components.losses.logprobs import token_logprobs
from custom_components.models.lora import LORA_MODULES, train_adapters_only


@dataclass(frozen=True)
class Documents:
    """Documents laid end to end in one row: the attention "mask" of packed training.

    Attributes:
        lengths: tokens of each document; they sum to the row's length.
    """

    lengths: tuple[int, ...]

    def positions(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Positions that restart with each document, [1, sum(lengths)] int64."""
        return torch.cat([torch.arange(n, device=device) for n in self.lengths])[None]


# the documents change with every batch: compiled code would be compiled anew for each
@torch.compiler.disable
def document_attention(q, k, v, mask, dropout_p: float = 0.0, is_causal: bool = True):
    """Causal attention inside each document; takes the place of torchtune's SDPA call.

    Memory is linear in the row's length: varlen kernels on CUDA (half precision), causal SDPA
    document by document elsewhere. Equal to running every document by itself.

    Args:
        q, k, v: [batch, heads, seq, head_dim]; batch is 1 when `mask` is `Documents`.
        mask: `Documents`, a boolean tensor [batch, seq, keys] (True = attend), or None.

    Returns:
        [batch, heads, seq, head_dim].
    """
    if not isinstance(mask, Documents):
        attn_mask = None if mask is None else mask[:, None]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal
        )
    if q.shape[0] != 1 or sum(mask.lengths) != q.shape[2]:
        raise ValueError(f"documents of {sum(mask.lengths)} tokens do not fit q {tuple(q.shape)}")
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        ends = torch.tensor((0, *mask.lengths), dtype=torch.int32, device=q.device).cumsum(
            0, dtype=torch.int32
        )
        longest = max(mask.lengths)
        flat = [t[0].transpose(0, 1) for t in (q, k, v)]
        out = varlen_attn(*flat, ends, ends, longest, longest, window_size=(-1, 0))
        return out.transpose(0, 1)[None]
    parts = zip(*(t.split(mask.lengths, dim=2) for t in (q, k, v)), strict=True)
    return torch.cat(
        [F.scaled_dot_product_attention(*p, dropout_p=dropout_p, is_causal=True) for p in parts],
        dim=2,
    )


class DocumentAttention(MultiHeadAttention):
    """torchtune's attention; `mask` may also be `Documents`."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._attention_call = document_attention


class Decoder(TransformerDecoder):
    """torchtune's decoder that can return per-token log-probs instead of logits.

    The log-probs are computed inside forward, so that under FSDP2 the (tied) embedding is
    gathered once, and the full logits never exist. `value_head`, where one is set (see
    `models.value`), gives each position's value in the same pass.
    """

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        mask=None,
        input_pos: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        chunk_size: int = 1024,
        entropy: bool = False,
        scored: torch.Tensor | None = None,
        values: bool = False,
        **kwargs,
    ):
        """
        Args:
            tokens: [batch, seq] int64.
            mask: `Documents` (batch 1), boolean [batch, seq, keys], or None for plain causal.
            input_pos: positions [batch, seq]; 0..seq-1 when None.
            targets: [batch, seq] int64, the token to score at each position, -100 for none;
                None returns logits instead.
            temperature: divides the logits before the softmax.
            chunk_size: scored tokens per chunk of the head.
            entropy: also return each position's entropy in nats.
            scored: where `targets` has a target (see `token_logprobs`).
            values: also return what the value head makes of each position.

        Returns:
            logits [batch, seq, vocab] float32 without `targets`; with them log-probs
            [batch, seq] float32, 0 where the target is -100, and with `entropy` the pair
            (log-probs, entropies). With `values`, (all that, values [batch, seq] float32).
        """
        if targets is None:
            return super().forward(tokens, mask=mask, input_pos=input_pos, **kwargs)
        h = self.hidden_states(tokens, mask=mask, input_pos=input_pos)
        result = token_logprobs(
            h, self.head_weight, targets, temperature, chunk_size, entropy, scored
        )
        return (result, self.value_head(h)) if values else result

    def hidden_states(self, tokens: torch.Tensor, *, mask=None, input_pos=None) -> torch.Tensor:
        """What the head sees, [batch, seq, dim]; arguments as for forward.

        Raises:
            ValueError: when a sequence (a document, in a row of them) exceeds `max_seq_len`.
        """
        # a row of many documents may be longer than the model's context; none of them may
        longest = max(mask.lengths) if isinstance(mask, Documents) else tokens.shape[1]
        self._validate_inputs(longest, mask=mask, input_pos=input_pos)
        h = self.tok_embeddings(tokens)
        for layer in self.layers:
            h = layer(h, mask=mask, input_pos=input_pos)
        return self.norm(h)

    @property
    def head_weight(self) -> torch.Tensor:
        """[vocab, dim]: the tied embedding, or the output layer's weight."""
        return getattr(self.output, "tied_module", self.output).weight


def build_decoder(
    rope: nn.Module,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    norm_eps: float,
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """Bias-free pre-norm decoder with GQA, SwiGLU and tied embeddings around one shared `rope`.

    Raises:
        ValueError: when `lora_modules` names a layer that there is not.
    """
    head_dim = embed_dim // num_heads
    if unknown := set(lora_modules) - set(LORA_MODULES):
        raise ValueError(f"lora_modules: no {sorted(unknown)}; there are {list(LORA_MODULES)}")

    def linear(name: str, inputs: int, outputs: int) -> nn.Module:
        if lora_rank and name in lora_modules:
            return LoRALinear(inputs, outputs, lora_rank, lora_alpha)
        return nn.Linear(inputs, outputs, bias=False)

    def attention_layer() -> TransformerSelfAttentionLayer:
        return TransformerSelfAttentionLayer(
            attn=DocumentAttention(
                embed_dim=embed_dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                q_proj=linear("q_proj", embed_dim, num_heads * head_dim),
                k_proj=linear("k_proj", embed_dim, num_kv_heads * head_dim),
                v_proj=linear("v_proj", embed_dim, num_kv_heads * head_dim),
                output_proj=linear("output_proj", num_heads * head_dim, embed_dim),
                pos_embeddings=rope,
                max_seq_len=max_seq_len,
            ),
            mlp=FeedForward(
                gate_proj=linear("gate_proj", embed_dim, intermediate_dim),
                down_proj=linear("down_proj", intermediate_dim, embed_dim),
                up_proj=linear("up_proj", embed_dim, intermediate_dim),
            ),
            sa_norm=RMSNorm(embed_dim, eps=norm_eps),
            mlp_norm=RMSNorm(embed_dim, eps=norm_eps),
        )

    embeddings = nn.Embedding(vocab_size, embed_dim)
    model = Decoder(
        tok_embeddings=embeddings,
        layers=[attention_layer() for _ in range(num_layers)],
        max_seq_len=max_seq_len,
        num_heads=num_heads,
        head_dim=head_dim,
        norm=RMSNorm(embed_dim, eps=norm_eps),
        output=TiedLinear(embeddings),
    )
    if lora_rank:
        train_adapters_only(model)
    return model
