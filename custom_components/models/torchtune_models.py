"""Take torchtune's own model builders and checkpointer into the recipes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torchtune.models.convert_weights import tune_to_hf
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.models.phi3 import Phi3RotaryPositionalEmbeddings
from torchtune.models.phi3._convert_weights import phi3_tune_to_hf
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings
from torchtune.models.qwen2._convert_weights import qwen2_tune_to_hf
from torchtune.modules import (
    MultiHeadAttention,
    RMSNorm,
    RotaryPositionalEmbeddings,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)
from torchtune.modules.peft import DoRALinear, LoRALinear, get_adapter_params, set_trainable_params
from torchtune.training import FullModelHFCheckpointer, ModelType

from custom_components.config import UserError
from custom_components.models.decoder import Decoder, DecoderSize, DocumentAttention, Norm
from custom_components.models.hf import HFCheckpointer
from custom_components.models.rotary import RotaryEmbedding, plain_frequencies

OF_HALVES = (Qwen2RotaryPositionalEmbeddings, Phi3RotaryPositionalEmbeddings)
OF_NEIGHBOURS = (RotaryPositionalEmbeddings, Llama3ScaledRoPE)
"""torchtune's rotary embeddings by the dimensions of a head that they rotate against each other."""


def adopt(model: TransformerDecoder) -> Decoder:
    """Make a model of torchtune's builders a `Decoder`, in place.

    Attention gets documents, and the rotary embedding is replaced by an equal one that can be built
    without data. Only the adapters of a LoRA model are trained.

    Args:
        model: model of one of torchtune's builders, on any device.

    Raises:
        UserError: naming what of the model is not supported.
    """
    decoder = cast(Decoder, model)
    decoder.__class__ = Decoder
    _check(decoder)
    for module in decoder.modules():
        if type(module) is RMSNorm:
            module.__class__ = Norm
    ropes: dict[nn.Module, RotaryEmbedding] = {}
    for attention in decoder.attentions:
        attention.__class__ = DocumentAttention
        theirs = attention.pos_embeddings
        if theirs is not None:
            if theirs not in ropes:
                ropes[theirs] = _equal_rotation(theirs)
            attention.pos_embeddings = ropes[theirs]
    decoder.size = _size_of(decoder)
    if adapters := get_adapter_params(decoder):
        set_trainable_params(decoder, adapters)
    return decoder


def _check(model: Decoder) -> None:
    """Check that nothing of a model is beyond what the recipes train and export.

    Raises:
        UserError: naming it.
    """
    unsupported = None
    for layer in model.layers:
        if type(layer) is not TransformerSelfAttentionLayer:
            unsupported = type(layer).__name__
        elif type(layer.attn) is not MultiHeadAttention:
            unsupported = type(layer.attn).__name__
        elif layer.attn.attn_dropout:
            unsupported = f"attn_dropout={layer.attn.attn_dropout}"
    for module in model.modules():
        if isinstance(module, DoRALinear):
            unsupported = "use_dora"
        elif isinstance(module, LoRALinear) and module._quantize_base:
            unsupported = "quantize_base"
        elif isinstance(module, LoRALinear) and isinstance(module.dropout, nn.Dropout):
            unsupported = "lora_dropout"
    if isinstance(model.output, LoRALinear):
        unsupported = "apply_lora_to_output"
    if unsupported:
        raise UserError(f"model: {unsupported} of torchtune's builder is not supported")


def _equal_rotation(rope: Any) -> RotaryEmbedding:
    """Return the rotary embedding that computes what one of torchtune's does.

    Raises:
        UserError: if the embedding is of a class not known here.
    """
    if not isinstance(rope, OF_HALVES + OF_NEIGHBOURS):
        raise UserError(f"model: {type(rope).__name__} of torchtune's builder is not supported")
    frequencies = plain_frequencies(rope.dim, float(rope.base))
    if isinstance(rope, Llama3ScaledRoPE):
        with torch.device("cpu"):
            scaled = rope.apply_scaling(
                torch.tensor(frequencies),
                rope.scale_factor,
                rope.low_freq_factor,
                rope.high_freq_factor,
                rope.old_context_len,
            )
        frequencies = tuple(scaled.tolist())
    return RotaryEmbedding(frequencies, neighbours=isinstance(rope, OF_NEIGHBOURS))


def _size_of(model: Decoder) -> DecoderSize:
    attention, norm = model.attentions[0], cast(Any, model.norm)
    gate = cast(Any, model.layers[0]).mlp.w1
    return DecoderSize(
        vocab_size=model.tok_embeddings.num_embeddings,
        num_layers=len(model.layers),
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        embed_dim=attention.embed_dim,
        intermediate_dim=gate.weight.shape[0],
        max_seq_len=model.max_seq_len,
        norm_eps=norm.eps,
    )


ToHF = Callable[..., dict[str, torch.Tensor]]
TO_HF: dict[ModelType, ToHF] = {
    ModelType.QWEN2: qwen2_tune_to_hf,
    ModelType.PHI3_MINI: lambda weights, **heads: phi3_tune_to_hf(weights),
    ModelType.PHI4: lambda weights, **heads: phi3_tune_to_hf(weights),
    ModelType.LLAMA2: tune_to_hf,
    ModelType.LLAMA3: tune_to_hf,
    ModelType.LLAMA3_2: tune_to_hf,
    ModelType.MISTRAL: tune_to_hf,
    ModelType.GEMMA: tune_to_hf,
}
"""How torchtune converts the weights of a `model_type` back, as its save_checkpoint does."""


class TorchtuneCheckpointer(HFCheckpointer):
    """Read weights by torchtune's FullModelHFCheckpointer, and write an ordinary folder.

    Args:
        checkpointer: torchtune's checkpointer, as a config builds it.

    Raises:
        UserError: if its `model_type` is not one of `TO_HF`, or config.json describes a model that
            is not supported.
    """

    def __init__(self, checkpointer: FullModelHFCheckpointer) -> None:
        self.theirs = checkpointer
        kind = checkpointer._model_type
        if kind not in TO_HF:
            names = ", ".join(known.name for known in TO_HF)
            raise UserError(f"checkpointer.model_type: {kind.name} is not supported ({names} are)")
        super().__init__(checkpointer._checkpoint_dir)
        self.neighbours = TO_HF[kind] is tune_to_hf

    def weight_files(self) -> list[Any]:
        """Return the files that torchtune's checkpointer reads."""
        return self.theirs._checkpoint_paths

    def load_checkpoint(self) -> dict[str, Any]:
        """Return {"model": state dict in torchtune's names, float32}.

        Raises:
            UserError: if the weights cannot be read or converted, or are not those of the model that
                config.json describes.
        """
        try:
            weights = self.theirs.load_checkpoint()["model"]
        except Exception as e:  # torchtune raises nothing more specific for a name or a file
            raise UserError(f"checkpointer: {self.folder}: {' '.join(str(e).split())}") from e
        return {"model": self.checked({name: t.float() for name, t in weights.items()})}

    def to_hf(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert a torchtune state dict to Hugging Face's names and layout."""
        size = self.model_config.size
        return TO_HF[self.theirs._model_type](
            state_dict,
            num_heads=size.num_heads,
            num_kv_heads=size.num_kv_heads,
            dim=size.embed_dim,
            head_dim=size.head_dim,
        )
