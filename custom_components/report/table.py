"""Results as tables in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from custom_components.figures import p_value, percent, signed


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
