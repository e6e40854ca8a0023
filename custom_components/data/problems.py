"""Read problems to sample responses for.

Each function yields rows with id, source, problem, answer and, if known, domain and difficulty. A
bad row is yielded as a `Reject`.
"""

import os
from collections.abc import Iterator
from typing import Any

from custom_components.config import UserError
from custom_components.data.rows import Reject, label, load_table, resolve, text_cell

STATISTICS = ("pass_rate", "length_cv", "length_range")
"""Columns of the `prompts` split that summarise the responses to a problem."""
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


def rejects_line(rejects: list[Reject], usable: int) -> str:
    """Return the line that counts rejected problems, at least one, and names the first."""
    return (
        f"{len(rejects)} of {usable + len(rejects)} problems rejected; first: "
        f"{rejects[0].where}: {rejects[0].reason}"
    )


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
    statistics: bool = False,
) -> Problems:
    """Yield the problems of a JSONL or Parquet file, or of a data set on the hub.

    A row without an id is numbered. A row whose id an earlier one has gets its number, too, and a
    line at the end counts them.

    Args:
        path: file, or hub id.
        problem, answer, domain, difficulty: names of the columns; the last two are optional. A
            nested one is named by its path: `prompt.0.content`, `reward_model.ground_truth`.
        source: name of the source in the rows.
        split, config: split and configuration of a data set on the hub.
        limit: number of rows to read.
        offset: number of rows to skip first.
        statistics: whether to keep the statistics of responses that curate's `prompts` split has;
            RL's selection then samples none of the prompts that they rule out already.
    """
    ids: set[str] = set()
    repeated = 0
    for i, (where, row) in enumerate(load_table(path, split, config)):
        if limit is not None and i >= offset + limit:
            break
        name = None if isinstance(row, Reject) else label(row.get("id"))
        name = f"{source}-{i}" if name is None else name
        is_repeated = name in ids
        while name in ids:
            name = f"{name}-{i}"
        ids.add(name)
        if i < offset:
            continue
        if isinstance(row, Reject):
            yield row
            continue
        try:
            texts = {"problem": text_cell(row, problem), "answer": text_cell(row, answer)}
        except KeyError as e:
            yield Reject(where, f"column {e.args[0]!r} is missing or empty")
            continue
        except ValueError as e:
            yield Reject(where, str(e))
            continue
        repeated += is_repeated
        yield {
            "id": name,
            "source": source,
            **texts,
            "domain": label(row.get(domain)) if domain else None,
            "difficulty": label(row.get(difficulty)) if difficulty else None,
            **({name: row[name] for name in STATISTICS if name in row} if statistics else {}),
        }
    if repeated and os.environ.get("RANK", "0") == "0":
        print(f"{path}: {repeated} rows repeat an earlier id; theirs end in the row's number")


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
        if isinstance(row, Reject):
            yield row
            continue
        _, mark, answer = str(row.get("answer", "")).rpartition("####")
        if not mark or not row.get("question"):
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
