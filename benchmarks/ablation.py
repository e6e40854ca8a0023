"""Measure what each of the paper's three fixes of GRPO is worth on the tiny track, at equal cost.

    tune run recipes/chain.py --config configs/tiny/chain.yaml     # leaves runs/tiny/sft/model
    python benchmarks/ablation.py --start runs/tiny/sft/model

The variants are GRPO, then one fix after the other on top of it, then DAPO and PPO. Each variant
has `--seeds` runs, and each run ends with the step that reaches `--tokens` generated tokens, which
include those of selection, oversampling and refilling; its learning rate and temperature follow
these tokens. The models are evaluated on held-out problems of each number of digits: accuracy, and
pass@k over `--samples` responses, by class. After a kill, the same command resumes. The results go
to results.json, table.md and curves.svg in `--folder`.

benchmarks/protocols.py has the ablations in the regimes that the fixes are made for.
"""

import argparse
import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from rl_variants import (
    additions,
    by_class,
    cell,
    evaluate,
    in_parallel,
    metrics,
    plot,
    run,
    slug,
    spending,
    start_from,
    table,
)

PLAIN = ["selection.rounds=0", "rebalance.enabled=false", "temperature={start: 1.0, end: 1.0}"]
SELECT = ["selection={rounds: 1, samples: 4, threshold: 0.5}"]
REBALANCE = ["rebalance={enabled: true, max_accuracy: 0.9, max_samples: 16}"]
ANNEAL = ["temperature={start: 1.0, end: 0.6, fraction: 0.5}"]
OVERLONG = [
    "overlong_filter=true",
    "reward=[{_component_: custom_components.rl.rewards.verified}, "
    "{_component_: custom_components.rl.rewards.overlong_penalty, buffer: 16}]",
]
VARIANTS = {
    "GRPO": ("grpo", PLAIN),
    "+ selection": ("grpo", [*PLAIN[1:], *SELECT]),
    "+ rebalancing": ("grpo", [*SELECT, *REBALANCE, PLAIN[2]]),
    "+ annealing (the recipe)": ("grpo", [*SELECT, *REBALANCE, *ANNEAL]),
    "DAPO": ("grpo", [*PLAIN, "loss.name=dapo", "refill_rounds=2", "contrast=verdict", *OVERLONG]),
    "PPO": ("ppo", []),
}
HELD_OUT = {2: 20, 3: 40, 4: 40}
EVALUATED = {2: 150, 3: 150, 4: 150, 5: 150}


def train(args: argparse.Namespace, seed: int, name: str) -> Path:
    """Train a variant with one seed, and return its folder."""
    recipe, overrides = VARIANTS[name]
    held_out = f"{{every: {args.every}, keep_best: false, problems: {additions('eval', HELD_OUT)}}}"
    return run(
        recipe,
        args.folder / f"seed_{seed}" / slug(name),
        [
            *start_from(args.start),
            "checkpoint_every=4",
            *overrides,
            "max_steps=null",
            f"max_generated_tokens={args.tokens}",
            f"seed={seed}",
            f"held_out={held_out}",
        ],
    )


def evaluated(args: argparse.Namespace, seed: int) -> Path:
    """Evaluate the start and all variants of one seed, and return the folder."""
    models = {"start": args.start} | {
        slug(name): args.folder / f"seed_{seed}" / slug(name) / "model" for name in VARIANTS
    }
    folder = args.folder / f"seed_{seed}" / "eval"
    return evaluate(folder, models, EVALUATED, args.samples, seed=seed)


def collect(args: argparse.Namespace) -> dict:
    """Return everything that the table and the plot show, by variant."""
    seeds = range(args.seeds)
    folders = [args.folder / f"seed_{seed}" for seed in seeds]
    results: dict = {"seeds": args.seeds, "tokens": args.tokens, "samples": args.samples}
    results["start"] = [by_class(folder / "eval", "start") for folder in folders]
    results["variants"] = {}
    for name in VARIANTS:
        runs = [folder / slug(name) for folder in folders]
        logs = [metrics(folder) for folder in runs]
        results["variants"][name] = {
            "by_class": [by_class(folder / "eval", slug(name)) for folder in folders],
            "steps": [len(rows) for rows in logs],
            "useful_groups": [fmean(row["kept_prompts"] for row in rows) for rows in logs],
            "trained_share": [fmean(row["kept"] for row in rows) for rows in logs],
            "truncated": [fmean(row["truncated"] for row in rows) for rows in logs],
            "curves": [spending(folder, 1, 0) for folder in runs],
        }
    return results


def show(results: dict) -> str:
    """Return Markdown tables: accuracy, and accuracy and pass@k of each class."""
    variants = results["variants"]

    def values(variant: dict, label: str, key: str) -> list[float]:
        return [classes[label][key] for classes in variant["by_class"]]

    base = values(variants["GRPO"], "all", "accuracy")
    start = fmean(classes["all"]["accuracy"] for classes in results["start"])
    head = ["", "accuracy %, mean of the classes", "- GRPO, paired by seed", "useful groups %"]
    head += ["responses learned from %", "steps"]
    rows = [
        [
            name,
            cell(values(variant, "all", "accuracy")),
            "" if name == "GRPO" else cell(values(variant, "all", "accuracy"), base),
            f"{100 * fmean(variant['useful_groups']):.0f}",
            f"{100 * fmean(variant['trained_share']):.0f}",
            f"{fmean(variant['steps']):.0f}",
        ]
        for name, variant in variants.items()
    ]
    text = (
        f"Start: {100 * start:.1f} %. {results['seeds']} seeds, {results['tokens']:,} generated "
        f"tokens each; intervals are Student's over the seeds.\n\n{table(head, rows)}"
    )
    labels = [label for label in results["start"][0] if label != "all"]
    for key, title in (("accuracy", "accuracy"), ("pass_at_k", f"pass@{results['samples']}")):
        rows = [
            [name, *(cell(values(variant, label, key)) for label in labels)]
            for name, variant in variants.items()
        ]
        text += f"\n{title} % by class:\n\n{table(['', *labels], rows)}"
    return text


def main() -> None:
    """Train, evaluate, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="model to start from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200_000, help="generated tokens of each run")
    parser.add_argument("--every", type=int, default=3, help="steps between held-out evaluations")
    parser.add_argument("--samples", type=int, default=16, help="responses to evaluate pass@k on")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    args.start = args.start.resolve()
    args.folder = args.folder.resolve()
    if find_spec("matplotlib") is None:  # It would otherwise fail after an hour.
        parser.error("the plot needs matplotlib: pip install -e '.[bench]'")
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more: the intervals are over seeds")
    seeds = range(args.seeds)
    jobs = [partial(train, args, seed, name) for seed in seeds for name in VARIANTS]
    in_parallel(jobs, args.workers)
    in_parallel([partial(evaluated, args, seed) for seed in seeds], args.workers)
    results = collect(args)
    (args.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.folder / "table.md").write_text(show(results))
    curves = {name: variant["curves"] for name, variant in results["variants"].items()}
    plot(args.folder / "curves.svg", curves, "generated tokens", "held-out accuracy %")
    print(show(results))


if __name__ == "__main__":
    main()
