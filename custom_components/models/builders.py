"""Build the decoder that a config's `model` node names."""

import torch

from custom_components.config import Component, UserError, instantiate
from custom_components.models.decoder import Decoder


def build_on_meta(node: Component) -> Decoder:
    """Build a decoder without data.

    Args:
        node: `_component_` node of the builder.

    Raises:
        UserError: if the builder refuses an argument, or builds something else.
    """
    with torch.device("meta"):
        model = instantiate(node, "model")
    if not isinstance(model, Decoder):
        raise UserError(
            f"model: {node['_component_']} builds a {type(model).__name__}, which is not a decoder"
        )
    return model
