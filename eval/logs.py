"""Read logged evaluations: run folders of recipes/evaluate.py, and `lm_eval --log_samples`."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import read_jsonl
from eval.provenance import SAMPLING
from eval.results import DOC

LOGGED = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
FOREIGN = ("exact_match", "acc")
"""Metrics of lm-eval's own tasks that are an accuracy, the preferred one first."""


@dataclass
class Logged:
    """Hold one model's evaluation.

    Attributes:
        name: name of the model.
        tasks: {task: rows of `eval.results.problem_row`}.
        provenance: provenance that the recipe wrote; for logs of lm_eval, that of its results file.
        foreign: {task: metric and filter} of tasks that are not ours. Their rows have only id
            (lm_eval's doc_id), problem (a hash of it), answer and accuracy.
    """

    name: str
    tasks: dict[str, list[dict[str, Any]]]
    provenance: dict[str, Any]
    foreign: dict[str, str] = field(default_factory=dict)


def read_logs(path: Path, foreign: bool = False) -> list[Logged]:
    """Return the models of a folder.

    Args:
        path: run folder of the recipe, one `<name>.json` in it, or `--output_path` of lm_eval (the
            latest file of each task counts).
        foreign: whether to read tasks that are not ours, too, by the metrics `FOREIGN`.

    Raises:
        UserError: if there are no models, a file is broken, or a task is not one of ours.
    """
    if path.suffix == ".json":
        files = [path.with_name(f"{path.stem}.samples.jsonl")]
    else:
        files = sorted(path.glob("*.samples.jsonl"))
    models: list[Logged] = []
    for file in files:
        name = file.name.removesuffix(".samples.jsonl")
        tasks: dict[str, list[dict[str, Any]]] = {}
        for number, row in read_jsonl(file):
            for key in ("task", "id", "accuracy", "samples"):
                if key not in row:
                    raise UserError(f"{file}, line {number}: no {key!r}")
            tasks.setdefault(row["task"], []).append(row)
        result = file.with_name(f"{name}.json")
        if not result.is_file():
            raise UserError(f"{result} is missing beside {file.name}")
        models.append(Logged(name, tasks, _json(result, "provenance")))
    models = models or _lm_eval_logs(path, foreign)
    if not models:
        raise UserError(
            f"{path} holds neither <name>.samples.jsonl (recipes/evaluate.py) nor "
            "samples_<task>_<date>.jsonl (lm_eval --log_samples)"
        )
    return models


def _json(file: Path, key: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file} is not a JSON object with {key!r}") from e


def _lm_eval_logs(folder: Path, foreign: bool) -> list[Logged]:
    latest: dict[tuple[str, str], tuple[str, Path]] = {}
    for file in folder.rglob("samples_*.jsonl"):
        if match := LOGGED.fullmatch(file.name):
            key = file.parent.name, match[1]
            latest[key] = max(latest.get(key, ("", file)), (match[2], file))
    models: dict[str, Logged] = {}
    for (name, task), (date, file) in sorted(latest.items()):
        model = models.setdefault(name, Logged(name, {}, {"tasks": {}}))
        model.provenance["tasks"][task] = _protocol(file, task, date)
        samples = list(read_jsonl(file))
        if foreign and samples and "samples" not in samples[0][1]:
            rows, metric = _foreign_rows(file, task, samples)
            model.tasks[task] = rows
            model.foreign[task] = metric
            continue
        model.tasks[task] = []
        for number, sample in samples:
            if "samples" not in sample or "answer" not in sample.get("doc", {}):
                raise UserError(f"{file}, line {number}: {task} is not one of our tasks")
            model.tasks[task].append(
                {
                    "task": task,
                    **{key: sample["doc"].get(key) for key in DOC},
                    **{key: sample[key] for key in sample["metrics"]},
                    "responses": sample["resps"][0],
                }
            )
    return list(models.values())


def _protocol(file: Path, task: str, date: str) -> dict[str, Any]:
    """Return the protocol in lm_eval's results file of the same date; {} if the file is gone."""
    # The file is results_<date>.json, or <stem>_<date>.json for an --output_path <stem>.json.
    results = list(file.parent.glob(f"*_{date}.json"))
    config = _json(results[0], "configs").get(task, {}) if results else {}
    used = config.get("generation_kwargs") or {}
    protocol = {
        "version": (config.get("metadata") or {}).get("version"),
        "sampling": {key: used.get(key) for key in SAMPLING},
        "prompt": config.get("doc_to_text"),
    }
    return protocol if config else {}


def _foreign_rows(
    file: Path, task: str, samples: list[tuple[int, dict[str, Any]]]
) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of a task that is not ours, and the metric and filter that they use.

    lm_eval logs a problem once for each of the task's filters; the first one counts.
    """
    first = samples[0][1]
    metric = next((m for m in FOREIGN if m in first), None)
    if metric is None:
        raise UserError(
            f"{file}: {task} is not one of our tasks and has none of {', '.join(FOREIGN)}"
        )
    rows = []
    for number, sample in samples:
        if sample.get("filter") != first.get("filter"):
            continue
        value = sample.get(metric)
        if not isinstance(value, int | float) or not 0 <= value <= 1 or "doc_id" not in sample:
            raise UserError(f"{file}, line {number}: no doc_id, or {metric} is not in 0..1")
        rows.append(
            {
                "task": task,
                "id": str(sample["doc_id"]),
                "problem": sample.get("doc_hash"),
                "answer": sample.get("target"),
                "accuracy": float(value),
            }
        )
    return rows, f"{metric} of filter {first.get('filter')}"
