"""Compare evaluations, problem by problem.

    python -m eval.compare sft=runs/tiny/eval/sft grpo=runs/tiny/eval/grpo
    python -m eval.compare runs/phi4_mini/eval/all --published --markdown table.md --json table.json

Arguments are run folders of recipes/evaluate.py (all models in them, or the one of a `<name>.json`)
and output folders of lm_eval. Two models are compared on the problems that both have: difference of
the mean accuracies, its 95 % interval, p of an exact sign-flip test, problems won and lost.
"""

import argparse
import json
import os
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.markup import escape

from custom_components.config import UserError
from custom_components.figures import p_value, percent, signed
from custom_components.io import write_json, write_text
from eval.logs import Logged, read_logs
from eval.published import is_published, published_figures, published_tables
from eval.results import summary
from eval.statistics import accuracy_interval, paired_difference

Rows = dict[str, dict[str, Any]]
"""{id of a problem: its row}."""
Table = dict[str, Any]
"""{"title", "columns", "rows"}, with cells as text."""
MUST_AGREE = ("version", "sampling", "prompt")
"""Parts of the recorded protocol. Repeats and problems are compared as they are logged."""
VARIANT = re.compile(r"(reasoning_.+)_x\d+")
"""Name of a task with more repeats, written by eval.repeats; it is the same task otherwise."""
ALL_PAIRS = 4
"""Most models of which all pairs are compared; of more models, neighbours and the two ends are."""


def compare(
    models: list[Logged], pairs: list[tuple[str, str]] | None = None, task: str | None = None
) -> dict[str, Any]:
    """Return results and paired differences, by task.

    Args:
        models: evaluations of models with different names.
        pairs: (a, b) by name; by default all pairs of up to `ALL_PAIRS` models, else neighbours and
            the two ends.
        task: only task to compare; by default all that at least one model has.

    Returns:
        {task: {"results": {name: summary}, "pairs": [{"a", "b", "problems", "only_a", "only_b",
        "difference", "ci", "p", "p_holm", "won", "lost", "tied", "won_ids", "lost_ids"}],
        "warnings": [str]}}; differences are b minus a, p_holm is Holm's for the task's pairs.

    Raises:
        UserError: if a task or model is unknown, two models have no problem in common, or a log has
            a problem twice or with different numbers of samples.
    """
    names = [model.name for model in models]
    for name in [n for pair in pairs or [] for n in pair]:
        if name not in names:
            raise UserError(f"--pair: no model {name!r} among {', '.join(names)}")
    tasks = dict.fromkeys(t for model in models for t in model.tasks)
    if task is not None and task not in tasks:
        raise UserError(f"--task: no model has {task!r}; there are {', '.join(tasks)}")
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
    rows = {name: _by_id(model, task) for name, model in having.items()}
    compared = [_pair(task, a, b, rows[a], rows[b]) for a, b in wanted]
    for pair, adjusted in zip(compared, holm([pair["p"] for pair in compared]), strict=True):
        pair["p_holm"] = adjusted
    lacking = [model.name for model in models if model.name not in having]
    warnings = [f"{task}: no result of {', '.join(lacking)}"] if lacking else []
    warnings += [
        f"{task}: {name}'s accuracy is {model.foreign[task]}, its problems are paired by doc_id"
        for name, model in having.items()
        if task in model.foreign
    ]
    for a, b in wanted:
        differ = _protocol_differences(having[a], having[b], task)
        differ += _row_differences(rows[a], rows[b])
        warnings += [f"{task}: {a} and {b} differ in {what}" for what in differ]
    return {
        "results": {
            name: foreign_summary(model.tasks[task])
            if task in model.foreign
            else summary(model.tasks[task])
            for name, model in having.items()
        },
        "pairs": compared,
        "warnings": warnings,
    }


def foreign_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the part of `eval.results.summary` that a task has which is not ours."""
    scores = [row["accuracy"] for row in rows]
    return {
        "accuracy": sum(scores) / len(scores),
        "ci": list(accuracy_interval(scores)),
        "n_problems": len(rows),
        "n_samples": len(rows),
        "repeats": 1,
    }


def _by_id(model: Logged, task: str) -> Rows:
    rows: Rows = {}
    first = model.tasks[task][0]
    for row in model.tasks[task]:
        if row["id"] in rows:
            raise UserError(f"{model.name}, {task}: problem {row['id']!r} is there twice")
        if _repeats(row) != _repeats(first):
            raise UserError(
                f"{model.name}, {task}: problem {row['id']!r} has {_repeats(row)} samples, "
                f"{first['id']!r} has {_repeats(first)}"
            )
        rows[row["id"]] = row
    return rows


def _repeats(row: dict[str, Any]) -> int:
    return len(row.get("samples", (None,)))  # one in a foreign task


def _pair(task: str, a: str, b: str, rows_a: Rows, rows_b: Rows) -> dict[str, Any]:
    """Compare two models by their rows of a task.

    Raises:
        UserError: if they have no problem in common.
    """
    common = [i for i in rows_a if i in rows_b]
    if not common:
        raise UserError(f"{task}: {a} and {b} have no problem in common")
    scores_a, scores_b = ([rows[i]["accuracy"] for i in common] for rows in (rows_a, rows_b))
    return {
        "a": a,
        "b": b,
        "problems": len(common),
        "only_a": len(rows_a) - len(common),
        "only_b": len(rows_b) - len(common),
        **paired_difference(scores_a, scores_b),
        "won_ids": [i for i, x, y in zip(common, scores_a, scores_b, strict=True) if y > x],
        "lost_ids": [i for i, x, y in zip(common, scores_a, scores_b, strict=True) if y < x],
    }


def _protocol_differences(a: Logged, b: Logged, task: str) -> list[str]:
    """Describe the differences between the parts of the protocols that both have recorded."""
    protocol_a, protocol_b = (m.provenance.get("tasks", {}).get(task, {}) for m in (a, b))
    both = [(key, protocol_a.get(key), protocol_b.get(key)) for key in MUST_AGREE]
    return [
        f"{key}: {_contrast(x, y)}"
        for key, x, y in both
        if _is_recorded(x) and _is_recorded(y) and x != y
    ]


def _is_recorded(value: Any) -> bool:
    """Return False for a value that eval.rescore did not find in lm_eval's logs."""
    return value is not None and (not isinstance(value, dict) or set(value.values()) != {None})


def _row_differences(rows_a: Rows, rows_b: Rows) -> list[str]:
    """Describe the differences between the logged problems: repeats, or problems behind an id.

    The hash of all problems does not help here: one problem more changes it.
    """
    a, b = (_repeats(next(iter(rows.values()))) for rows in (rows_a, rows_b))
    differences = [] if a == b else [f"repeats: {a} and {b}"]
    columns = ("problem", "answer", "choices")
    changed = [
        i
        for i in rows_a
        if i in rows_b and any(rows_a[i].get(k) != rows_b[i].get(k) for k in columns)
    ]
    if changed:
        listed = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        differences.append(
            f"the text or answer of {len(changed)} problems with the same id: {listed}"
        )
    return differences


def _contrast(a: Any, b: Any) -> str:
    """Return `a and b` on one line; of long values only the part that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in a | b if a.get(key) != b.get(key)]
        return ", ".join(f"{key} {_contrast(a.get(key), b.get(key))}" for key in keys)
    if not (isinstance(a, str) and isinstance(b, str)):
        return f"{a} and {b}"
    start = max(0, len(os.path.commonprefix([a, b])) - 20)
    dots = "..." if start > 0 else ""
    parts = (x if len(x) <= 60 else dots + x[start : start + 60] for x in (a, b))
    return " and ".join(json.dumps(x, ensure_ascii=False) for x in parts)


def holm(ps: list[float]) -> list[float]:
    """Return Holm's adjusted p values (1979): any false alarm has a chance below 5 %."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def result_table(task: str, compared: dict[str, Any]) -> Table:
    """Return a task's results, of `compare`, as text."""
    results = compared["results"]
    if any("truncated" not in r for r in results.values()):  # a task that is not ours
        columns = ["", "problems", "accuracy % [95 %]"]
        rows = [
            [n, str(r["n_problems"]), percent(r["accuracy"], r["ci"])] for n, r in results.items()
        ]
        return {"title": task, "columns": columns, "rows": rows}
    several = max(r["repeats"] for r in results.values()) > 1
    columns = ["", "problems", "accuracy % [95 %]"]
    columns += ["pass@n %", "cons@n % (ties)", "n"] if several else []
    columns += ["truncated %", "no answer %", "undecided %", "tokens"]
    uncounted = any(r["num_tokens"] is None for r in results.values())  # lm_eval's own models
    columns += ["characters"] if uncounted else []
    rows = []
    for name, r in results.items():
        n = str(r["repeats"])
        row = [name, str(r["n_problems"]), percent(r["accuracy"], r["ci"])]
        if several:
            row += [percent(r["pass_at_k"][n]), f"{percent(r['cons_at_k'][n])} ({r['ties']})", n]
        row += [percent(r[k]) for k in ("truncated", "no_answer", "undecided")]
        row.append("" if r["num_tokens"] is None else f"{r['num_tokens']:.0f}")
        rows.append([*row, f"{r['response_length']:.0f}"] if uncounted else row)
    return {"title": task, "columns": columns, "rows": rows}


def pair_table(task: str, compared: dict[str, Any]) -> Table:
    """Return a task's paired differences, of `compare`, as text."""
    several = len(compared["pairs"]) > 1
    rows = []
    for pair in compared["pairs"]:
        p = pair["p_holm"] if several else pair["p"]
        notes = [] if p < 0.05 else ["no significant difference"]
        lacks = ((pair["a"], pair["only_b"]), (pair["b"], pair["only_a"]))
        notes += [f"{name} lacks {count}" for name, count in lacks if count]
        rows.append(
            [
                f"{pair['b']} - {pair['a']}",
                str(pair["problems"]),
                signed(pair["difference"], pair["ci"]),
                p_value(pair["p"]),
                *([p_value(pair["p_holm"])] if several else []),
                *(str(pair[key]) for key in ("won", "lost", "tied")),
                "; ".join(notes),
            ]
        )
    columns = [
        "",
        "problems",
        "points [95 %]",
        "p",
        *(["p, Holm"] if several else []),
        "won",
        "lost",
        "tied",
        "",
    ]
    return {"title": f"{task}, paired", "columns": columns, "rows": rows}


def markdown(tables: list[Table], warnings: list[str]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for table in tables:
        head, *body = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (table["columns"], *table["rows"])
        )
        lines = [f"### {table['title']}\n", head, "|" + "---|" * len(table["columns"]), *body]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *(f"Warning: {w}" for w in warnings)]) + "\n"


def show(tables: list[Table], warnings: list[str]) -> None:
    """Print the tables on the terminal."""
    console = Console(width=max(120, Console().width))
    for table in tables:
        drawn = rich.table.Table(title=table["title"])
        for i, column in enumerate(table["columns"]):
            drawn.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
        for row in table["rows"]:
            drawn.add_row(*map(escape, row))
        console.print(drawn)
    for warning in warnings:
        # A prompt in the warning may look like rich's markup.
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)


def named_logs(arguments: list[str]) -> list[Logged]:
    """Read the models of `path` and `name=path` arguments.

    Raises:
        UserError: if a path does not exist or has no problem, one name is given to several models,
            or two models have the same name.
    """
    models: list[Logged] = []
    for argument in arguments:
        name, mark, path = argument.partition("=")
        if not mark or Path(argument).exists():
            name, mark, path = "", "", argument
        if not Path(path).exists():
            raise UserError(f"{path} does not exist")
        logs = read_logs(Path(path), foreign=True)
        if mark and len(logs) > 1:
            names = ", ".join(model.name for model in logs)
            raise UserError(f"{path} holds {names}; name one: {name}={path}/NAME.json")
        for model in logs:
            if not model.tasks:
                raise UserError(f"{path}: {model.name} has no problem")
            model.name = name or model.name
            for by_task in (model.tasks, model.provenance.get("tasks", {})):
                for task in list(by_task):
                    match = VARIANT.fullmatch(task)
                    if match and match[1] not in by_task:
                        by_task[match[1]] = by_task.pop(task)
            if any(model.name == other.name for other in models):
                raise UserError(f"two models are called {model.name}; give names: name=path")
            models.append(model)
    return models


def main(argv: list[str] | None = None) -> int:
    """Compare the models that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", help="path, or name=path")
    parser.add_argument("--task", help="this task alone")
    parser.add_argument("--pair", action="append", metavar="A:B", help="compare B with A")
    parser.add_argument("--published", action="store_true", help="the paper's tables beside ours")
    parser.add_argument("--list-problems", action="store_true", help="name those won and lost")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--json", type=Path, help="file for the unrounded numbers")
    args = parser.parse_args(argv)
    try:
        for option, file in (("--markdown", args.markdown), ("--json", args.json)):
            if file is not None:
                _check_output(option, file)
        models = named_logs(args.results)
        pairs = args.pair and [_names(pair) for pair in args.pair]
        compared = compare(models, pairs, args.task)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    tables = [
        table
        for task, task_result in compared.items()
        for table in (result_table(task, task_result), pair_table(task, task_result))
        if table["rows"]
    ]
    warnings = [w for task_result in compared.values() for w in task_result["warnings"]]
    if args.published:
        results = {
            m.name: {t: compared[t]["results"][m.name] for t in compared if t in m.tasks}
            for m in models
        }
        published = published_tables(results)
        tables += published
        if not is_published(results):
            warnings.append("--published: the paper has no figure for any of these tasks")
        elif not any(c.endswith(", ours") for table in published for c in table["columns"]):
            stages = [row["stage"] for table in published_figures().values() for row in table]
            warnings.append(
                "--published: no model has a row's name; give it, as in grpo=path: "
                f"{', '.join(dict.fromkeys(stages))}"
            )
    show(tables, warnings)
    if args.list_problems:
        for task, task_result in compared.items():
            for pair in task_result["pairs"]:
                for what in ("won", "lost"):
                    print(
                        f"{task}: {pair['b']} {what} against {pair['a']}: "
                        f"{' '.join(pair[f'{what}_ids']) or 'none'}"
                    )
    if args.markdown:
        write_text(args.markdown, markdown(tables, warnings))
    if args.json:
        write_json(args.json, compared)
    return 0


def _check_output(option: str, file: Path) -> None:
    """Check that an output replaces nothing that is evaluated, as `--json runs/a runs/b` would.

    Raises:
        UserError: if it is a folder or part of an evaluation.
    """
    if file.is_dir():
        raise UserError(f"{option} {file} is a folder; name the file to write")
    if file.with_name(f"{file.stem}.samples.jsonl").exists() or file.name == "manifest.json":
        raise UserError(f"{option} {file} is part of an evaluation; name another file")


def _names(pair: str) -> tuple[str, str]:
    a, mark, b = pair.partition(":")
    if not (a and mark and b):
        raise UserError(f"--pair takes A:B, not {pair!r}")
    return a, b


if __name__ == "__main__":
    sys.exit(main())
