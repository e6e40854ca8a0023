"""Put our results beside the paper's tables (eval/published.yaml)."""

from pathlib import Path
from typing import Any

import yaml

from custom_components.figures import percent

PUBLISHED = Path(__file__).with_name("published.yaml")
BENCHMARKS = {
    "aime24": "AIME 2024",
    "aime25": "AIME 2025",
    "math500": "MATH-500",
    "gpqa_diamond": "GPQA-D",
}


def is_published(results: dict[str, dict[str, Any]]) -> bool:
    """Tell whether the paper has a figure for any of the tasks in {model: {task: summary}}."""
    return any(f"reasoning_{b}" in tasks for tasks in results.values() for b in BENCHMARKS)


def published_figures() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of eval/published.yaml, by table."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_tables(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's ablation and main tables, with our results beside its figures.

    Args:
        results: {model: {task: summary}}. Models are found by the name of the stage
            (eval/published.yaml), tasks by reasoning_<benchmark>.

    Returns:
        [{"title", "columns", "rows"}], with cells as text. Our results have an interval, and tell
        if the published figure is outside it.
    """
    figures = published_figures()
    titles = {"ablation": "Ablation: published, ours", "main": "Main table: published, ours"}
    tables = []
    for key, title in titles.items():
        columns = [""]
        for name in BENCHMARKS.values():
            columns += [name, f"{name}, ours"]
        rows = []
        for line in figures[key]:
            cells = [line["name"]]
            for benchmark in BENCHMARKS:
                figure = line.get(benchmark)
                ours = results.get(line["stage"], {}).get(f"reasoning_{benchmark}")
                cells.append("" if figure is None else str(figure))  # digits as published
                cells.append(_ours(ours, figure))
            rows.append(cells)
        used = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
        tables.append(
            {
                "title": title,
                "columns": [columns[i] for i in used],
                "rows": [[row[i] for i in used] for row in rows],
            }
        )
    return tables


def _ours(result: dict[str, Any] | None, figure: float | None) -> str:
    if result is None:
        return ""
    low, high = result["ci"]
    outside = figure is not None and not 100 * low <= figure <= 100 * high
    return percent(result["accuracy"], result["ci"]) + (", published outside" if outside else "")
