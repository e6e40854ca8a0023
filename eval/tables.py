"""Print evaluation results as a table in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from custom_components.figures import percent


def print_results(name: str, results: dict[str, Any]) -> None:
    """Print one model's results, with a line for each task and difficulty."""
    table = Table(title=name)
    several = max(result["repeats"] for result in results.values()) > 1
    columns = [
        "task",
        "problems",
        "accuracy %",
        *(["n", "pass@n %", "cons@n %"] if several else []),
        "truncated %",
        "no answer %",
        "undecided %",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, result in results.items():
        n = str(result["repeats"])
        at_n = [n, percent(result["pass_at_k"][n]), percent(result["cons_at_k"][n])]
        rates = [percent(result[k]) for k in ("truncated", "no_answer", "undecided")]
        accuracy = percent(result["accuracy"], result["ci"])
        table.add_row(task, str(result["n_problems"]), accuracy, *(at_n if several else []), *rates)
        for label, part in result["by_difficulty"].items():
            table.add_row(
                f"  {label}", str(part["n_problems"]), percent(part["accuracy"], part["ci"])
            )
    Console(width=140).print(table)
