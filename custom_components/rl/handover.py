"""Hand the trainer's weights over to an engine, layer by layer, and check that they arrive."""

from collections.abc import Iterator

import torch

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Engine, Sampling
from custom_components.models.hf import DTYPES
from custom_components.models.lora import merge_adapters
from custom_components.models.value_head import without_value_head
from custom_components.models.weight_names import LAYER
from custom_components.training.trainer import Trainer

PROBE_TOKENS = 8
LARGEST_GAP = 0.1
"""Difference of a token's log-probs, nats, beyond which two engines do not hold the same weights."""


def stream_weights(trainer: Trainer, dtype: str | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the decoder's weights in Hugging Face's names and layout, adapters merged.

    One layer is whole at a time: it is gathered from all ranks, merged in float32 and cast. Every
    rank has to take all weights, since gathering is collective.

    Args:
        trainer: Trainer to take the weights from.
        dtype: Dtype that the engine computes in; None leaves the weights in the trainer's.
    """
    names = without_value_head(trainer.model.state_dict())
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in names.items():
        layer = LAYER.search(name)
        parts.setdefault(layer[0] if layer else name, {})[name] = tensor
    for part in parts.values():
        yield from _whole(part, trainer, dtype).items()


def _whole(
    part: dict[str, torch.Tensor], trainer: Trainer, dtype: str | None
) -> dict[str, torch.Tensor]:
    target = None if dtype is None else DTYPES.get(dtype) or getattr(torch, dtype)
    full = {
        name: getattr(tensor, "full_tensor", lambda tensor=tensor: tensor)().detach()
        for name, tensor in part.items()
    }
    merged = merge_adapters(full, trainer.adapter_scale)
    del full
    cast = {name: tensor.to(target or tensor.dtype) for name, tensor in merged.items()}
    return trainer.checkpointer.to_hf(cast)


def probe(engine: Engine, prompt_ids: list[int]) -> Completion:
    """Return the engine's greedy response to a prompt, a few tokens long."""
    [[completion]] = engine.generate([prompt_ids], 1, Sampling(0.0, 1.0, PROBE_TOKENS))
    return completion


def check_handover(before: Completion, after: Completion) -> None:
    """Check that an engine answers alike with the start weights that it read and that it was given.

    Args:
        before: Greedy response with the weights that the engine read from its folder.
        after: Greedy response with the same weights from the trainer.

    Raises:
        UserError: If the log-probs of the two differ by more than rounding, up to the first token
            that differs.
    """
    gap, place = 0.0, 0
    pairs = zip(before.token_ids, after.token_ids, strict=False)
    for i, (one, other) in enumerate(pairs):
        distance = abs(before.logprobs[i] - after.logprobs[i])
        if distance > gap:
            gap, place = distance, i
        if one != other:  # the better of two nearly equal tokens: what follows is not comparable
            break
    if gap > LARGEST_GAP:
        raise UserError(
            f"the engine does not answer alike with the trainer's start weights: log-prob of token "
            f"{place + 1} is {before.logprobs[place]:.3f} with the weights of engine.model and "
            f"{after.logprobs[place]:.3f} after they were handed over; set engine.model to the "
            "folder of checkpointer.checkpoint_dir, or try VLLM_USE_V2_MODEL_RUNNER=0"
        )
