"""Scores responses in lm-eval tasks, with the project's verifier."""

import atexit
from functools import cache
from typing import Any

from custom_components.verifier import VerifierPool

METRICS = ("accuracy", "truncated", "no_answer", "undecided", "response_length")


class Response(str):
    """A response that knows how it ended; our engines' LM returns it, other LMs plain text."""

    finish_reason: str = "stop"

    @classmethod
    def of(cls, text: str, finish_reason: str) -> "Response":
        response = cls(text)
        response.finish_reason = finish_reason
        return response


@cache
def pool() -> VerifierPool:
    """One pool for the process, closed at its end."""
    verifiers = VerifierPool(workers=2)
    atexit.register(verifiers.close)
    return verifiers


def score(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """`process_results` of the tasks: rates over a problem's repeats.

    Args:
        doc: with `answer`; with `choices` ("ABCD") the answer is a letter.
        results: what the filter left: a list of responses (repeats), or one response.

    Returns:
        rates in [0, 1] of `METRICS`; response_length is the mean in characters.
    """
    responses = results[0] if isinstance(results[0], list) else results
    verdicts = pool().verify_all(
        {
            "gold": str(doc["answer"]),
            "response": str(r),
            "truncated": getattr(r, "finish_reason", "stop") == "length",
            "choices": doc.get("choices") or None,
        }
        for r in responses
    )
    n = len(responses)
    cut = [
        getattr(r, "finish_reason", "stop") == "length" or ("<think>" in r and "</think>" not in r)
        for r in responses
    ]
    return {
        "accuracy": sum(v.verdict == "correct" for v in verdicts) / n,
        "truncated": sum(cut) / n,
        "no_answer": sum(v.prediction is None for v in verdicts) / n,
        "undecided": sum(v.verdict == "undecided" for v in verdicts) / n,
        "response_length": sum(map(len, responses)) / n,
    }
