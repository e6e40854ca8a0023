"""Read problems to sample responses for.

Each function yields rows with id, source, problem, answer and, if known, domain and difficulty. A
bad row is yielded as a `Reject`.
"""

from collections.abc import Iterator
from typing import Any

from custom_components.config import UserError
from custom_components.data.rows import Reject, load_table, resolve

Problems = Iterator[dict[str, Any] | Reject]


def read_problems(problems: Problems) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Return (problems, rejects).

    Raises:
        UserError: if there is no problem.
    """
    good: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    for problem in problems:
        if isinstance(problem, Reject):
            rejects.append(problem)
        else:
            good.append(problem)
    if not good:
        first = f"; first: {rejects[0].where}: {rejects[0].reason}" if rejects else ""
        raise UserError(f"problems: no usable problem ({len(rejects)} rejected{first})")
    return good, rejects


def table(
    path: str,
    problem: str = "problem",
    answer: str = "answer",
    domain: str | None = None,
    difficulty: str | None = None,
    source: str = "problems",
    split: str = "train",
    config: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Problems:
    """Yield the problems of a JSONL or Parquet file, or of a data set on the hub.

    Args:
        path: file, or hub id.
        problem, answer, domain, difficulty: names of the columns; the last two are optional.
        source: name of the source in the rows.
        split, config: split and configuration of a data set on the hub.
        limit: number of rows to read.
        offset: number of rows to skip first.
    """
    for i, (where, row) in enumerate(load_table(path, split, config)):
        if i < offset:
            continue
        if limit is not None and i >= offset + limit:
            return
        if row is None:
            yield Reject(where, "not a JSON object")
            continue
        missing = [c for c in (problem, answer) if not str(row.get(c) or "").strip()]
        if missing:
            yield Reject(where, f"column {missing[0]!r} is missing or empty")
            continue
        yield {
            "id": str(row.get("id", f"{source}-{i}")),
            "source": source,
            "problem": str(row[problem]).strip(),
            "answer": str(row[answer]).strip(),
            "domain": str(row[domain]) if domain and row.get(domain) else None,
            "difficulty": str(row[difficulty]) if difficulty and row.get(difficulty) else None,
        }


def gsm8k(
    path: str = "openai/gsm8k",
    split: str = "train",
    limit: int | None = None,
    offset: int = 0,
    max_steps: int | None = None,
) -> Problems:
    """Yield GSM8K's questions with their final numbers.

    Args:
        path: data set on the hub, or its JSONL file.
        split: train or test.
        limit: number of rows to read.
        offset: number of rows to skip first.
        max_steps: most calculations in the solution of a problem; others are left out.
    """
    rows = load_table(resolve(path, f"gsm8k/{split}.jsonl"), split, "main")
    for i, (where, row) in enumerate(rows):
        if i < offset:
            continue
        if limit is not None and i >= offset + limit:
            return
        _, mark, answer = str((row or {}).get("answer", "")).rpartition("####")
        if row is None or not mark or not row.get("question"):
            yield Reject(where, "not a GSM8K row (question, answer ending in '#### number')")
            continue
        steps = row["answer"].count("<<")
        if max_steps is not None and steps > max_steps:
            continue
        yield {
            "id": f"gsm8k-{split}-{i}",
            "source": "gsm8k",
            "problem": row["question"].strip(),
            "answer": answer.strip().replace(",", ""),
            "domain": "arithmetic",
            "difficulty": f"{steps} steps",
        }
