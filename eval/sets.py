"""Load the problems of evaluation sets, which must not be trained on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from custom_components.config import UserError
from custom_components.data.rows import Reject, file_and_rows, load_table, resolve
from eval.tasks import functions

SETS = {
    "math500": "math500",
    "aime24": "aime24",
    "aime25": "aime25",
    "aime26": "aime26",
    "hmmt_feb25": "hmmt_feb25",
    "hmmt_nov25": "hmmt_nov25",
    "hmmt_feb26": "hmmt_feb26",
    "amc23": "amc23",
    "olympiadbench": "olympiadbench",
    "minerva": "minerva",
    "gpqa_diamond": "gpqa_diamond",
    "gsm8k": "gsm8k_test",
    "tiny_addition": "tiny_addition",
}
"""Short names of the sets, and the functions of eval/tasks/functions.py that load them."""


def evaluation_problems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the problems of evaluation sets, loaded as the evaluation loads them.

    Args:
        names: keys of `SETS`, or JSONL or Parquet files with a column problem or question;
            `file.jsonl[:200]` is its first 200 rows.

    Yields:
        (name of the set, text of the problem). A problem with choices comes twice, with and without
        them.

    Raises:
        UserError: if a name is unknown or a set cannot be loaded.
    """
    for name in names:
        if name in SETS:
            yield from _task_problems(name)
        elif Path(file_and_rows(name)[0]).suffix in (".jsonl", ".json", ".parquet"):
            yield from _file_problems(name)
        else:
            raise UserError(
                f"evaluation set {name!r} is unknown; give one of {', '.join(SETS)} or a .jsonl "
                "or .parquet file with a column problem or question"
            )


def _task_problems(name: str) -> Iterator[tuple[str, str]]:
    try:
        rows = getattr(functions, SETS[name])()["test"]
    except UserError as e:
        advice = ""
        if name == "gpqa_diamond":
            advice = "; GPQA is gated: ask for access on its page and log in with `hf auth login`"
        raise UserError(f"evaluation set {name}: {e}{advice}") from e
    for row in rows:
        yield name, row["problem"]
        if row["choices"]:
            yield name, row["problem"].rpartition(f"\n\n{row['choices'][0]}) ")[0]


def _file_problems(name: str) -> Iterator[tuple[str, str]]:
    path, count = file_and_rows(name)
    for where, row in islice(load_table(resolve(path, path)), count):
        if isinstance(row, Reject):
            raise UserError(f"{where}: {row.reason}")
        text = row.get("problem") or row.get("question")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: no text in a column problem or question")
        yield name, text
