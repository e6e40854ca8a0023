"""Train RL variants with several seeds, evaluate them by class of problems, and compare them.

The ablations share these functions: benchmarks/ablation.py and benchmarks/protocols.py. Every run is
skipped if it is complete and resumed if it was killed, so that the same command continues.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eval.estimators import pass_at_k  # noqa: E402

TUNE = str(Path(sys.executable).with_name("tune"))
Curve = list[tuple[float, float]]


def run(recipe: str, folder: Path, overrides: Iterable[str]) -> Path:
    """Run one recipe of the tiny track into a folder, unless it is complete; return the folder."""
    # The recipe would skip a complete run too, but only after seconds of start-up.
    manifest = folder / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["status"] == "complete":
        return folder
    config = f"configs/tiny/{recipe}.yaml"
    command = [TUNE, "run", f"recipes/{recipe}.py", "--config", config, f"output_dir={folder}"]
    env = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    log = folder.parent / f"{folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as out:
        subprocess.run(
            [*command, *overrides], cwd=ROOT, env=env, check=True, stdout=out, stderr=out
        )
    return folder


def start_from(model: Path) -> list[str]:
    """Return the overrides that start a recipe from a model."""
    return [f"checkpointer.checkpoint_dir={model}", f"tokenizer.path={model}"]


def in_parallel(jobs: Sequence[Callable[[], object]], workers: int) -> None:
    """Run independent jobs, so many at a time, each in a process of its own.

    Raises:
        subprocess.CalledProcessError: If one of them fails; the others are finished first.
    """
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


def slug(name: str) -> str:
    """Return a variant's name in lower case, fit for a folder."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_").lower()


def metrics(folder: Path) -> list[dict]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def selection_tokens(folder: Path) -> int:
    """Return the number of tokens that a run generated to select its prompts."""
    return json.loads((folder / "manifest.json").read_text())["counts"]["selection_tokens"]


def additions(split: str, counts: dict[int, int]) -> str:
    """Return the `problems` node of additions, with so many problems of each number of digits."""
    listed = ", ".join(f"{digits}: {count}" for digits, count in counts.items())
    return (
        "{_component_: custom_components.data.column_addition.column_addition, "
        f"split: {split}, counts: {{{listed}}}}}"
    )


def evaluate(
    folder: Path,
    models: dict[str, Path],
    counts: dict[int, int],
    samples: int,
    temperature: float = 0.6,
    seed: int = 0,
) -> Path:
    """Sample responses of several models to held-out additions, in one process.

    Args:
        folder: Folder of the results, a file of samples for each model.
        models: {name: model folder}.
        counts: {digits: number of problems}.
        samples: Responses to each problem.
        temperature: Sampling temperature; top_p is 0.95 as in the paper.
        seed: Seed of the responses.
    """
    nodes = ", ".join(f"{name}: {model}" for name, model in models.items())
    return run(
        "evaluate",
        folder,
        [
            f"models={{{nodes}}}",
            f"only=[{', '.join(models)}]",
            "tasks=[reasoning_own]",
            f"problems={additions('eval', counts)}",
            f"sampling={{temperature: {temperature}, top_p: 0.95, max_gen_toks: 160}}",
            f"repeats={samples}",
            f"seed={seed}",
        ],
    )


def by_class(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """Return accuracy and pass@k of an evaluated model by class of problems, and over all.

    Args:
        folder: Folder of an evaluation.
        name: Name of the model.

    Returns:
        {class: {"accuracy", "pass_at_k", "problems"}}, with k the samples of a problem; the class
        "all" is the mean over the classes, each with the same weight.
    """
    rates: dict[str, list[tuple[float, float]]] = {}
    for line in (folder / f"{name}.samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        correct = sum(sample["verdict"] == "correct" for sample in row["samples"])
        n = len(row["samples"])
        rates.setdefault(row["difficulty"], []).append((correct / n, pass_at_k(n, correct)[-1]))
    classes: dict[str, dict[str, float]] = {
        label: {
            "accuracy": fmean(accuracy for accuracy, _ in values),
            "pass_at_k": fmean(passed for _, passed in values),
            "problems": len(values),
        }
        for label, values in sorted(rates.items())
    }
    keys = ("accuracy", "pass_at_k", "problems")
    classes["all"] = {key: fmean(part[key] for part in classes.values()) for key in keys}
    return classes


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and the ends of Student's 95 % interval."""
    mean = fmean(values)
    half = stdtrit(len(values) - 1, 0.975) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def cell(values: Sequence[float], base: Sequence[float] | None = None) -> str:
    """Return a table's cell in per cent: mean and interval, or those of paired differences."""
    if base is None:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in interval(values)))
    paired = [a - b for a, b in zip(values, base, strict=True)]
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in interval(paired)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def spending(folder: Path, generated: float, trained: float) -> Curve:
    """Return (spending, held-out accuracy) at each evaluation of a run.

    Args:
        folder: Run with `held_out.every`.
        generated, trained: Price of a generated and of a trained token. (1, 0) counts generated
            tokens; (2, 8) counts forward and backward passes, with a second forward pass for
            recomputation.
    """
    spent, curve = generated * selection_tokens(folder), []
    for row in metrics(folder):
        spent += generated * row["generated_tokens"] + trained * row.get("trained_tokens", 0)
        if "held_out_accuracy" in row:
            curve.append((spent, row["held_out_accuracy"]))
    return curve


def value_at(curve: Curve, x: float) -> float:
    """Return a curve's value at x, linear between its points and constant beyond them."""
    before = [point for point in curve if point[0] <= x] or curve[:1]
    after = [point for point in curve if point[0] >= x] or curve[-1:]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def plot(file: Path, panels: dict[str, list[Curve]], x_label: str, y_label: str) -> None:
    """Plot a panel of curves for each variant: mean and range of the seeds, the first one in grey.

    Args:
        file: SVG file to write.
        panels: {variant: a curve for each seed}; y is a share, shown in per cent.
        x_label, y_label: Labels of the axes.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.7 * columns, 2.4 * rows),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )

    def over_seeds(curves: list[Curve]) -> tuple[list[float], list[list[float]]]:
        end = min(curve[-1][0] for curve in curves)
        xs = sorted({x for curve in curves for x, _ in curve if x <= end})
        return xs, [[100 * value_at(curve, x) for curve in curves] for x in xs]

    base_xs, base_ys = over_seeds(next(iter(panels.values())))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, curves) in zip(grid.flat, panels.items(), strict=False):
        xs, ys = over_seeds(curves)
        axes.plot(base_xs, [fmean(y) for y in base_ys], color="#999999", linewidth=1.2)
        axes.fill_between(
            xs, [min(y) for y in ys], [max(y) for y in ys], color="#1f5fa8", alpha=0.2, linewidth=0
        )
        axes.plot(xs, [fmean(y) for y in ys], color="#1f5fa8", linewidth=1.8)
        axes.set_title(name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid[-1]:
        axes.set_xlabel(x_label)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
