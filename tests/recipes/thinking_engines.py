"""Engines whose every second response boxes the right answer inside a reasoning that never closes."""

from custom_components.data.column_addition import PROBLEM
from custom_components.engines.engine import Completion
from custom_components.engines.torch_engine import TorchEngine


def completions(tokenizer, prompt_ids, n):
    """n responses to an addition: closed and right, then open with the right box, and so on."""
    a, b = map(int, PROBLEM.search(tokenizer.decode(prompt_ids)).groups())
    responses = []
    for i in range(n):
        closed = i % 2 == 0 and a % 10 != 0  # problems with a round number are never solved
        text = f"<think>\nit is \\boxed{{{a + b}}}? "
        ids = tokenizer.encode_response(f"{text}</think>\n\\boxed{{{a + b}}}" if closed else text)
        ids.append(tokenizer.end_of_turn_id)
        responses.append(Completion(ids, [-1.0] * len(ids), "stop"))
    return responses


class Teacher:
    """Answers without a model."""

    name, rope_factors = "teacher", None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def generate(self, prompt_ids, n, sampling):
        return [completions(self.tokenizer, ids, n) for ids in prompt_ids]

    def close(self):
        pass


class Policy(TorchEngine):
    """Takes a model's weights, and answers without them."""

    def generate(self, prompt_ids, n, sampling):
        return [completions(self.tokenizer, ids, n) for ids in prompt_ids]
