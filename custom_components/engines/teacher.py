"""The tiny track's teacher: a program behind the engines' protocol, with a model's mistakes."""

import random
from collections.abc import Iterable

import torch

from custom_components.config import UserError
from custom_components.data.column_addition import PROBLEM, ErrorRates, worked_addition
from custom_components.engines.engine import Completion, Sampling
from custom_components.tokenizer.chat import ChatTokenizer


class AdditionTeacher:
    """Works additions out in steps, and errs at the given rates (see `ErrorRates`).

    What it writes depends on the problem and the call's seed alone, so a run that continues
    writes the same.

    Args:
        tokenizer: of the student: prompts are decoded, responses encoded with it.
        carry, slip, skip, cut, guess, guess_slip: rates, see `ErrorRates`.
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
        self.tokenizer, self.rates = (
            tokenizer,
            ErrorRates(carry, slip, skip, cut, guess, guess_slip),
        )

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """n worked solutions for each prompt, in the order of the prompts.

        Raises:
            UserError: when a prompt is not an addition problem.
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
                tokens = self.tokenizer.encode_text(text)
                tokens += [self.tokenizer.end_of_turn_id] if finished else []
                if len(tokens) > sampling.max_new_tokens:
                    tokens, finished = tokens[: sampling.max_new_tokens], False
                completions.append(Completion(tokens, [], "stop" if finished else "length"))
            results.append(completions)
        return results

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """A program has no weights."""
        raise UserError("the addition teacher takes no weights; train with engine torch or vllm")

    def close(self) -> None:
        """Nothing to free."""
