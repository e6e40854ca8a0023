"""What each of the paper's three fixes of GRPO is worth on the tiny track, at equal cost.

    tune run recipes/chain.py --config configs/tiny/chain.yaml     # leaves runs/tiny/sft/model
    python benchmarks/ablation.py --start runs/tiny/sft/model

GRPO, then one fix after the other on top, then DAPO and PPO: `--seeds` runs of each, all with the
same budget of generated tokens, those of selection, oversampling and refilling included (a short
pilot of each variant says how many steps that is). Each model is evaluated on the 600 held-out
problems. Killed and started again, it goes on where it was. Writes results.json, table.md and
curves.svg to `--folder`.
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
    """One training run, unless it is complete."""
    # the recipe says so itself, after seconds of start
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
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def selection_tokens(folder: Path) -> int:
    return json.loads((folder / "manifest.json").read_text())["counts"]["selection_tokens"]


def steps_for(name: str, args: argparse.Namespace) -> int:
    """Steps of a variant that spend the budget, by its pilot."""
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
    return "".join(c if c.isalnum() else "_" for c in name).strip("_").lower()


def train_and_evaluate(args: argparse.Namespace, seed: int) -> None:
    """All variants with one seed, and their evaluation in one process."""
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
    listed = ", ".join(f"{name}: {folder}" for name, folder in models.items())
    subprocess.run(
        [
            TUNE,
            "run",
            "recipes/evaluate.py",
            "--config",
            "configs/tiny/evaluate.yaml",
            f"models={{{listed}}}",
            f"only=[{', '.join(models)}]",
            f"output_dir={args.folder}/seed_{seed}/eval",
            f"seed={seed}",
        ],
        cwd=ROOT,
        check=True,
    )


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over seeds with Student's 95 % interval."""
    mean = fmean(values)
    half = stdtrit(len(values) - 1, 0.975) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def collect(args: argparse.Namespace) -> dict:
    """Everything the table and the plot show, by variant."""
    found: dict = {"seeds": args.seeds, "start": [], "variants": {}}
    for seed in range(args.seeds):
        found["start"].append(accuracy(args, seed, "start"))
    for name in VARIANTS:
        runs = [args.folder / f"seed_{seed}" / slug(name) for seed in range(args.seeds)]
        rows = [metrics(folder) for folder in runs]
        selected = [selection_tokens(folder) for folder in runs]
        curves = []
        for mine, spent in zip(rows, selected, strict=True):
            curve = []
            for row in mine:
                spent += row["generated_tokens"]
                if "held_out_accuracy" in row:
                    curve.append((spent, row["held_out_accuracy"]))
            curves.append(curve)
        found["variants"][name] = {
            "accuracy": [accuracy(args, seed, slug(name)) for seed in range(args.seeds)],
            "steps": len(rows[0]),
            "tokens": [
                spent + sum(row["generated_tokens"] for row in mine)
                for mine, spent in zip(rows, selected, strict=True)
            ],
            "useful_groups": [fmean(row["kept_prompts"] for row in mine) for mine in rows],
            "trained_share": [fmean(row["kept"] for row in mine) for mine in rows],
            "truncated": [fmean(row["truncated"] for row in mine) for mine in rows],
            "curves": curves,
        }
    return found


def accuracy(args: argparse.Namespace, seed: int, name: str) -> float:
    file = args.folder / f"seed_{seed}" / "eval" / f"{name}.json"
    found = json.loads(file.read_text())
    return found["results"][TASK]["accuracy"]


def table(found: dict) -> str:
    """Markdown: a line for each variant."""
    lines = [
        f"Start: {100 * fmean(found['start']):.1f} %. {found['seeds']} seeds.\n",
        "| | accuracy % [95 % over seeds] | - GRPO, paired by seed | useful groups % | "
        "responses learned from % | steps | generated tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    base = found["variants"]["GRPO"]["accuracy"]
    for name, of in found["variants"].items():
        mean, low, high = (100 * v for v in interval(of["accuracy"]))
        cell = ""
        if name != "GRPO":
            paired = [a - b for a, b in zip(of["accuracy"], base, strict=True)]
            cell = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in interval(paired)))
        lines.append(
            f"| {name} | {mean:.1f} [{low:.1f}, {high:.1f}] | {cell} | "
            f"{100 * fmean(of['useful_groups']):.0f} | {100 * fmean(of['trained_share']):.0f} | "
            f"{of['steps']} | {fmean(of['tokens']):,.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict, file: Path) -> None:
    """Held-out accuracy over generated tokens: mean over seeds, and the range of the seeds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(
        2, 3, figsize=(9, 5), sharex=True, sharey=True, layout="constrained"
    )
    base = mean_curve(found["variants"]["GRPO"]["curves"])
    for axes, (name, of) in zip(grid.flat, found["variants"].items(), strict=True):
        axes.plot(*base[:2], color="#999999", linewidth=1.2, label="GRPO")
        tokens, mean, low, high = mean_curve(of["curves"])
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
    """(thousand tokens, mean %, lowest %, highest %) over seeds, point by point."""
    points = list(zip(*curves, strict=True))
    return (
        [fmean(t for t, _ in p) / 1000 for p in points],
        *([100 * f([a for _, a in p]) for p in points] for f in (fmean, min, max)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="model to start from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="of plain GRPO: they set the budget")
    parser.add_argument(
        "--pilot",
        type=int,
        default=12,
        help="steps of each variant's pilot: refilling costs more as the model improves",
    )
    parser.add_argument("--every", type=int, default=3, help="steps between held-out evaluations")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    args.start, args.folder = args.start.resolve(), args.folder.resolve()
    if find_spec("matplotlib") is None:  # said now, not after an hour
        parser.error("the plot needs matplotlib: pip install -e '.[bench]'")
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more: the intervals are over seeds")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for seed in range(args.seeds):
        train_and_evaluate(args, seed)
    found = collect(args)
    (args.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.folder / "table.md").write_text(table(found))
    plot(found, args.folder / "curves.svg")
    print(table(found))


if __name__ == "__main__":
    main()
