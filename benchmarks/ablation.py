"""Measure what each of the paper's three fixes of GRPO is worth on the tiny track, at equal cost.

    tune run recipes/chain.py --config configs/tiny/chain.yaml     # leaves runs/tiny/sft/model
    python benchmarks/ablation.py --start runs/tiny/sft/model

The variants are GRPO, then one fix after the other on top of it, then DAPO and PPO. Each variant
has `--seeds` runs, and all runs have the same budget of generated tokens, which includes the tokens
of selection, oversampling and refilling. A short pilot of each variant tells how many steps that
budget allows. Each model is evaluated on the 600 held-out problems. After a kill, the same command
resumes. The results go to results.json, table.md and curves.svg in `--folder`.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TUNE = str(Path(sys.executable).with_name("tune"))
TASK = "reasoning_tiny_addition"
PLAIN = ["selection.rounds=0", "rebalance.enabled=false", "temperature={start: 1.0, end: 1.0}"]
SELECT = ["selection={rounds: 1, samples: 4, threshold: 0.5}"]
REBALANCE = ["rebalance={enabled: true, max_accuracy: 0.9, max_samples: 16}"]
ANNEAL = ["temperature={start: 1.0, end: 0.6, fraction: 0.5}"]
VARIANTS = {
    "GRPO": ("grpo", PLAIN),
    "+ selection": ("grpo", [*PLAIN[1:], *SELECT]),
    "+ rebalancing": ("grpo", [*SELECT, *REBALANCE, PLAIN[2]]),
    "+ annealing (the recipe)": ("grpo", [*SELECT, *REBALANCE, *ANNEAL]),
    "DAPO": (
        "grpo",
        [*PLAIN, "loss.name=dapo", "refill_rounds=2", "overlong={filter: true, buffer: 16}"],
    ),
    "PPO": ("ppo", []),
}


def run(recipe: str, folder: Path, start: Path, overrides: list[str]) -> None:
    """Run one training, unless it is complete."""
    # The recipe would skip a complete run too, but only after seconds of start-up.
    manifest = folder / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["status"] == "complete":
        return
    subprocess.run(
        [
            TUNE,
            "run",
            f"recipes/{recipe}.py",
            "--config",
            f"configs/tiny/{recipe}.yaml",
            f"checkpointer.checkpoint_dir={start}",
            f"tokenizer.path={start}",
            f"output_dir={folder}",
            "checkpoint_every=4",
            *overrides,
        ],
        cwd=ROOT,
        check=True,
    )


def metrics(folder: Path) -> list[dict]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def selection_tokens(folder: Path) -> int:
    """Return the number of tokens that a run generated to select its prompts."""
    return json.loads((folder / "manifest.json").read_text())["counts"]["selection_tokens"]


def steps_for(name: str, args: argparse.Namespace) -> int:
    """Return the number of steps that spend the budget of a variant, as measured by its pilot."""
    folder = args.folder / "pilots"
    per_step, selected = {}, {}
    for variant in ("GRPO", name):
        recipe, overrides = VARIANTS[variant]
        pilot = folder / slug(variant)
        run(recipe, pilot, args.start, [*overrides, f"max_steps={args.pilot}", "seed=1000"])
        per_step[variant] = fmean(row["generated_tokens"] for row in metrics(pilot))
        selected[variant] = selection_tokens(pilot)
    budget = args.steps * per_step["GRPO"]
    return max(1, round((budget - selected[name]) / per_step[name]))


def slug(name: str) -> str:
    """Return a variant's name in lower case, fit for a folder."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_").lower()


def train_and_evaluate(args: argparse.Namespace, seed: int) -> None:
    """Train all variants with one seed and evaluate them in one process."""
    models = {"start": args.start}
    for name, (recipe, overrides) in VARIANTS.items():
        folder = args.folder / f"seed_{seed}" / slug(name)
        held_out = (
            f"held_out={{every: {args.every}, keep_best: false, problems: {{_component_: "
            "custom_components.data.column_addition.column_addition, split: eval, "
            "counts: {2: 20, 3: 40, 4: 40}}}"
        )
        run(
            recipe,
            folder,
            args.start,
            [*overrides, f"max_steps={steps_for(name, args)}", f"seed={seed}", held_out],
        )
        models[slug(name)] = folder / "model"
    model_nodes = ", ".join(f"{name}: {folder}" for name, folder in models.items())
    subprocess.run(
        [
            TUNE,
            "run",
            "recipes/evaluate.py",
            "--config",
            "configs/tiny/evaluate.yaml",
            f"models={{{model_nodes}}}",
            f"only=[{', '.join(models)}]",
            f"output_dir={args.folder}/seed_{seed}/eval",
            f"seed={seed}",
        ],
        cwd=ROOT,
        check=True,
    )


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and the ends of Student's 95 % interval."""
    mean = fmean(values)
    half = stdtrit(len(values) - 1, 0.975) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def collect(args: argparse.Namespace) -> dict:
    """Return everything that the table and the plot show, by variant."""
    results: dict = {"seeds": args.seeds, "start": [], "variants": {}}
    for seed in range(args.seeds):
        results["start"].append(accuracy(args, seed, "start"))
    for name in VARIANTS:
        runs = [args.folder / f"seed_{seed}" / slug(name) for seed in range(args.seeds)]
        logs = [metrics(folder) for folder in runs]
        selected = [selection_tokens(folder) for folder in runs]
        curves = []
        for rows, spent in zip(logs, selected, strict=True):
            curve = []
            for row in rows:
                spent += row["generated_tokens"]
                if "held_out_accuracy" in row:
                    curve.append((spent, row["held_out_accuracy"]))
            curves.append(curve)
        results["variants"][name] = {
            "accuracy": [accuracy(args, seed, slug(name)) for seed in range(args.seeds)],
            "steps": len(logs[0]),
            "tokens": [
                spent + sum(row["generated_tokens"] for row in rows)
                for rows, spent in zip(logs, selected, strict=True)
            ],
            "useful_groups": [fmean(row["kept_prompts"] for row in rows) for rows in logs],
            "trained_share": [fmean(row["kept"] for row in rows) for rows in logs],
            "truncated": [fmean(row["truncated"] for row in rows) for rows in logs],
            "curves": curves,
        }
    return results


def accuracy(args: argparse.Namespace, seed: int, name: str) -> float:
    """Return the accuracy of one evaluated model."""
    file = args.folder / f"seed_{seed}" / "eval" / f"{name}.json"
    return json.loads(file.read_text())["results"][TASK]["accuracy"]


def table(results: dict) -> str:
    """Return a Markdown table with one line for each variant."""
    lines = [
        f"Start: {100 * fmean(results['start']):.1f} %. {results['seeds']} seeds.\n",
        "| | accuracy % [95 % over seeds] | - GRPO, paired by seed | useful groups % | "
        "responses learned from % | steps | generated tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    base = results["variants"]["GRPO"]["accuracy"]
    for name, variant in results["variants"].items():
        mean, low, high = (100 * v for v in interval(variant["accuracy"]))
        cell = ""
        if name != "GRPO":
            paired = [a - b for a, b in zip(variant["accuracy"], base, strict=True)]
            cell = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in interval(paired)))
        lines.append(
            f"| {name} | {mean:.1f} [{low:.1f}, {high:.1f}] | {cell} | "
            f"{100 * fmean(variant['useful_groups']):.0f} | "
            f"{100 * fmean(variant['trained_share']):.0f} | "
            f"{variant['steps']} | {fmean(variant['tokens']):,.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: dict, file: Path) -> None:
    """Plot held-out accuracy over generated tokens: the mean and the range of the seeds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(
        2, 3, figsize=(9, 5), sharex=True, sharey=True, layout="constrained"
    )
    base = mean_curve(results["variants"]["GRPO"]["curves"])
    for axes, (name, variant) in zip(grid.flat, results["variants"].items(), strict=True):
        axes.plot(*base[:2], color="#999999", linewidth=1.2, label="GRPO")
        tokens, mean, low, high = mean_curve(variant["curves"])
        axes.fill_between(tokens, low, high, color="#1f5fa8", alpha=0.2, linewidth=0)
        axes.plot(tokens, mean, color="#1f5fa8", linewidth=1.8)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out accuracy %")
    for axes in grid[1]:
        axes.set_xlabel("generated tokens, thousands")
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def mean_curve(curves: list[list[tuple[float, float]]]) -> tuple[list[float], ...]:
    """Return (thousand tokens, mean %, lowest %, highest %) over seeds, point by point."""
    points = list(zip(*curves, strict=True))
    return (
        [fmean(t for t, _ in p) / 1000 for p in points],
        *([100 * f([a for _, a in p]) for p in points] for f in (fmean, min, max)),
    )


def main() -> None:
    """Train, evaluate, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="model to start from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=24, help="steps of plain GRPO, which set the budget"
    )
    parser.add_argument(
        "--pilot",
        type=int,
        default=12,
        help="steps of each variant's pilot; refilling costs more as the model improves",
    )
    parser.add_argument("--every", type=int, default=3, help="steps between held-out evaluations")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    args.start = args.start.resolve()
    args.folder = args.folder.resolve()
    if find_spec("matplotlib") is None:  # fails now rather than after an hour
        parser.error("the plot needs matplotlib: pip install -e '.[bench]'")
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more: the intervals are over seeds")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for seed in range(args.seeds):
        train_and_evaluate(args, seed)
    results = collect(args)
    (args.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.folder / "table.md").write_text(table(results))
    plot(results, args.folder / "curves.svg")
    print(table(results))


if __name__ == "__main__":
    main()
