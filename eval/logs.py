"""Logged evaluations: run folders of recipes/evaluate.py, and what `lm_eval --log_samples` writes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import read_jsonl
from eval.results import DOC

LOGGED = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")


@dataclass
class Logged:
    """One model's evaluation.

    Attributes:
        name: of the model.
        tasks: {task: rows of `eval.results.problem_row`}.
        provenance: as the recipe wrote it; empty for lm_eval's logs.
    """

    name: str
    tasks: dict[str, list[dict[str, Any]]]
    provenance: dict[str, Any]


def read_logs(path: Path) -> list[Logged]:
    """The models of a folder.

    Args:
        path: a run folder of the recipe, one `<name>.json` in it, or `--output_path` of lm_eval (of
            whose files the latest of each task counts).

    Raises:
        UserError: when there are none, or a task is not one of ours.
    """
    if path.suffix == ".json":
        files = [path.with_name(f"{path.stem}.samples.jsonl")]
    else:
        files = sorted(path.glob("*.samples.jsonl"))
    found = []
    for file in files:
        name = file.name.removesuffix(".samples.jsonl")
        tasks: dict[str, list[dict[str, Any]]] = {}
        for _, row in read_jsonl(file):
            tasks.setdefault(row["task"], []).append(row)
        result = file.with_name(f"{name}.json")
        if not result.is_file():
            raise UserError(f"{result} is missing beside {file.name}")
        found.append(Logged(name, tasks, json.loads(result.read_text())["provenance"]))
    found = found or _of_lm_eval(path)
    if not found:
        raise UserError(
            f"{path} holds neither <name>.samples.jsonl (recipes/evaluate.py) nor "
            "samples_<task>_<date>.jsonl (lm_eval --log_samples)"
        )
    return found


def _of_lm_eval(folder: Path) -> list[Logged]:
    latest: dict[tuple[str, str], tuple[str, Path]] = {}
    for file in folder.rglob("samples_*.jsonl"):
        if match := LOGGED.fullmatch(file.name):
            key = file.parent.name, match[1]
            latest[key] = max(latest.get(key, ("", file)), (match[2], file))
    models: dict[str, Logged] = {}
    for (model, task), (_, file) in sorted(latest.items()):
        rows = []
        for number, sample in read_jsonl(file):
            if "samples" not in sample or "answer" not in sample.get("doc", {}):
                raise UserError(f"{file}, line {number}: {task} is not one of our tasks")
            rows.append(
                {
                    "task": task,
                    **{key: sample["doc"].get(key) for key in DOC},
                    **{key: sample[key] for key in sample["metrics"]},
                    "responses": sample["resps"][0],
                }
            )
        models.setdefault(model, Logged(model, {}, {})).tasks[task] = rows
    return list(models.values())
