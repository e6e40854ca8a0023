"""Collect the status, provenance, alarms and data yields of a chain's stages."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from custom_components.io import sha256_of
from custom_components.runs.manifest import read_manifest
from custom_components.runs.metrics import logged_rows
from custom_components.runs.processes import last_words

MAX_REASONS = 12


def current_results(run_dir: Path, name: str) -> dict[str, Any] | None:
    """Return {task: summary} of a stage's model.

    Returns None if the model is not evaluated, or the stage was run again since.
    """
    file = run_dir / "eval" / name / f"{name}.json"
    if not file.is_file():
        return None
    stage = read_manifest(run_dir / name)
    evaluation = read_manifest(run_dir / "eval" / name)
    if stage and evaluation and stage["started"] > evaluation["started"]:
        model = run_dir / name / "model"
        if stage["status"] != "complete" or sha256_of(model) not in evaluation["inputs"].values():
            return None
    return json.loads(file.read_text(encoding="utf-8"))["results"]


def stage_runs(run_dir: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry for each stage, and one for its evaluation, in order.

    Returns:
        [{"name", "label", "status" (complete, unfinished, failed, waiting), "error", "alive" (time
        of the last write to its folder), "start" (model), "manifest" ({} while waiting)}].
    """
    runs = []
    for stage in stages:
        runs.append(_run(run_dir, stage["name"], stage["label"]))
        if stage["evaluate"]:
            runs.append(_run(run_dir, f"eval/{stage['name']}", f"evaluation of {stage['label']}"))
    return runs


def _run(run_dir: Path, name: str, label: str) -> dict[str, Any]:
    folder = run_dir / name
    manifest = read_manifest(folder) or {}
    status = "waiting"
    error: str | None = None
    log_name = f"{name.replace('/', '-')}.log"
    logs = [run_dir / "logs" / f"{prefix}{log_name}" for prefix in ("", "doctor-")]
    log = next((file for file in logs if file.is_file()), logs[0])
    if manifest.get("status") == "complete":
        status = "complete"
    elif manifest or log.is_file():
        error = last_words(log)[0] if log.is_file() else None
        status = "failed" if error else "unfinished"
    files = [folder / f for f in ("manifest.json", "metrics.jsonl", "alarms.jsonl")]
    written = [file.stat().st_mtime for file in [*files, log] if file.is_file()]
    config = manifest.get("config", {})
    return {
        "name": name,
        "label": label,
        "status": status,
        "error": error,
        "alive": clock(max(written)) if written and status != "complete" else None,
        "start": (config.get("checkpointer") or {}).get("checkpoint_dir"),
        "manifest": manifest,
    }


def clock(seconds: float) -> str:
    """Return a time in seconds since the epoch as `2026-01-31 12:00 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def stage_alarms(run_dir: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alarms that stages raised, and gradients that were not finite.

    Returns:
        [{"label", "step", "alarm"}], stage by stage.
    """
    alarms: list[dict[str, Any]] = []
    for stage in stages:
        folder = run_dir / stage["name"]
        rows = logged_rows(folder / "alarms.jsonl", "step", "alarm")
        # A step that is repeated after an interruption is logged twice.
        broken = dict.fromkeys(r["step"] for r in logged_rows(folder / "nonfinite.jsonl", "step"))
        if broken:
            message = f"{len(broken)} steps without a finite gradient (nonfinite.jsonl)"
            rows = [*rows, {"step": next(iter(broken)), "alarm": message}]
        alarms += [{"label": stage["label"], "step": r["step"], "alarm": r["alarm"]} for r in rows]
    return alarms


def data_yields(folder: Path) -> dict[str, Any]:
    """Return the counts of a run of recipes/curate.py, complete or not.

    Returns:
        {"counts" (of the manifest), "verdicts": [{"verdict", "reason", "rollouts"}], "removed" and
        "rejected": [(reason, number)]}; {} if the folder holds another run, or none.
    """
    manifest = read_manifest(folder)
    if not manifest or manifest["recipe"] != "curate":
        return {}
    return {
        "counts": manifest.get("counts", {}),
        "verdicts": _verdicts(folder / "verified"),
        "removed": _reasons(folder / "removed.jsonl"),
        "rejected": _reasons(folder / "rejects.jsonl"),
    }


def _reasons(file: Path) -> list[tuple[str, int]]:
    """Return the most frequent reasons of a file's rows, with their number."""
    counts = Counter(str(row.get("reason")) for row in logged_rows(file))
    return counts.most_common(MAX_REASONS)


def _verdicts(folder: Path) -> list[dict[str, Any]]:
    """Count rollouts by verdict and the verifier's reason."""
    import pyarrow.parquet as pq

    counts: Counter[tuple[str, str]] = Counter()
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file, columns=["verdict", "reason"])
        grouped = table.group_by(["verdict", "reason"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            counts[row["verdict"], row["reason"]] += row["count_all"]
    return [
        {"verdict": verdict, "reason": reason, "rollouts": number}
        for (verdict, reason), number in sorted(
            counts.items(), key=lambda c: (c[0][0], -c[1], c[0][1])
        )
    ]


def as_json(value: Any) -> str:
    """Return a config or counts as indented JSON, for people to read."""
    return json.dumps(value, indent=2, default=str)
