"""Load the problems of the task YAMLs beside this file, which refer to these functions.

Each set comes from the Hugging Face hub, or from a copy in `$REASONTUNE_DATA` if there is one.
lm_eval's own command calls the functions with the arguments of its model; the recipe does not.
"""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import datasets

from custom_components.config import UserError
from custom_components.data import column_addition as addition
from custom_components.data.problems import gsm8k, table
from custom_components.data.rows import Reject, load_table, resolve
from eval.command_form import instruction_of, reasoning_open
from eval.scoring import count_samples, score

__all__ = [
    "aime24",
    "aime25",
    "aime26",
    "amc23",
    "count_samples",
    "gpqa_diamond",
    "gsm8k_test",
    "hmmt_feb25",
    "hmmt_feb26",
    "hmmt_nov25",
    "math500",
    "minerva",
    "olympiadbench",
    "own",
    "score",
    "tiny_addition",
]

FEATURES = datasets.Features(
    {
        name: datasets.Value("string")
        for name in ("id", "problem", "answer", "difficulty", "choices", "instruction")
    }
    | {"reasoning_open": datasets.Value("bool")}
)
LETTERS = "ABCD"


def _dataset(
    problems: Iterable[dict[str, Any] | Reject],
    metadata: dict[str, Any],
    instruction: str | None = None,
) -> dict[str, datasets.Dataset]:
    asked = {"instruction": instruction, "reasoning_open": reasoning_open(metadata)}
    rows = [
        {name: (p | asked).get(name) for name in FEATURES}
        for p in problems
        if not isinstance(p, Reject)
    ]
    return {"test": datasets.Dataset.from_list(rows, features=FEATURES)}


def tiny_addition(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load 600 held-out additions of two to six digits, the same for every seed of a chain.

    No stage of the tiny track trains on six digits.
    """
    counts: dict[int | str, int] = dict.fromkeys((2, 3, 4, 5, 6), 120)
    return _dataset(addition.column_addition("eval", counts), metadata)


def gsm8k_test(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load GSM8K's test problems, from the hub or `$REASONTUNE_DATA/gsm8k/test.jsonl`."""
    return _dataset(gsm8k(split="test"), metadata)


def whole(
    problems: Iterable[dict[str, Any] | Reject],
    metadata: dict[str, Any] | None = None,
    instruction: str | None = None,
) -> dict[str, datasets.Dataset]:
    """Return the data of a task, from a function of `custom_components.data.problems`.

    Args:
        problems: problems of the task.
        metadata: arguments of lm_eval's own command, if that asks.
        instruction: text after each problem.

    Raises:
        UserError: if a row cannot be used, since an incomplete benchmark is worthless.
    """
    rows = list(problems)
    for row in rows:
        if isinstance(row, Reject):
            raise UserError(f"problems: {row.where}: {row.reason}")
    return _dataset(rows, metadata or {}, instruction)


def own(
    path: str = "",
    problem: str = "problem",
    answer: str = "answer",
    difficulty: str | None = None,
    split: str = "train",
    instruction: str | None = None,
    **metadata: Any,
) -> dict[str, datasets.Dataset]:
    """Load the user's own problems from a file or hub set (see `problems.table`).

    They are asked with `instruction`, by default the one that the model was trained with.
    """
    if not path:
        raise UserError(
            "task reasoning_own: name its problems, by the key `problems` of recipes/evaluate.py or "
            "lm_eval's --metadata '{\"path\": ...}'"
        )
    problems = table(path, problem, answer, difficulty=difficulty, split=split, source="own")
    if instruction is None:
        instruction = instruction_of(metadata)
    return whole(problems, metadata, instruction)


def _table(
    hub: str, local: str, split: str, name: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) for a set.

    Raises:
        UserError: if a row cannot be used, since an incomplete benchmark is worthless.
    """
    for where, row in load_table(resolve(hub, local), split, name):
        if isinstance(row, Reject):
            raise UserError(f"{where}: {row.reason}")
        yield where, row


def _cell(where: str, row: dict[str, Any], *columns: str) -> Any:
    """Return the value of the first of these columns that a row has.

    Raises:
        UserError: if it has none of them.
    """
    for column in columns:
        if row.get(column) is not None:
            return row[column]
    raise UserError(f"{where}: no column {' or '.join(columns)}")


def _contest(
    name: str, hub: str, split: str, metadata: dict[str, Any]
) -> dict[str, datasets.Dataset]:
    """Load a set with a problem and its answer in each row.

    Args:
        name: short name of the set, and of its local copy.
        hub: id of the set on the hub.
        split: split there.
        metadata: arguments of lm_eval's own command.
    """
    problems = [
        {
            "id": f"{name}-{i}",
            "problem": _cell(where, row, "problem", "question"),
            "answer": str(_cell(where, row, "answer", "expected_answer")),
        }
        for i, (where, row) in enumerate(_table(hub, f"eval/{name}.jsonl", split))
    ]
    return _dataset(problems, metadata)


def aime24(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load AIME 2024 I and II, 30 problems."""
    return _contest("aime24", "HuggingFaceH4/aime_2024", "train", metadata)


def aime25(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load AIME 2025 I and II, 30 problems."""
    return _contest("aime25", "math-ai/aime25", "test", metadata)


def aime26(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load AIME 2026 I and II, 30 problems."""
    return _contest("aime26", "MathArena/aime_2026", "train", metadata)


def hmmt_feb25(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load the Harvard-MIT Mathematics Tournament of February 2025, 30 problems."""
    return _contest("hmmt_feb25", "MathArena/hmmt_feb_2025", "train", metadata)


def hmmt_nov25(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load the Harvard-MIT Mathematics Tournament of November 2025, 30 problems."""
    return _contest("hmmt_nov25", "MathArena/hmmt_nov_2025", "train", metadata)


def hmmt_feb26(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load the Harvard-MIT Mathematics Tournament of February 2026, 33 problems."""
    return _contest("hmmt_feb26", "MathArena/hmmt_feb_2026", "train", metadata)


def amc23(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load AMC 12 of 2023 without its choices, 40 problems."""
    return _contest("amc23", "math-ai/amc23", "test", metadata)


def minerva(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load Minerva's problems of MIT courses (arXiv 2206.14858), 272 of several sciences."""
    return _contest("minerva", "math-ai/minervamath", "test", metadata)


def olympiadbench(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load OlympiadBench (arXiv 2402.14008): 674 problems of mathematics, in English, without images.

    Several answers are one list; the difficulty is the subfield.
    """
    table = _table(
        "Hothan/OlympiadBench", "eval/olympiadbench.jsonl", "train", "OE_TO_maths_en_COMP"
    )
    problems = []
    for i, (where, row) in enumerate(table):
        answers = _cell(where, row, "final_answer")
        context = (row.get("context") or "").strip()
        question = _cell(where, row, "question").strip()
        problems.append(
            {
                "id": f"olympiadbench-{row.get('id', i)}",
                "problem": f"{context}\n\n{question}" if context else question,
                "answer": answers if isinstance(answers, str) else ", ".join(map(str, answers)),
                "difficulty": row.get("subfield"),
            }
        )
    return _dataset(problems, metadata)


def math500(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load MATH-500; the difficulty is MATH's level."""
    rows = _table("HuggingFaceH4/MATH-500", "eval/math500.jsonl", "test")
    problems = (
        {
            "id": row["unique_id"],
            "problem": row["problem"],
            "answer": row["answer"],
            "difficulty": f"level {row['level']}",
        }
        for _, row in rows
    )
    return _dataset(problems, metadata)


def gpqa_row(row: dict[str, Any], i: int) -> dict[str, str | None]:
    """Return a GPQA row as a choice from A to D, in an order that its question decides."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    order = random.Random(row["Question"]).sample(range(4), 4)
    listed = [f"{letter}) {options[k].strip()}" for letter, k in zip(LETTERS, order, strict=True)]
    return {
        "id": f"gpqa-{i}",
        "problem": "\n".join([row["Question"].strip(), "", *listed]),
        "answer": LETTERS[order.index(0)],
        "difficulty": row.get("High-level domain"),
        "choices": LETTERS,
    }


def gpqa_diamond(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Load GPQA Diamond, a gated set: log in to the hub with an account that has access."""
    rows = _table("Idavidrein/gpqa", "eval/gpqa_diamond.jsonl", "train", "gpqa_diamond")
    return _dataset((gpqa_row(row, i) for i, (_, row) in enumerate(rows)), metadata)
