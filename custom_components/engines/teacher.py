"""Teach the tiny track by a program that implements `Engine` and makes a model's mistakes."""

import random
from collections.abc import Iterable

import torch

from custom_components.config import UserError
from custom_components.data.column_addition import PROBLEM, ErrorRates, worked_addition
from custom_components.engines.engine import Completion, Sampling
from custom_components.tokenizer.chat import ChatTokenizer


class AdditionTeacher:
    """Work additions out in steps, and err at the given rates (see `ErrorRates`).

    The responses depend on the problem and the call's seed alone, so a resumed run writes the
    same ones.

    Args:
        tokenizer: student's tokenizer, which decodes prompts and encodes responses.
        carry, slip, skip, cut, guess, guess_slip: error rates, see `ErrorRates`.
    """

    name = "addition-teacher"
    rope_factors = None

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        carry: float = 0.05,
        slip: float = 0.02,
        skip: float = 0.05,
        cut: float = 0.05,
        guess: float = 0.0,
        guess_slip: float = 0.0,
    ) -> None:
        self.tokenizer = tokenizer
        self.rates = ErrorRates(carry, slip, skip, cut, guess, guess_slip)

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n worked solutions for each prompt, in the order of the prompts.

        Raises:
            UserError: if a prompt is not an addition problem.
        """
        results = []
        for ids in prompt_ids:
            prompt = self.tokenizer.decode(ids)
            match = PROBLEM.search(prompt)
            if match is None:
                raise UserError(f"the addition teacher cannot read the problem {prompt!r}")
            a, b = map(int, match.groups())
            rng = random.Random(f"{sampling.seed} {a} {b}")
            completions = []
            for _ in range(n):
                text, finished = worked_addition(a, b, self.rates, rng)
                tokens = self.tokenizer.encode_response(text)
                if finished:
                    tokens.append(self.tokenizer.end_of_turn_id)
                if len(tokens) > sampling.max_new_tokens:
                    tokens, finished = tokens[: sampling.max_new_tokens], False
                completions.append(Completion(tokens, [], "stop" if finished else "length"))
            results.append(completions)
        return results

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Refuse new weights, which a program does not have."""
        raise UserError("the addition teacher takes no weights; train with engine torch or vllm")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
