"""Open, prepare and place the model of a training run."""

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)

from custom_components.config import UserError
from custom_components.models.builders import build_on_meta, open_checkpointer
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES, HFCheckpointer
from custom_components.models.longrope import rope_factor_of
from custom_components.models.lora import cast_weights
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.distributed import World, shard
from custom_components.training.training_config import TrainingConfig


def open_model(cfg: TrainingConfig, tokenizer: ChatTokenizer) -> tuple[HFCheckpointer, Decoder]:
    """Open the checkpointer and build the model without data.

    Recipes call it before they tokenise or sample, so that a model that cannot be trained is refused
    at once.

    Raises:
        UserError: if model, weights, tokenizer and lengths do not fit each other.
    """
    checkpointer = open_checkpointer(cfg.checkpointer)
    model = build_on_meta(cfg.model)
    check_fit(model, tokenizer, cfg.max_seq_len)
    checkpointer.check_model(model)
    return checkpointer, model


def prepare_layers(model: Decoder, compiled: bool, checkpointed_every: int | None) -> None:
    """Compile and checkpoint layer by layer. Call it before sharding, which wraps the layers.

    Args:
        model: decoder.
        compiled: compile each layer.
        checkpointed_every: n recomputes every n-th layer in the backward pass, the first one
            included, and keeps the activations of the others; None keeps all.
    """
    if compiled:
        for layer in model.layers:
            layer.compile(dynamic=True)
    if checkpointed_every:
        chosen = {id(layer) for layer in model.layers[::checkpointed_every]}
        apply_activation_checkpointing(model, check_fn=lambda module: id(module) in chosen)


def materialise(model: Decoder, world: World, dtype: str, weights_dtype: str) -> None:
    """Give a model on the meta device its dtypes, shards and memory; the values are undefined.

    Args:
        model: decoder, after `prepare_layers`.
        world: this process among all.
        dtype, weights_dtype: keys of the config.
    """
    cast_weights(model, DTYPES[dtype], DTYPES[weights_dtype])
    shard(model, world, half=dtype == "bf16")
    model.to_empty(device=world.device)
    with world.device:  # torchtune's rotary cache goes to the default device
        for module in model.modules():
            if callable(initialise := getattr(module, "rope_init", None)):
                initialise()


def check_fit(model: Decoder, tokenizer: ChatTokenizer, max_seq_len: int) -> None:
    """Check that tokenizer and lengths fit the model.

    Raises:
        UserError: if token ids exceed the embedding, sequences exceed the context, or the
            LongRoPE branch depends on the length.
    """
    rows = model.size.vocab_size
    if len(tokenizer.hf) > rows:
        raise UserError(
            f"the tokenizer in {tokenizer.path} has {len(tokenizer.hf)} tokens, the model's "
            f"embedding only {rows} rows; give the tokenizer that belongs to the model"
        )
    if max_seq_len > model.max_seq_len:
        raise UserError(
            f"max_seq_len={max_seq_len} exceeds the model's context of {model.max_seq_len}"
        )
    if rope_factor_of(model) == "by_length":
        raise UserError(
            "model.rope_factor=by_length makes the loss depend on how a batch is cut; train with "
            "short or long"
        )
