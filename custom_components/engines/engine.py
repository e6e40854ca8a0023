"""Define what a rollout engine does, and what it returns.

Training needs token ids and their log-probs (`Engine`). Recipes that only store responses need
texts (`TextEngine`): an endpoint gives texts, and `TokensAsText` makes them from any `Engine`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
    """Configure how responses are sampled.

    Attributes:
        temperature: divisor of the logits; 0 is greedy.
        top_p: nucleus mass; 1 keeps all tokens.
        max_new_tokens: longest response in tokens, including the end-of-turn token.
        seed: seed of this call; None leaves it to the engine.
        logprobs: whether the log-probs are needed; an engine may leave them out otherwise.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int | None = None
    logprobs: bool = field(default=True, repr=False)  # what is sampled does not depend on it


@dataclass(frozen=True)
class Completion:
    """Hold one sampled response as tokens.

    Attributes:
        token_ids: generated ids, including the stop token if one ended the response.
        logprobs: natural log-probs of those ids under the sampling distribution (after
            temperature and top_p); empty if the engine computes none, or none were needed.
        finish_reason: `stop` (a stop token) or `length` (cut off).
        version: version of the sampling weights, as given to `load_weights`; 0 before.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    version: int = 0


class Engine(Protocol):
    """Generate responses as tokens. Engines for training also take new weights."""

    name: str
    rope_factors: tuple[float, ...] | None
    """LongRoPE factors the engine computes with; None for models without LongRoPE."""

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in the order of the prompts."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights. Tensors have their names in a Hugging Face checkpoint."""

    def sleep(self) -> None:
        """Free memory until the next `load_weights`."""

    def close(self) -> None:
        """Free the engine's resources."""


def stream(
    engine: Engine,
    prompt_ids: list[list[int]],
    n: int,
    sampling: Sampling,
    on_done: Callable[[int, list[Completion]], None],
) -> None:
    """Generate n completions for each prompt, and pass them on as soon as the engine has them.

    Args:
        engine: engine; one without a method `stream` has all of them at the end.
        prompt_ids: prompts.
        n: completions for each prompt.
        sampling: how to sample.
        on_done: callback for a prompt's index and its completions.
    """
    if hasattr(engine, "stream"):
        engine.stream(prompt_ids, n, sampling, on_done)
        return
    for i, completions in enumerate(engine.generate(prompt_ids, n, sampling)):
        on_done(i, completions)


@dataclass(frozen=True)
class Reply:
    """Hold one sampled response as text.

    Attributes:
        text: whole response without special tokens, with the `<think>` that its prompt opened.
        num_tokens: generated tokens, including reasoning; 0 if the engine does not count them.
        finish_reason: `stop` or `length` (cut off).
        cost: price of the response, USD.
    """

    text: str
    num_tokens: int
    finish_reason: str
    cost: float = 0.0


class TextEngine(Protocol):
    """Answer conversations in text."""

    name: str
    spent: float
    """USD spent so far; the caller adds the costs of earlier runs."""

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """Answer each conversation n times.

        Args:
            conversations: conversations to answer.
            n: replies to each conversation.
            sampling: how to sample.
            on_done: callback for a conversation's index and its n replies; called in this thread
                as soon as the engine has them.

        Returns:
            {index: reason} of the conversations that failed, for which on_done was not called.
        """

    def close(self) -> None:
        """Free the engine's resources."""


class TokensAsText:
    """Adapt an `Engine` and its model's tokenizer to a `TextEngine`.

    Args:
        engine: engine that generates tokens.
        tokenizer: tokenizer of its model; adds its system prompt and instruction.
    """

    spent = 0.0

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = engine.name

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """Answer each conversation n times; no conversation fails on its own."""
        encode, complete = self.tokenizer.encode_messages, self.tokenizer.complete_prompt
        prompts = [encode(complete(turns)) for turns in conversations]

        def reply(i: int, completions: list[Completion]) -> None:
            decode = self.tokenizer.decode_response
            on_done(
                i,
                [
                    Reply(decode(c.token_ids), len(c.token_ids), c.finish_reason)
                    for c in completions
                ],
            )

        stream(self.engine, prompts, n, sampling, reply)
        return {}

    def close(self) -> None:
        """Free the engine's resources."""
        self.engine.close()


def check_rope(engine: Engine, model: Decoder) -> None:
    """Check that an engine computes the trained LongRoPE branch.

    Raises:
        UserError: if it does not: training would follow a policy other than the sampled one.
    """
    if engine.rope_factors != rope_factors_of(model):
        raise UserError(
            f"the rollout engine computes another LongRoPE branch than model.rope_factor="
            f"{rope_factor_of(model)}; set engine.rope_factor (torch), or engine.max_model_len "
            "(vllm: long as soon as it exceeds the original context)"
        )
