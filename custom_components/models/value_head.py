"""Add a value head to the policy's own trunk: the critic of PPO."""

import torch
from torch import nn

VALUE_HEAD = "value_head"


class ValueHead(nn.Linear):
    """Predict the expected reward from a hidden state.

    Args:
        dim: width of the hidden states.
        shapes_trunk: whether the head's loss also trains the decoder, or the head alone.
    """

    def __init__(self, dim: int, shapes_trunk: bool) -> None:
        super().__init__(dim, 1)
        self.shapes_trunk = shapes_trunk

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map hidden states [batch, seq, dim] to values [batch, seq] float32."""
        hidden = input if self.shapes_trunk else input.detach()
        values = nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float())
        return values.squeeze(-1)


def initial_value_head(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return zeros for the value head, if the model has one: it expects nothing yet."""
    return {
        name: torch.zeros(parameter.shape)
        for name, parameter in model.state_dict().items()
        if name.startswith(f"{VALUE_HEAD}.")
    }


def without_value_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict of the decoder alone."""
    return {k: v for k, v in weights.items() if not k.startswith(f"{VALUE_HEAD}.")}
