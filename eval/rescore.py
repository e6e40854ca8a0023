"""Judge logged responses anew, without generating again.

    python -m eval.rescore runs/tiny/eval/sft --output runs/tiny/eval/sft-rescored
    python -m eval.rescore RESULTS --output RESCORED       # what lm_eval --log_samples wrote

Reads a run folder of recipes/evaluate.py, or lm_eval's output folder, and writes the same two files
for each model as the recipe: `<name>.json` and `<name>.samples.jsonl`. For when the verifier has
changed, or a benchmark's golds.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import read_jsonl, write_json, write_jsonl
from custom_components.report.table import print_results
from eval.provenance import task_provenance
from eval.results import DOC, summary
from eval.scoring import Response, judged, problem_metrics

LOGGED = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")


def logged(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Problems with their responses, by model.

    Args:
        folder: run folder of the recipe, or `--output_path` of lm_eval.

    Returns:
        {model: rows of `eval.results.problem_row`}; of lm_eval's files the latest of each task.

    Raises:
        UserError: when there are none.
    """
    found = {
        file.name.removesuffix(".samples.jsonl"): [row for _, row in read_jsonl(file)]
        for file in sorted(folder.glob("*.samples.jsonl"))
    }
    if found:
        return found
    latest: dict[tuple[str, str], tuple[str, Path]] = {}
    for file in folder.rglob("samples_*.jsonl"):
        if match := LOGGED.fullmatch(file.name):
            key, date = (file.parent.name, match[1]), match[2]
            latest[key] = max(latest.get(key, ("", file)), (date, file))
    for (model, task), (_, file) in sorted(latest.items()):
        rows = []
        for number, sample in read_jsonl(file):
            if "answer" not in sample.get("doc", {}):
                raise UserError(f"{file}, line {number}: no answer; {task} is no task of ours")
            rows.append(
                {
                    "task": task,
                    **{key: sample["doc"].get(key) for key in DOC},
                    "responses": sample["resps"][0],
                    "samples": sample.get("samples"),
                }
            )
        found.setdefault(model, []).extend(rows)
    if not found:
        raise UserError(
            f"{folder} holds neither <name>.samples.jsonl (recipes/evaluate.py) nor "
            "samples_<task>_<date>.jsonl (lm_eval --log_samples)"
        )
    return found


def rescored(row: dict[str, Any]) -> dict[str, Any]:
    """A problem's row with fresh verdicts. How a response ended is taken from the old ones."""
    old = row["samples"] or [{}] * len(row["responses"])
    responses = [
        Response.of(
            text,
            "length" if before.get("truncated") else "stop",
            before.get("num_tokens", 0),
        )
        for text, before in zip(row["responses"], old, strict=True)
    ]
    return row | problem_metrics(judged(row, responses))


def main(argv: list[str] | None = None) -> int:
    """Rescore a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.rescore", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="with logged samples")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    try:
        rescore(args.folder, args.output)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def rescore(folder: Path, output: Path) -> None:
    """Rescore every model of a folder, and say what changed.

    Raises:
        UserError: when there is nothing to rescore, or it would be overwritten.
    """
    if output.resolve() == folder.resolve():
        raise UserError("--output is the folder itself; name another, the old scores are kept")
    for name, rows in logged(folder).items():
        fresh = [rescored(row) for row in rows]
        changed = sum(
            before["verdict"] != after["verdict"]
            for old, new in zip(rows, fresh, strict=True)
            for before, after in zip(old["samples"] or [], new["samples"], strict=False)
        )
        tasks: dict[str, list[dict[str, Any]]] = {}
        for row in fresh:
            tasks.setdefault(row["task"], []).append(row)
        before = folder / f"{name}.json"
        result = json.loads(before.read_text()) if before.is_file() else {"model": name}
        known = result.get("provenance", {})
        of_tasks = {
            task: task_provenance({}, mine, {}) | known.get("tasks", {}).get(task, {})
            for task, mine in tasks.items()
        }
        result |= {
            "provenance": known | {"tasks": of_tasks, "rescored_from": str(folder)},
            "results": {task: summary(mine) for task, mine in tasks.items()},
        }
        output.mkdir(parents=True, exist_ok=True)
        write_jsonl(output / f"{name}.samples.jsonl", fresh)
        write_json(output / f"{name}.json", result)
        print_results(name, result["results"])
        print(f"{name}: {changed} of {sum(len(r['samples']) for r in fresh)} verdicts changed")


if __name__ == "__main__":
    sys.exit(main())
