"""Build the decoder and the checkpointer that a config names, the project's or torchtune's."""

import torch
from torchtune.modules import TransformerDecoder
from torchtune.training import FullModelHFCheckpointer

from custom_components.config import Component, UserError, instantiate
from custom_components.models.decoder import Decoder
from custom_components.models.hf import HFCheckpointer
from custom_components.models.torchtune_models import TorchtuneCheckpointer, adopt

RESUMING = (
    "adapter_checkpoint",
    "recipe_checkpoint",
    "resume_from_checkpoint",
    "should_load_recipe_state",
)
"""Arguments of torchtune's checkpointer that resume a run of its recipes."""


def build_on_meta(node: Component) -> Decoder:
    """Build a decoder without data.

    Args:
        node: `model` node of a config.

    Raises:
        UserError: if the builder refuses an argument, or builds something else.
    """
    if node.get("quantize_base"):
        raise UserError("model.quantize_base is not supported: the exported model is not quantised")
    with torch.device("meta"):
        model = instantiate(node, "model")
        if type(model) is TransformerDecoder:
            model = adopt(model)
    if not isinstance(model, Decoder):
        raise UserError(
            f"model: {node['_component_']} builds a {type(model).__name__}, which is not a decoder"
        )
    return model


def open_checkpointer(node: Component) -> HFCheckpointer:
    """Open the checkpointer of a config.

    Args:
        node: `checkpointer` node of a config.

    Raises:
        UserError: if the checkpointer refuses an argument or its folder, or is not a supported one.
    """
    for key in RESUMING:
        if node.get(key):
            raise UserError(
                f"checkpointer.{key} is not supported: a run resumes from its own checkpoints"
            )
    try:
        checkpointer = instantiate(node, "checkpointer")
    except (KeyError, OSError) as e:  # how torchtune's refuses a model_type and a folder
        raise UserError(f"checkpointer: {node['_component_']}: {type(e).__name__}: {e}") from e
    if isinstance(checkpointer, FullModelHFCheckpointer):
        return TorchtuneCheckpointer(checkpointer)
    if not isinstance(checkpointer, HFCheckpointer):
        raise UserError(
            f"checkpointer: {node['_component_']} is not supported; name "
            "custom_components.models.hf.HFCheckpointer or torchtune.training.FullModelHFCheckpointer"
        )
    return checkpointer
