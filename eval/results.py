"""Collect an evaluation's results: one row for each problem, and their summary."""

from typing import Any

from eval.estimators import cons_at_k, pass_at_k
from eval.scoring import METRICS, RATES
from eval.statistics import accuracy_interval

DOC = ("id", "problem", "answer", "difficulty", "choices")
"""Columns of a problem."""


def problem_row(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Return one problem's scores and responses, from a sample that lm-eval logs."""
    doc = sample["doc"]
    return {
        "task": task,
        **{key: doc.get(key) for key in DOC},
        **{metric: sample[metric] for metric in METRICS},
        "responses": [str(r) for r in sample["resps"][0]],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise a task's problems.

    Args:
        rows: rows of `problem_row`, all with the same number of samples.

    Returns:
        accuracy (avg@k) with its interval, pass_at_k and cons_at_k by k as text, ties (problems
        whose majority is tied), mean rates, mean num_tokens (None if the engine does not count
        them), counts, and accuracies by_difficulty.
    """
    n = len(rows[0]["samples"])
    right = [[s["verdict"] == "correct" for s in row["samples"]] for row in rows]
    passes = [pass_at_k(n, sum(correct)) for correct in right]
    votes = {
        k: [
            cons_at_k([s["label"] for s in row["samples"]], correct, k)
            for row, correct in zip(rows, right, strict=True)
        ]
        for k in _powers(n)
    }
    tokens = [s["num_tokens"] for row in rows for s in row["samples"]]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def accuracy(part: list[dict[str, Any]]) -> dict[str, Any]:
        scores = [row["accuracy"] for row in part]
        return {
            "accuracy": mean(scores),
            "ci": list(accuracy_interval(scores, n)),
            "n_problems": len(part),
            "n_samples": len(part) * n,
        }

    labels = sorted({row["difficulty"] for row in rows if row["difficulty"]})
    return accuracy(rows) | {
        "repeats": n,
        "pass_at_k": {str(k): mean([p[k - 1] for p in passes]) for k in range(1, n + 1)},
        "pass_at_n_ci": list(accuracy_interval([p[-1] for p in passes])),
        "cons_at_k": {
            str(k): mean([score for score, _ in outcomes]) for k, outcomes in votes.items()
        },
        "cons_at_n_ci": list(accuracy_interval([score for score, _ in votes[n]])),
        "ties": sum(tied > 0 for _, tied in votes[n]),
        **{m: mean([row[m] for row in rows]) for m in RATES},
        "num_tokens": mean(tokens) if any(tokens) else None,
        "by_difficulty": {
            label: accuracy([r for r in rows if r["difficulty"] == label]) for label in labels
        },
    }


def _powers(n: int) -> list[int]:
    """Return 1, 2, 4, ... and n: the k at which votes are counted."""
    return sorted({*(1 << i for i in range(n.bit_length()) if 1 << i <= n), n})
