"""Score the responses of lm-eval tasks with the project's verifier."""

import atexit
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from custom_components.verifier import VerifierPool
from custom_components.verifier.pool.options import VerifierConfig
from custom_components.verifier.types import Item
from eval.estimators import cons_at_k, pass_at_k

RATES = ("truncated", "no_answer", "undecided", "response_length")
METRICS = ("accuracy", "pass_at_n", "cons_at_n", "tied", *RATES, "samples")
"""Metrics that a task reports for a problem; `samples` are the verified responses themselves."""

REASONING_OPEN = "REASONTUNE_REASONING_OPEN"
"""Environment variable that is 1 if the chat template has already opened <think>."""
ROUNDING = "REASONTUNE_ROUNDING"
"""Environment variable that is 1 to accept every decimal that rounds to a decimal gold."""


class Response(str):
    """Hold a response and how it ended. `EngineLM` returns it; other LMs return plain text.

    Attributes:
        finish_reason: stop or length.
        num_tokens: generated tokens; 0 if their number is not known.
        reasoning_open: whether the prompt had already opened <think>.
    """

    finish_reason: str = "stop"
    num_tokens: int = 0
    reasoning_open: bool = False

    @classmethod
    def of(
        cls, text: str, finish_reason: str, num_tokens: int = 0, reasoning_open: bool = False
    ) -> "Response":
        """Return the text as a response."""
        response = cls(text)
        response.finish_reason = finish_reason
        response.num_tokens = num_tokens
        response.reasoning_open = reasoning_open
        return response

    @property
    def cut_off(self) -> bool:
        """Tell whether the response hit the limit, or its reasoning never closed."""
        opened = self.reasoning_open or "<think>" in self
        return self.finish_reason == "length" or (opened and "</think>" not in self)


_options: VerifierConfig | None = None


def use_verifier(options: VerifierConfig | None) -> None:
    """Score with these options from now on; None: with those of the environment."""
    global _options
    _options = options


def pool() -> VerifierPool:
    """Return the pool that scores now. Every pool is closed when the process exits."""
    options = _options or VerifierConfig(rounding=os.environ.get(ROUNDING) == "1")
    return _pool(options.workers, options.time_limit, options.rounding)


@cache
def _pool(workers: int, time_limit: float, rounding: bool) -> VerifierPool:
    verifiers = VerifierPool(workers, time_limit, rounding=rounding)
    atexit.register(verifiers.close)
    return verifiers


def score(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """Compute the metrics of one problem, as the tasks' `process_results`.

    Args:
        doc: problem with its `answer`; with `choices` ("ABCD") the answer is a letter; with
            `reasoning_open` plain text begins inside <think>.
        results: results of the filter: a list of responses (repeats), or one response.

    Returns:
        `METRICS` of the problem (see `problem_metrics`).
    """
    responses = results[0] if isinstance(results[0], list) else results
    return problem_metrics(verified_responses(doc, responses))


def verified_responses(doc: dict[str, Any], responses: Sequence[str]) -> list[dict[str, Any]]:
    """Verify the responses to one problem.

    Args:
        doc: see `score`.
        responses: responses to the problem; plain text counts as not cut off.

    Returns:
        For each response: verdict, reason, prediction; finish_reason and reasoning_open (see
        `Response`); truncated (cut off, or its reasoning never closed); length in characters,
        num_tokens; and label, its class of equivalent answers (0: the correct ones; None: no
        answer).
    """
    choices = doc.get("choices") or None
    always_open = os.environ.get(REASONING_OPEN) == "1" or bool(doc.get("reasoning_open"))
    samples = [
        r if isinstance(r, Response) else Response.of(r, "stop", reasoning_open=always_open)
        for r in responses
    ]
    verdicts = pool().verify_all(
        Item(
            str(doc["answer"]),
            str(r),
            reasoning_open=r.reasoning_open,
            truncated=r.finish_reason == "length",
            choices=choices,
        )
        for r in samples
    )
    labels = equivalence_classes(
        [v.prediction for v in verdicts], [v.verdict == "correct" for v in verdicts], choices
    )
    return [
        {
            "verdict": v.verdict,
            "reason": v.reason,
            "prediction": v.prediction,
            "finish_reason": r.finish_reason,
            "reasoning_open": r.reasoning_open,
            "truncated": r.cut_off,
            "length": len(r),
            "num_tokens": r.num_tokens,
            "label": label,
        }
        for r, v, label in zip(samples, verdicts, labels, strict=True)
    ]


def equivalence_classes(
    predictions: list[str | None], correct: list[bool], choices: str | None = None
) -> list[int | None]:
    """Group a problem's answers into classes that the verifier finds equal.

    Args:
        predictions: extracted answers; None for a response without one.
        correct: whether each answer is correct. The correct answers are one class, 0.
        choices: letters of a multiple-choice question, which are compared as text.

    Returns:
        The class of each answer, or None.
    """
    wrong = dict.fromkeys(
        p for p, ok in zip(predictions, correct, strict=True) if p is not None and not ok
    )
    representatives: list[str] = []
    class_of: dict[str, int] = {}
    for prediction in wrong:
        # Letters that differ as text are different, and so are integers; the verifier compares
        # everything else.
        candidates = [
            (i, r)
            for i, r in enumerate(representatives)
            if not choices and not (prediction.isdecimal() and r.isdecimal())
        ]
        verdicts = pool().verify_all(Item(r, prediction, extract=False) for _, r in candidates)
        same = [i for (i, _), v in zip(candidates, verdicts, strict=True) if v.verdict == "correct"]
        if not same:
            representatives.append(prediction)
        class_of[prediction] = 1 + (same[0] if same else len(representatives) - 1)
    return [
        0 if ok else None if p is None else class_of[p]
        for p, ok in zip(predictions, correct, strict=True)
    ]


def problem_metrics(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the `METRICS` of one problem.

    Args:
        samples: verified responses to the problem (see `verified_responses`).

    Returns:
        accuracy (mean over the n samples), pass_at_n (whether any is right), cons_at_n (whether the
        majority's answer is right), tied (whether the majority is tied), rates of truncated,
        missing and undecided answers, mean response_length in characters, and the samples.
    """
    n = len(samples)
    correct = [s["verdict"] == "correct" for s in samples]
    consensus, tied = cons_at_k([s["label"] for s in samples], correct)
    return {
        "accuracy": sum(correct) / n,
        "pass_at_n": pass_at_k(n, sum(correct))[-1],
        "cons_at_n": consensus,
        "tied": tied,
        "truncated": sum(s["truncated"] for s in samples) / n,
        "no_answer": sum(s["prediction"] is None for s in samples) / n,
        "undecided": sum(s["verdict"] == "undecided" for s in samples) / n,
        "response_length": sum(s["length"] for s in samples) / n,
        "samples": samples,
    }


def count_samples(by_problem: list[list[dict[str, Any]]]) -> int:
    """Aggregate `samples` to their number."""
    return sum(map(len, by_problem))
