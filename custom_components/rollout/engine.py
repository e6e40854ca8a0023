"""What every rollout engine does, and what it returns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from custom_components.config import UserError
from custom_components.models.decoder import Decoder
from custom_components.models.hf import rope_factor_of, rope_factors_of


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: nucleus mass; 1 keeps all.
        max_new_tokens: longest response, the end-of-turn token included.
        seed: of this call; None leaves it to the engine.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        token_ids: generated ids, the stop token included when one ended it.
        logprobs: natural log-probs of those ids under the distribution sampled from (after
            temperature and top_p); empty when the engine has none.
        finish_reason: stop (a stop token) or length (cut off).
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


class Engine(Protocol):
    """Generates responses; the engines for training also take new weights."""

    name: str
    rope_factors: tuple[float, ...] | None
    """LongRoPE factors it computes with; None for models without."""

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """n completions for each prompt, in the order of the prompts."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights; names as in a Hugging Face checkpoint."""

    def close(self) -> None:
        """Free what the engine holds."""


def check_rope(engine: Engine, model: Decoder) -> None:
    """Check that an engine computes the trained LongRoPE branch.

    Raises:
        UserError: when it does not: training would follow another policy than the one sampled.
    """
    if engine.rope_factors != rope_factors_of(model):
        raise UserError(
            f"the rollout engine computes another LongRoPE branch than model.rope_factor="
            f"{rope_factor_of(model)}; set engine.rope_factor (torch), or engine.max_model_len "
            "(vllm: long as soon as it exceeds the original context)"
        )
