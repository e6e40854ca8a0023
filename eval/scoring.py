"""Scores responses in lm-eval tasks, with the project's verifier."""

import atexit
import os
from functools import cache
from typing import Any

from custom_components.verifier import VerifierPool
from custom_components.verifier.types import Item
from eval.estimators import cons_at_k, pass_at_k

RATES = ("truncated", "no_answer", "undecided", "response_length")
METRICS = ("accuracy", "pass_at_n", "cons_at_n", "tied", *RATES, "samples")
"""What a task reports of a problem; `samples` are the judged responses themselves."""

REASONING_OPEN = "REASONTUNE_REASONING_OPEN"
"""Environment variable: 1 where the chat template has already opened <think>."""


class Response(str):
    """A response that knows how it ended; our engines' LM returns it, other LMs plain text.

    Attributes:
        finish_reason: stop or length.
        num_tokens: generated; 0 where that is not known.
        reasoning_open: the prompt had already opened <think>.
    """

    finish_reason: str = "stop"
    num_tokens: int = 0
    reasoning_open: bool = False

    @classmethod
    def of(
        cls, text: str, finish_reason: str, num_tokens: int = 0, reasoning_open: bool = False
    ) -> "Response":
        response = cls(text)
        response.finish_reason, response.num_tokens = finish_reason, num_tokens
        response.reasoning_open = reasoning_open
        return response

    @property
    def cut_off(self) -> bool:
        """Whether it hit the limit, or its reasoning never closed."""
        opened = self.reasoning_open or "<think>" in self
        return self.finish_reason == "length" or (opened and "</think>" not in self)


@cache
def pool() -> VerifierPool:
    """One pool for the process, closed at its end."""
    verifiers = VerifierPool(workers=2)
    atexit.register(verifiers.close)
    return verifiers


def score(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """`process_results` of the tasks.

    Args:
        doc: with `answer`; with `choices` ("ABCD") the answer is a letter.
        results: what the filter left: a list of responses (repeats), or one response.

    Returns:
        `METRICS` of one problem (see `problem_metrics`).
    """
    responses = results[0] if isinstance(results[0], list) else results
    return problem_metrics(judged(doc, responses))


def judged(doc: dict[str, Any], responses: list[str]) -> list[dict[str, Any]]:
    """Each response with its verdict.

    Args:
        doc: see `score`.
        responses: to one problem; plain text counts as ended by itself.

    Returns:
        per response verdict, reason, prediction; finish_reason and reasoning_open (see `Response`);
        truncated (cut off, or its reasoning never closed); length in characters, num_tokens; label,
        its class of equivalent answers (0: the correct ones; None: no answer).
    """
    choices = doc.get("choices") or None
    always_open = os.environ.get(REASONING_OPEN) == "1"
    ours = [
        r if isinstance(r, Response) else Response.of(r, "stop", reasoning_open=always_open)
        for r in responses
    ]
    verdicts = list(
        pool().verify_all(
            Item(
                str(doc["answer"]),
                str(r),
                reasoning_open=r.reasoning_open,
                truncated=r.finish_reason == "length",
                choices=choices,
            )
            for r in ours
        )
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
        for r, v, label in zip(ours, verdicts, labels, strict=True)
    ]


def equivalence_classes(
    predictions: list[str | None], correct: list[bool], choices: str | None = None
) -> list[int | None]:
    """Which of a problem's answers are the same, by the verifier.

    Args:
        predictions: as extracted; None where there is none.
        correct: verdicts. Correct answers are one class, 0.
        choices: letters of a multiple-choice question, which are compared as they are.

    Returns:
        a class for each answer, None for none.
    """
    wrong = dict.fromkeys(
        p for p, ok in zip(predictions, correct, strict=True) if p is not None and not ok
    )
    representatives: list[str] = []
    class_of: dict[str, int] = {}
    for prediction in wrong:
        # letters differ as they are, and so do two integers; all else the verifier has to say
        compared = (
            []
            if choices
            else [
                (i, r)
                for i, r in enumerate(representatives)
                if not (prediction.isdecimal() and r.isdecimal())
            ]
        )
        verdicts = pool().verify_all(Item(r, prediction, extract=False) for _, r in compared)
        same = [i for (i, _), v in zip(compared, verdicts, strict=True) if v.verdict == "correct"]
        if not same:
            representatives.append(prediction)
        class_of[prediction] = 1 + (same[0] if same else len(representatives) - 1)
    return [
        0 if ok else None if p is None else class_of[p]
        for p, ok in zip(predictions, correct, strict=True)
    ]


def problem_metrics(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """`METRICS` of one problem.

    Args:
        samples: its judged responses (see `judged`).

    Returns:
        accuracy (mean over the n samples), pass_at_n (any is right), cons_at_n (the majority's
        answer is right), tied (the majority is), rates of truncated, missing and undecided answers,
        mean response_length in characters, and the samples.
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


def count_samples(of_problems: list[list[dict[str, Any]]]) -> int:
    """Aggregation of `samples`: how many there are."""
    return sum(map(len, of_problems))
