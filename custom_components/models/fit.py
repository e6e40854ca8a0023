"""Check that a built decoder, config.json and the weights are of one model."""

import math
from typing import Any, cast

import torch
from torch import nn
from torchtune.modules import TransformerSelfAttentionLayer

from custom_components.config import UserError
from custom_components.models.decoder import Decoder
from custom_components.models.longrope import LongRoPE, RopeFactor, rope_factor_of
from custom_components.models.lora import is_adapter
from custom_components.models.rotary import RotaryEmbedding


def check_same(model: Decoder, described: Decoder, neighbours: bool, folder: str) -> None:
    """Check that a built model is the one that a folder describes.

    Args:
        model: built model.
        described: model of the folder's config.json.
        neighbours: whether the weights are those of a model that rotates neighbouring dimensions.
        folder: folder, for the message.

    Raises:
        UserError: naming the first thing that differs.
    """
    plain = {name: v for name, v in model.state_dict().items() if not is_adapter(name)}
    check_shapes(plain, described.state_dict(), "the built model", folder)
    # Only the branch in use counts: an export writes the trained branch under both names.
    branch = rope_factor_of(model)
    if _embedding(model.rope, branch).neighbours != neighbours:
        built, fitting = "neighbouring dimensions", "torchtune.training.FullModelHFCheckpointer"
        if neighbours:
            built, fitting = "the halves", "HFCheckpointer"
        raise UserError(
            f"model and checkpoint differ: the built model rotates {built} of a head against each "
            f"other, and the checkpointer's weights are for the other rotation; use {fitting} with "
            "this model, or custom_components.models.hf.from_folder with HFCheckpointer"
        )
    ours, theirs = (_traits(m, branch) for m in (model, described))
    for name, value in ours.items():
        if not _same(value, theirs[name]):
            raise UserError(
                f"model and checkpoint differ in the {name}: {str(value)[:80]} built, "
                f"{str(theirs[name])[:80]} in {folder}"
            )


def check_shapes(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], here: str, there: str
) -> None:
    """Check that two state dicts have the same names and shapes.

    Args:
        ours: state dict.
        theirs: state dict to compare with it.
        here: where `ours` comes from, for the message.
        there: where `theirs` comes from.

    Raises:
        UserError: naming the first tensor that differs.
    """
    for name in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(d[name].shape) if name in d else "missing" for d in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"model and checkpoint differ: {name} is {shapes[0]} in {here} and {shapes[1]} in "
                f"{there}"
            )


def check_tied(head: torch.Tensor | None, embedding: torch.Tensor | None) -> None:
    """Check that a head beside a tied embedding repeats it.

    Raises:
        UserError: if the two differ.
    """
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UserError(
            "config.json ties the output layer to the embedding, and the weights hold another "
            "lm_head.weight; set tie_word_embeddings to false in config.json to train with it, or "
            "take it out of the weights"
        )


def _traits(model: Decoder, branch: RopeFactor | None) -> dict[str, Any]:
    """Return what a decoder computes and the shapes of its weights do not tell.

    Args:
        model: decoder.
        branch: branch of LongRoPE to describe.
    """
    attentions = model.attentions
    ropes = [a.pos_embeddings and _embedding(a.pos_embeddings, branch) for a in attentions]
    mlp = cast(TransformerSelfAttentionLayer, model.layers[0]).mlp
    return {
        "rotary frequencies": tuple(rope.frequencies if rope else () for rope in ropes),
        "scale of the rotation": tuple(rope.scale if rope else 1.0 for rope in ropes),
        "norm": type(model.norm).__name__,
        "norm's epsilon": model.norm.eps,
        "activation": type(mlp.activation).__name__,
        "embedding": type(model.tok_embeddings).__name__,
        "sliding windows": tuple(a.window for a in attentions),
        "scale of attention": tuple(a.scale or a.head_dim**-0.5 for a in attentions),
    }


def _embedding(rope: nn.Module, branch: RopeFactor | None) -> RotaryEmbedding:
    """Return a rotary embedding, or LongRoPE's of the branch."""
    if isinstance(rope, LongRoPE):
        return rope.short if branch == "short" else rope.long
    return cast(RotaryEmbedding, rope)


def _same(a: Any, b: Any) -> bool:
    """Compare values and tuples of values, numbers up to rounding in float32."""
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return math.isclose(a, b, rel_tol=1e-5) if isinstance(a, float) else a == b
