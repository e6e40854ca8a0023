"""Results as tables in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def percent(value: float, ci: list[float] | None = None) -> str:
    """`12.3 [10.1, 14.8]`, in percent."""
    text = f"{100 * value:.1f}"
    return f"{text} [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]" if ci else text


def signed(value: float, ci: list[float]) -> str:
    """`+5.0 [+1.2, +8.7]`, in percentage points."""
    return f"{100 * value:+.1f} [{100 * ci[0]:+.1f}, {100 * ci[1]:+.1f}]"


def p_value(p: float) -> str:
    """`0.013`, or `< 0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def print_results(name: str, results: dict[str, Any]) -> None:
    """One model's results, a line per task and difficulty."""
    table = Table(title=name)
    several = max(result["repeats"] for result in results.values()) > 1
    columns = ["task", "problems", "accuracy %", *(["n", "pass@n %", "cons@n %"] * several),
               "truncated %", "no answer %", "undecided %"]  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, result in results.items():
        n = str(result["repeats"])
        at_n = [n, percent(result["pass_at_k"][n]), percent(result["cons_at_k"][n])] * several
        rates = [percent(result[k]) for k in ("truncated", "no_answer", "undecided")]
        accuracy = percent(result["accuracy"], result["ci"])
        table.add_row(task, str(result["n_problems"]), accuracy, *at_n, *rates)
        for label, part in result["by_difficulty"].items():
            table.add_row(
                f"  {label}", str(part["n_problems"]), percent(part["accuracy"], part["ci"])
            )
    Console(width=140).print(table)


def print_ablation(report: dict[str, Any]) -> None:
    """The chain's table: a line per stage, then the paired differences."""
    labels = list(report["stages"][-1]["by_difficulty"]) if report["stages"] else []
    table = Table(title=f"{report['task']}, {report['stages'][-1]['n_problems']} held-out problems")
    for column in ("stage", "accuracy % [95 % CI]", *labels, "truncated %", "no answer %"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in report["stages"]:
        by_label = stage["by_difficulty"]  # another stage's problems may have other labels
        parts = [percent(by_label[k]["accuracy"]) if k in by_label else "–" for k in labels]
        rates = [percent(stage[k]) for k in ("truncated", "no_answer")]
        table.add_row(stage["label"], percent(stage["accuracy"], stage["ci"]), *parts, *rates)
    console = Console(width=120)
    console.print(table)
    for pair in report["paired"]:
        console.print(
            f"{pair['b']} - {pair['a']}: {signed(pair['difference'], pair['ci'])} points, "
            f"p {'' if pair['p'] < 0.001 else '= '}{p_value(pair['p'])}{'' if pair['p'] < 0.05 else '   no significant difference'}"
        )


def print_yields(rows: list[dict[str, Any]], unit: str) -> None:
    """The yield table of a curation: rollouts, problems and `unit` (tokens or characters)."""
    table = Table(title="yield")
    for column in ("", "rollouts", "problems", unit):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row["name"], *(f"{row[k]:,}" for k in ("rollouts", "problems", "length")))
    Console(width=100).print(table)
