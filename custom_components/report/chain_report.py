"""report.json and report.html of a chain, from what its stages have left so far."""

import io
import json
import statistics
from pathlib import Path
from typing import Any

import jinja2

from custom_components.io import read_jsonl, write_json, write_text
from custom_components.report.table import p_value, percent, signed
from custom_components.training.run_folder import read_manifest
from eval.compare import is_published, published_tables
from eval.statistics import paired_difference

TEMPLATE = Path(__file__).parent / "report.html.jinja"
COPIED = ("accuracy", "ci", "n_problems", "n_samples", "repeats", "pass_at_k", "cons_at_k", "ties",
          "truncated", "no_answer", "undecided", "response_length", "num_tokens",
          "by_difficulty")  # fmt: skip


def build_report(run_dir: Path, task: str, stages: list[dict[str, Any]], extra_pairs=()) -> dict:
    """Collect the evaluated stages.

    Args:
        run_dir: the chain's folder.
        task: lm-eval task whose results are compared.
        stages: {name, label, evaluate} in order; those without results are left out.
        extra_pairs: (a, b) names to compare besides neighbours.

    Returns:
        the chain result of docs/ARCHITECTURE.md.
    """
    rows, scores, of_stages = [], {}, {}
    for stage in stages:
        folder = run_dir / "eval" / stage["name"]
        file = folder / f"{stage['name']}.json"
        if not stage["evaluate"] or not file.is_file():
            continue
        of_stages[stage["name"]] = json.loads(file.read_text())["results"]
        result = of_stages[stage["name"]][task]
        rows.append({"name": stage["name"], "label": stage["label"]}
                    | {key: result[key] for key in COPIED})  # fmt: skip
        samples = read_jsonl(folder / f"{stage['name']}.samples.jsonl")
        scores[stage["name"]] = {r["id"]: r["accuracy"] for _, r in samples if r["task"] == task}
    names = [row["name"] for row in rows]
    wanted = [*zip(names, names[1:], strict=False), *extra_pairs]
    pairs = []
    for a, b in dict.fromkeys(wanted):
        if a in scores and b in scores and scores[a].keys() == scores[b].keys():
            ids = list(scores[a])
            difference = paired_difference([scores[a][i] for i in ids], [scores[b][i] for i in ids])
            pairs.append({"a": a, "b": b} | difference)
    return {
        "task": task,
        "stages": rows,
        "paired": pairs,
        "published": published_tables(of_stages) if is_published(of_stages) else [],
        "wall_seconds": {
            name: manifest["wall_seconds"]
            for stage in stages
            for name, folder in ((stage["name"], run_dir / stage["name"]),
                                 (f"eval/{stage['name']}", run_dir / "eval" / stage["name"]))
            if (manifest := read_manifest(folder))
        },
    }  # fmt: skip


def write_report(run_dir: Path, report: dict[str, Any], stages: list[dict[str, Any]]) -> Path:
    """Write report.json and report.html. Returns the page's path."""
    write_json(run_dir / "report.json", report)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "p_value": p_value}
    environment.globals |= {"signed": signed}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        title=run_dir.name,
        plots=[p for s in stages if (p := training_plot(run_dir / s["name"], s["label"]))],
        yields=(read_manifest(run_dir / "curate") or {}).get("counts", {}),
        manifests={s["name"]: m for s in stages if (m := read_manifest(run_dir / s["name"]))},
    )
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


# what tells how a run went, the first that it logs: RL's and DPO's losses do not
CURVES = {"reward": "mean reward", "margin": "reward margin", "loss": "loss"}


def training_plot(folder: Path, label: str) -> str | None:
    """The run's telling metric over its steps as SVG text; None where there are no metrics."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    rows = [row for _, row in read_jsonl(path)]
    curve = next((c for c in CURVES if rows and c in rows[0]), None)
    if curve is None:
        return None
    points = [(row["step"], row[curve]) for row in rows if row[curve] is not None]
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    steps, values = zip(*points, strict=True)
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    axes.plot(steps, values, color="#9db4d0", linewidth=0.8)
    width = max(1, len(values) // 20)
    smooth = [statistics.fmean(values[max(0, i - width) : i + 1]) for i in range(len(values))]
    axes.plot(steps, smooth, color="#1f5fa8", linewidth=1.6)
    axes.set(title=label, xlabel="step", ylabel=CURVES[curve])
    if curve == "loss":
        axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    # without matplotlib's RDF block: dates and foreign addresses have no place in the page
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
