"""What every rollout engine does, and what it returns.

Training needs token ids and their log-probs (`Engine`). Recipes that only write responses down
need texts (`TextEngine`): what an endpoint gives, and any `Engine` through `TokensAsText`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from custom_components.config import UserError
from custom_components.models.decoder import Decoder
from custom_components.models.longrope import rope_factor_of, rope_factors_of
from custom_components.tokenizer.chat import ChatTokenizer

Conversation = list[dict[str, str]]
"""Turns with role and content; the last is the user's."""


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
        version: of the weights that sampled it, as given to `load_weights`; 0 before.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    version: int = 0


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

    def sleep(self) -> None:
        """Free what it can until the next `load_weights`."""

    def close(self) -> None:
        """Free what the engine holds."""


@dataclass(frozen=True)
class Reply:
    """One sampled response as text.

    Attributes:
        text: without special tokens.
        num_tokens: generated tokens, reasoning included; 0 where they were not counted.
        finish_reason: stop or length (cut off).
        cost: USD paid for it.
    """

    text: str
    num_tokens: int
    finish_reason: str
    cost: float = 0.0


class TextEngine(Protocol):
    """Answers conversations in text."""

    name: str
    spent: float
    """USD so far; the caller adds what earlier runs spent."""

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """Answer each conversation n times.

        Args:
            conversations: what to answer.
            n: replies to each.
            sampling: how to sample.
            on_done: called in this thread with a conversation's index and its n replies, as soon
                as the engine gives them.

        Returns:
            {index: why} of the conversations that failed; on_done was not called for them.
        """

    def close(self) -> None:
        """Free what the engine holds."""


class TokensAsText:
    """A `TextEngine` made of an `Engine` and its model's tokenizer; all replies come at the end.

    Args:
        engine: generates.
        tokenizer: adds its system prompt and instruction, encodes and decodes.
    """

    spent = 0.0

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer) -> None:
        self.engine, self.tokenizer, self.name = engine, tokenizer, engine.name

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """n replies to each conversation; none fails alone."""
        encode, complete = self.tokenizer.encode_messages, self.tokenizer.complete_prompt
        prompts = [encode(complete(turns)) for turns in conversations]
        for i, completions in enumerate(self.engine.generate(prompts, n, sampling)):
            on_done(
                i,
                [
                    Reply(self.tokenizer.decode(c.token_ids), len(c.token_ids), c.finish_reason)
                    for c in completions
                ],
            )
        return {}

    def close(self) -> None:
        """Free what the engine holds."""
        self.engine.close()


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
