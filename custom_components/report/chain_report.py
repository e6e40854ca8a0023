"""Write report.json and report.html of a chain, from the files that its stages have left so far."""

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from custom_components.cards import model_card
from custom_components.config import UserError
from custom_components.figures import p_value, percent, signed
from custom_components.io import CARD, write_json, write_text
from custom_components.report import svg
from custom_components.report.breakdown import by_length, length_bins
from custom_components.report.browser import (
    chosen_problems,
    embedded,
    sample_rows,
    training_samples,
)
from custom_components.report.curves import stage_curves
from custom_components.report.stage_status import (
    as_json,
    clock,
    current_results,
    data_yields,
    stage_alarms,
    stage_runs,
)
from custom_components.runs.manifest import read_manifest
from custom_components.tokenizer.prompt_form import trained_form
from eval.published import is_published, published_tables
from eval.statistics import paired_difference

HERE = Path(__file__).parent
COPIED = (
    "accuracy",
    "ci",
    "n_problems",
    "n_samples",
    "repeats",
    "pass_at_k",
    "cons_at_k",
    "ties",
    "truncated",
    "no_answer",
    "undecided",
    "response_length",
    "num_tokens",
    "by_difficulty",
)


def make_report(
    run_dir: Path, task: str, stages: list[dict[str, Any]], compare: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], Path]:
    """Collect the results, write the page, and put the results into the models' cards.

    Args:
        run_dir, task, stages: as for `build_report`.
        compare: pairs of stages to compare, apart from neighbours.

    Returns:
        (report, path of the page).
    """
    report = build_report(run_dir, task, stages, compare)
    page = write_report(run_dir, report, stages)
    refresh_cards(run_dir, stages, report)
    return report, page


def build_report(
    run_dir: Path,
    task: str,
    stages: list[dict[str, Any]],
    extra_pairs: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """Collect the results of the evaluated stages.

    Args:
        run_dir: folder of the chain.
        task: lm-eval task whose results are compared.
        stages: {name, label, evaluate} in order; stages without results, or with results of an
            earlier model, are left out.
        extra_pairs: names (a, b) of stages to compare, apart from neighbours.

    Returns:
        The chain result of docs/ARCHITECTURE.md.

    Raises:
        UserError: if an evaluation lacks the task.
    """
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, float]] = {}
    all_results: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for stage in stages:
        name = stage["name"]
        results = current_results(run_dir, name) if stage["evaluate"] else None
        if results is None:
            continue
        if task not in results:
            raise UserError(
                f"the evaluation of {name} has no task {task!r}; there are {', '.join(results)}"
            )
        all_results[name] = results
        copied = {key: results[task][key] for key in COPIED}
        rows.append({"name": name, "label": stage["label"]} | copied)
        scores[name] = {}
        samples[name] = []
        for row in sample_rows(run_dir, name, task):
            scores[name][row["id"]] = row["accuracy"]
            samples[name] += row["samples"]
    # An engine that does not count tokens gives 0.
    in_tokens = all(any(s["num_tokens"] for s in part) for part in samples.values())
    length = "num_tokens" if in_tokens else "length"
    responses = {
        name: [(s[length], s["verdict"] == "correct") for s in part]
        for name, part in samples.items()
    }
    ends = length_bins([s[length] for part in samples.values() for s in part])
    for row in rows:
        row["by_length"] = by_length(responses[row["name"]], ends)
    names = [row["name"] for row in rows]
    neighbours = zip(names, names[1:], strict=False)
    return {
        "task": task,
        "stages": rows,
        "length_unit": "tokens" if in_tokens else "characters",
        "paired": paired_differences(scores, [*neighbours, *extra_pairs]),
        "published": published_tables(all_results) if is_published(all_results) else [],
        "wall_seconds": {
            name: manifest["wall_seconds"]
            for stage in stages
            for name in (stage["name"], f"eval/{stage['name']}")
            if (manifest := read_manifest(run_dir / name))
        },
    }


def paired_differences(
    scores: dict[str, dict[str, float]], pairs: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Compare pairs of stages on the same problems.

    Args:
        scores: {stage: {id: accuracy}}.
        pairs: names (a, b); pairs without scores, or with other problems, are left out.

    Returns:
        [{"a", "b"} and `eval.statistics.paired_difference`].
    """
    rows: list[dict[str, Any]] = []
    for a, b in dict.fromkeys(map(tuple, pairs)):
        if a in scores and b in scores and scores[a].keys() == scores[b].keys():
            ids = list(scores[a])
            difference = paired_difference([scores[a][i] for i in ids], [scores[b][i] for i in ids])
            rows.append({"a": a, "b": b} | difference)
    return rows


def write_report(run_dir: Path, report: dict[str, Any], stages: list[dict[str, Any]]) -> Path:
    """Write report.json and report.html, one page that needs no other file.

    Args:
        run_dir: folder of the chain.
        report: result of `build_report`.
        stages: {name, label, evaluate} in order.

    Returns:
        Path of the page.
    """
    write_json(run_dir / "report.json", report)
    scores = {
        stage["name"]: {
            row["id"]: row["accuracy"]
            for row in sample_rows(run_dir, stage["name"], report["task"])
        }
        for stage in report["stages"]
    }
    problems = chosen_problems(run_dir, report["task"], scores)
    training = training_samples(run_dir, stages)
    script = (HERE / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, p_value=p_value, as_json=as_json)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        signed=signed,
        interval=svg.interval,
        axis=svg.axis,
        title=run_dir.name,
        made=clock(time.time()),
        runs=stage_runs(run_dir, stages),
        scale=scale([bound for s in report["stages"] for bound in s["ci"]]),
        difference_scale=scale([0.0, *(bound for p in report["paired"] for bound in p["ci"])]),
        curves=[(s["label"], c) for s in stages if (c := stage_curves(run_dir / s["name"]))],
        alarms=stage_alarms(run_dir, stages),
        data=[(s["label"], d) for s in stages if (d := data_yields(run_dir / s["name"]))],
        problems=problems,
        problems_in_all=len(next(iter(scores.values()), {})),
        training=training,
        samples=embedded(
            {
                "stages": [{"name": s["name"], "label": s["label"]} for s in report["stages"]],
                "problems": problems,
                "training": training,
            }
        ),
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # Text of a model may hold lone surrogates, which UTF-8 cannot encode.
    write_text(run_dir / "report.html", page.encode("utf-8", "replace").decode())
    return run_dir / "report.html"


def scale(values: list[float]) -> dict[str, Any]:
    """Return an axis around accuracies or differences: {"low", "high", "marks"}, as shares of 1."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 0.01:
        low, high = low - 0.005, high + 0.005
    marks = svg.nice_ticks(low, high, 4)
    return {"low": marks[0], "high": marks[-1], "marks": marks}


def refresh_cards(run_dir: Path, stages: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """Put the results of a chain's evaluations into the cards of its trained models.

    A card is not part of its model's hash (`io.sha256_of`), so no stage runs again for it.

    Args:
        run_dir: folder of the chain.
        stages: {name, ...} in order.
        report: result of `build_report`.
    """
    for stage in stages:
        name = stage["name"]
        manifest = read_manifest(run_dir / name) or {}
        card = run_dir / name / "model" / CARD
        results = current_results(run_dir, name)
        trained = manifest.get("status") == "complete" and "checkpointer" in manifest["config"]
        if not (trained and card.is_file() and results):
            continue
        text = model_card(
            manifest["recipe"],
            manifest["counts"]["steps"],
            manifest["config"],
            results,
            [pair for pair in report["paired"] if pair["b"] == name],
            trained_form(card.parent),
        )
        if card.read_text(encoding="utf-8") != text:
            write_text(card, text)
