"""Compare evaluations, problem by problem.

    python -m eval.compare sft=runs/tiny/eval/sft grpo=runs/tiny/eval/grpo
    python -m eval.compare runs/phi4_mini/eval/all --published --markdown table.md --json table.json

Takes run folders of recipes/evaluate.py (all models in them, or the one of a `<name>.json`) and output
folders of lm_eval. Two models are compared on the problems that both have: difference of the mean
accuracies, its 95 % interval, p of an exact sign-flip test, problems won and lost.
"""

import argparse
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from custom_components.config import UserError
from custom_components.io import write_json, write_text
from custom_components.report.table import p_value, percent, signed
from eval.logs import Logged, read_logs
from eval.results import summary
from eval.statistics import paired_difference

PUBLISHED = Path(__file__).with_name("published.yaml")
BENCHMARKS = {
    "aime24": "AIME 2024", "aime25": "AIME 2025", "math500": "MATH-500", "gpqa_diamond": "GPQA-D",
}  # fmt: skip
MUST_AGREE = ("version", "data_sha256", "sampling", "repeats", "prompt")
ALL_PAIRS = 4
"""More models than this are compared with their neighbours and the first with the last."""


def compare(
    models: list[Logged], pairs: list[tuple[str, str]] | None = None, task: str | None = None
) -> dict[str, Any]:
    """Results and paired differences, by task.

    Args:
        models: with names that differ.
        pairs: (a, b) by name; all of up to `ALL_PAIRS` models, else neighbours and the ends.
        task: this one alone; all that at least one model has by default.

    Returns:
        {task: {"results": {name: summary}, "pairs": [{"a", "b", "problems", "only_a", "only_b",
        "difference", "ci", "p", "p_holm", "won", "lost", "tied", "won_ids", "lost_ids"}],
        "warnings": [str]}}; differences are b minus a, p_holm is Holm's for the task's pairs.

    Raises:
        UserError: when there is no such task or model, or two have no problem in common.
    """
    names = [model.name for model in models]
    for name in [n for pair in pairs or [] for n in pair]:
        if name not in names:
            raise UserError(f"--pair: no model {name!r} among {', '.join(names)}")
    tasks = dict.fromkeys(t for model in models for t in model.tasks)
    if task is not None and task not in tasks:
        raise UserError(f"--task: nobody has {task!r}; there are {', '.join(tasks)}")
    return {t: _compare_task(models, t, pairs) for t in tasks if task in (None, t)}


def _compare_task(
    models: list[Logged], task: str, pairs: list[tuple[str, str]] | None
) -> dict[str, Any]:
    having = {model.name: model for model in models if task in model.tasks}
    names = list(having)
    if pairs is not None:
        wanted = [(a, b) for a, b in pairs if a in having and b in having]
    elif len(names) <= ALL_PAIRS:
        wanted = list(combinations(names, 2))
    else:
        wanted = [*zip(names, names[1:], strict=False), (names[0], names[-1])]
    scores = {n: {row["id"]: row["accuracy"] for row in m.tasks[task]} for n, m in having.items()}
    found = [_pair(task, a, b, scores[a], scores[b]) for a, b in wanted]
    for pair, adjusted in zip(found, holm([pair["p"] for pair in found]), strict=True):
        pair["p_holm"] = adjusted
    return {
        "results": {name: summary(model.tasks[task]) for name, model in having.items()},
        "pairs": found,
        "warnings": [
            w for a, b in wanted for w in _differences(task, having[a], having[b])
        ],
    }  # fmt: skip


def _pair(task: str, a: str, b: str, of_a: dict[str, float], of_b: dict[str, float]) -> dict:
    common = [i for i in of_a if i in of_b]
    if not common:
        raise UserError(f"{task}: {a} and {b} have no problem in common")
    return {
        "a": a,
        "b": b,
        "problems": len(common),
        "only_a": len(of_a) - len(common),
        "only_b": len(of_b) - len(common),
        **paired_difference([of_a[i] for i in common], [of_b[i] for i in common]),
        "won_ids": [i for i in common if of_b[i] > of_a[i]],
        "lost_ids": [i for i in common if of_b[i] < of_a[i]],
    }


def _differences(task: str, a: Logged, b: Logged) -> list[str]:
    """What differs in the protocol of two results, where both say."""
    of_a, of_b = (m.provenance.get("tasks", {}).get(task, {}) for m in (a, b))
    return [
        f"{task}: {a.name} and {b.name} differ in {key}: {of_a[key]!s:.60} and {of_b[key]!s:.60}"
        for key in MUST_AGREE
        if key in of_a and key in of_b and of_a[key] != of_b[key]
    ]


def holm(ps: list[float]) -> list[float]:
    """Holm's adjusted p values (Holm 1979): the chance of any false alarm stays below 5 %."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def is_published(results: dict[str, dict[str, Any]]) -> bool:
    """Whether the paper has a figure for any of the tasks ({model: {task: summary}})."""
    return any(f"reasoning_{b}" in tasks for tasks in results.values() for b in BENCHMARKS)


def published_tables(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's ablation and main tables, ours beside them.

    Args:
        results: {model: {task: summary}}; models are found by the name of the stage
            (eval/published.yaml), tasks by reasoning_<benchmark>.

    Returns:
        [{"title", "columns", "rows"}], cells as text. Ours has an interval, and says where the
        published figure lies outside it.
    """
    of_paper = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    titles = {"ablation": "Ablation: published, ours", "main": "Main table: published, ours"}
    tables = []
    for key, title in titles.items():
        columns = [""]
        for name in BENCHMARKS.values():
            columns += [name, f"{name}, ours"]
        rows = []
        for line in of_paper[key]:
            cells = [line["name"]]
            for benchmark in BENCHMARKS:
                figure = line.get(benchmark)
                ours = results.get(line["stage"], {}).get(f"reasoning_{benchmark}")
                cells.append("" if figure is None else f"{figure:.1f}")
                cells.append(_ours(ours, figure))
            rows.append(cells)
        used = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
        tables.append({
            "title": title,
            "columns": [columns[i] for i in used],
            "rows": [[row[i] for i in used] for row in rows],
        })  # fmt: skip
    return tables


def _ours(result: dict[str, Any] | None, figure: float | None) -> str:
    if result is None:
        return ""
    low, high = result["ci"]
    outside = figure is not None and not 100 * low <= figure <= 100 * high
    return percent(result["accuracy"], result["ci"]) + (", published outside" if outside else "")


def result_table(task: str, of_task: dict[str, Any]) -> dict[str, Any]:
    """A task's results as text: {"title", "columns", "rows"}."""
    results = of_task["results"]
    most = max(r["repeats"] for r in results.values())
    columns = ["", "problems", "accuracy % [95 %]"]
    columns += ["pass@n %", "cons@n % (ties)", "n"] if most > 1 else []
    columns += ["truncated %", "no answer %", "undecided %", "tokens"]
    rows = []
    for name, r in results.items():
        n = str(r["repeats"])
        row = [name, str(r["n_problems"]), percent(r["accuracy"], r["ci"])]
        if most > 1:
            row += [percent(r["pass_at_k"][n]), f"{percent(r['cons_at_k'][n])} ({r['ties']})", n]
        row += [percent(r[k]) for k in ("truncated", "no_answer", "undecided")]
        rows.append([*row, "" if r["num_tokens"] is None else f"{r['num_tokens']:.0f}"])
    return {"title": task, "columns": columns, "rows": rows}


def pair_table(task: str, of_task: dict[str, Any]) -> dict[str, Any]:
    """A task's comparisons as text: {"title", "columns", "rows"}."""
    several = len(of_task["pairs"]) > 1
    rows = []
    for pair in of_task["pairs"]:
        p = pair["p_holm"] if several else pair["p"]
        note = "" if p < 0.05 else "no significant difference"
        lacking = pair["only_a"] + pair["only_b"]
        note += f"{'; ' if note and lacking else ''}{lacking} problems only one has" * bool(lacking)
        rows.append(
            [f"{pair['b']} - {pair['a']}", str(pair["problems"]),
             signed(pair["difference"], pair["ci"]), p_value(pair["p"]),
             *([p_value(pair["p_holm"])] if several else []), str(pair["won"]), str(pair["lost"]),
             note]
        )  # fmt: skip
    columns = ["", "problems", "points [95 %]", "p", *(["p, Holm"] if several else []), "won",
               "lost", ""]  # fmt: skip
    return {"title": f"{task}, paired", "columns": columns, "rows": rows}


def markdown(tables: list[dict[str, Any]], warnings: list[str]) -> str:
    """Tables as Markdown."""
    parts = []
    for table in tables:
        lines = [f"### {table['title']}\n", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|" + "---|" * len(table["columns"]))
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *(f"Warning: {w}" for w in warnings)]) + "\n"


def show(tables: list[dict[str, Any]], warnings: list[str]) -> None:
    """Tables on the terminal."""
    console = Console(width=max(120, Console().width))
    for table in tables:
        drawn = Table(title=table["title"])
        for i, column in enumerate(table["columns"]):
            drawn.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
        for row in table["rows"]:
            drawn.add_row(*row)
        console.print(drawn)
    for warning in warnings:
        console.print(f"warning: {warning}")


def named_logs(arguments: list[str]) -> list[Logged]:
    """Models of `path` and `name=path` arguments.

    Raises:
        UserError: when a path is not there, a name is given to several, or two are the same.
    """
    models: list[Logged] = []
    for argument in arguments:
        name, mark, path = argument.rpartition("=")
        if not Path(path).exists():
            raise UserError(f"{path} does not exist")
        found = read_logs(Path(path))
        if mark and len(found) > 1:
            raise UserError(
                f"{path} holds {', '.join(m.name for m in found)}; name one: {name}={path}/NAME.json"
            )
        for model in found:
            model.name = name or model.name
            if any(model.name == other.name for other in models):
                raise UserError(f"two models are called {model.name}; give names: name=path")
            models.append(model)
    return models


def main(argv: list[str] | None = None) -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("results", nargs="+", help="path, or name=path")
    parser.add_argument("--task", help="this task alone")
    parser.add_argument("--pair", action="append", metavar="A:B", help="compare B with A")
    parser.add_argument("--published", action="store_true", help="the paper's tables beside ours")
    parser.add_argument("--list-problems", action="store_true", help="name those won and lost")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--json", type=Path, help="file for the unrounded numbers")
    args = parser.parse_args(argv)
    try:
        models = named_logs(args.results)
        pairs = args.pair and [_names(pair) for pair in args.pair]
        compared = compare(models, pairs, args.task)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    tables = [
        table
        for task, of_task in compared.items()
        for table in (result_table(task, of_task), pair_table(task, of_task))
        if table["rows"]
    ]
    if args.published:
        results = {m.name: {t: compared[t]["results"][m.name] for t in compared if t in m.tasks}
                   for m in models}  # fmt: skip
        tables += published_tables(results)
    warnings = [w for of_task in compared.values() for w in of_task["warnings"]]
    show(tables, warnings)
    if args.list_problems:
        for task, of_task in compared.items():
            for pair in of_task["pairs"]:
                for what in ("won", "lost"):
                    print(f"{task}: {pair['b']} {what} against {pair['a']}: "
                          f"{' '.join(pair[f'{what}_ids']) or 'none'}")  # fmt: skip
    if args.markdown:
        write_text(args.markdown, markdown(tables, warnings))
    if args.json:
        write_json(args.json, compared)
    return 0


def _names(pair: str) -> tuple[str, str]:
    a, mark, b = pair.partition(":")
    if not (a and mark and b):
        raise UserError(f"--pair takes A:B, not {pair!r}")
    return a, b


if __name__ == "__main__":
    sys.exit(main())
