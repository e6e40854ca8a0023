"""Print a chain's results as a table in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from custom_components.figures import p_value, percent, signed


def print_ablation(report: dict[str, Any]) -> None:
    """Print a line for each stage, then the paired differences; `report` as of `build_report`."""
    labels = list(report["stages"][-1]["by_difficulty"]) if report["stages"] else []
    table = Table(title=f"{report['task']}, {report['stages'][-1]['n_problems']} held-out problems")
    for column in ("stage", "accuracy % [95 % CI]", *labels, "truncated %", "no answer %"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in report["stages"]:
        # Its problems may have other labels than those of the last stage.
        by_label = stage["by_difficulty"]
        parts = [percent(by_label[k]["accuracy"]) if k in by_label else "–" for k in labels]
        rates = [percent(stage[k]) for k in ("truncated", "no_answer")]
        table.add_row(stage["label"], percent(stage["accuracy"], stage["ci"]), *parts, *rates)
    console = Console(width=120)
    console.print(table)
    for pair in report["paired"]:
        difference = signed(pair["difference"], pair["ci"])
        sign = "" if pair["p"] < 0.001 else "= "
        note = "" if pair["p"] < 0.05 else "   no significant difference"
        console.print(
            f"{pair['b']} - {pair['a']}: {difference} points, p {sign}{p_value(pair['p'])}{note}"
        )
