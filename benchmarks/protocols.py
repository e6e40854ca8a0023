"""Measure the paper's RL fixes on the tiny track in the regimes that they are made for.

    python benchmarks/protocols.py rare           # A: hard prompts with rare successes
    python benchmarks/protocols.py lengths        # B: responses of uneven length
    python benchmarks/protocols.py temperature    # C: constant, falling and rising temperature

Each is one resumable command that takes hours; `--workers` runs so many trainings at a time, of one
thread each. Results go to results.json, table.md and SVG files in `--folder`/<protocol>. All effects
are paired by seed. The smallest effect of interest is 5 points on the hard class (A, C), and a
difference of half of the runs in collapses (B).

A and C start from an SFT model whose distillation data have a few problems of five digits, after the
longest SFT with which the hard class (five digits, or else four) passes 1 to 5 % of the time at
temperature 1. A trains on as many hard prompts as easy ones (of the class that passes more than 70
%); every variant generates about as many tokens in a step as GRPO (a pilot sets its number of
prompts), for as many steps. Its learning rate is the one of four that is best on the hard class in
short runs with two other seeds. Results are given over steps, at equal generated tokens, and at
equal compute (2 for a generated token, 8 for a trained one).

B starts from a model of a teacher with three styles: terse, worked, and worked twice. The limit cuts
about 7 % of the responses. A run has collapsed when its held-out accuracy falls more than 5 points
below its best so far, or its entropy below 0.01. One selection serves all seeds, and its tokens are
reported.

C takes the same start as A, without any other fix, and evaluates at temperature 0.6 and 1.0.
"""

import argparse
import json
import random
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median

from rl_variants import (
    Curve,
    additions,
    by_class,
    cell,
    evaluate,
    in_parallel,
    metrics,
    plot,
    run,
    selection_tokens,
    slug,
    spending,
    start_from,
    table,
    value_at,
)

from custom_components.data.column_addition import ErrorRates, column_addition, worked_addition
from custom_components.data.curation import MESSAGES_SCHEMA
from custom_components.data.rows import read_rows, write_rows
from custom_components.tokenizer.chat import ChatTokenizer

DISTILLED = "{1: 30, 2: 1500, 3: 4000, 4: 1200, 5: 100}"
SFT_STEPS = (1000, 700, 460, 340, 260, 200, 140)
EASY, RARE = 0.7, (0.01, 0.05)
NO_FIX = ["selection.rounds=0", "rebalance.enabled=false", "temperature={start: 1.0, end: 1.0}"]


def rebalanced(**keys: object) -> str:
    """Return the override of `rebalance` with these keys."""
    listed = ", ".join(f"{key}: {str(value).lower()}" for key, value in keys.items())
    return f"rebalance={{{listed}}}"


CAP = 64
RARE_VARIANTS = {
    "GRPO, groups of 8": ["group_size=8"],
    "GRPO, groups of 32": ["group_size=32"],
    "drop > 50 %": [rebalanced(enabled=True, equal=False, max_accuracy=0.5, max_samples=8)],
    "rebalanced, per response": [
        rebalanced(enabled=True, max_accuracy=0.5, max_samples=CAP),
        "loss.aggregation=sequence_mean",
    ],
    "rebalanced, per prompt": [rebalanced(enabled=True, max_accuracy=0.5, max_samples=CAP)],
    "DAPO": ["loss.name=dapo", "refill_rounds=2", "contrast=verdict"],
    # He et al. 2025, JustRL: a single stage with fixed settings and a constant learning rate
    "JustRL's settings": ["loss.name=dapo", "minibatches=4", "lr_decay=none"],
}
PER_STEP = 256
"""Responses of GRPO in a step."""
TUNING_SEEDS = (1000, 1001)

TEMPERATURES = {
    "constant 1.0": "temperature={start: 1.0, end: 1.0}",
    "constant 0.6": "temperature={start: 0.6, end: 0.6}",
    "1.0 to 0.6": "temperature={start: 1.0, end: 0.6, fraction: 0.5}",
    "0.6 to 1.0": "temperature={start: 0.6, end: 1.0, fraction: 0.5}",
}

STYLES = {"terse": 0.2, "worked": 0.5, "worked twice": 0.3}
"""Shares of the teacher's styles in protocol B."""
CUT = 0.07
FALL, FLAT = 0.05, 0.01


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def once(path: Path, make: Callable[[], dict]) -> dict:
    """Return the JSON object in a file, made and written if the file is missing."""
    if not path.is_file():
        write_json(path, make())
    return json.loads(path.read_text())


def prepare_start(args: argparse.Namespace) -> dict:
    """Return the start of A and C: model, digits of the hard and of the easy class, pass rates."""
    data = args.folder / "start"
    common = [f"run_dir={data}"]
    run("start", data / "start", common)
    run("rollout", data / "rollout", [*common, f"problems.counts={DISTILLED}"])
    run("curate", data / "curate", common)
    run("midtrain", data / "midtrain", common)

    def choose() -> dict:
        tried = []
        for steps in SFT_STEPS:
            sft = run("sft", data / f"sft_{steps}", [*common, f"max_steps={steps}"])
            counts = {2: 100, 3: 100, 4: 100, 5: 100}
            results = evaluate(data / f"eval_{steps}", {"sft": sft / "model"}, counts, 8, 1.0)
            classes = by_class(results, "sft")
            rates = {digits: classes[f"{digits} digits"]["accuracy"] for digits in counts}
            tried.append({"steps": steps, "rates": rates})
            easy = [digits for digits, rate in rates.items() if rate > EASY]
            hard = [digits for digits, rate in rates.items() if RARE[0] <= rate <= RARE[1]]
            if easy and hard:
                model = str(sft / "model")
                return {"model": model, "hard": max(hard), "easy": max(easy), "tried": tried}
        raise SystemExit(f"no SFT model has a class at 1 to 5 %: {tried}")

    return once(data / "chosen.json", choose)


def rl_overrides(args: argparse.Namespace, start: dict, seed: int, lr: float) -> list[str]:
    """Return what all RL runs of A and C have in common."""
    prompts = {start["easy"]: args.prompts, start["hard"]: args.prompts}
    held_out = additions("eval", {start["hard"]: args.problems})
    return [
        *start_from(Path(start["model"])),
        f"problems={additions('rl', prompts)}",
        f"held_out={{every: {args.every}, samples: 8, keep_best: false, problems: {held_out}}}",
        "max_new_tokens=128",
        "checkpoint_every=10",
        "warmup_ratio=0.05",
        f"optimizer.lr={lr}",
        f"seed={seed}",
        *NO_FIX,
    ]


def rare(args: argparse.Namespace) -> None:
    """Run protocol A, and write its results."""
    start, folder = prepare_start(args), args.folder / "rare"

    def prompts_of(name: str) -> int:
        """Return the prompts in a step with which a variant generates as many tokens as GRPO."""
        tokens = {}
        for variant in dict.fromkeys(("GRPO, groups of 8", name)):
            pilot = run(
                "grpo",
                folder / "pilots" / slug(variant),
                [
                    *rl_overrides(args, start, TUNING_SEEDS[0], args.rates[0]),
                    *RARE_VARIANTS[variant],
                    "held_out.every=0",
                    f"batch_size={PER_STEP // 8}",
                    f"max_steps={args.pilot}",
                ],
            )
            tokens[variant] = fmean(row["generated_tokens"] for row in metrics(pilot))
        return max(1, round(PER_STEP / 8 * tokens["GRPO, groups of 8"] / tokens[name]))

    in_parallel([partial(prompts_of, name) for name in RARE_VARIANTS], 1)
    prompts = {name: prompts_of(name) for name in RARE_VARIANTS}

    def train(name: str, seed: int, lr: float, steps: int, part: str) -> Path:
        return run(
            "grpo",
            folder / part / slug(name) / f"lr_{lr}_seed_{seed}",
            [
                *rl_overrides(args, start, seed, lr),
                *RARE_VARIANTS[name],
                f"batch_size={prompts[name]}",
                f"max_steps={steps}",
            ],
        )

    grid = [
        (name, seed, lr) for name in RARE_VARIANTS for lr in args.rates for seed in TUNING_SEEDS
    ]
    jobs = [partial(train, *choice, args.tuning_steps, "tuning") for choice in grid]
    in_parallel(jobs, args.workers)

    def tuned(name: str) -> float:
        def score(lr: float) -> float:
            runs = [train(name, seed, lr, args.tuning_steps, "tuning") for seed in TUNING_SEEDS]
            return fmean(metrics(r)[-1]["held_out_accuracy"] for r in runs)

        return max(args.rates, key=score)

    rates = {name: tuned(name) for name in RARE_VARIANTS}
    seeds = range(args.seeds)

    def main_run(name: str, seed: int) -> Path:
        return train(name, seed, rates[name], args.steps, "main")

    in_parallel([partial(main_run, n, s) for n in RARE_VARIANTS for s in seeds], args.workers)
    evaluations = {
        name: evaluate(
            folder / "eval" / slug(name),
            {f"seed_{s}": main_run(name, s) / "model" for s in seeds},
            {start["easy"]: 200, start["hard"]: args.problems},
            16,
        )
        for name in RARE_VARIANTS
    }
    hard = f"{start['hard']} digits"
    results: dict = {"start": start, "rates": rates, "prompts": prompts, "variants": {}}
    for name in RARE_VARIANTS:
        runs = [main_run(name, seed) for seed in seeds]
        classes = [by_class(evaluations[name], f"seed_{seed}") for seed in seeds]
        results["variants"][name] = {
            "by_class": classes,
            "over_steps": [held_out_curve(r) for r in runs],
            "over_tokens": [spending(r, 1, 0) for r in runs],
            "over_compute": [spending(r, 2, 8) for r in runs],
            "trained_share": [fmean(row["kept"] for row in metrics(r)) for r in runs],
        }
    write_json(folder / "results.json", results)
    variants = results["variants"]
    base = next(iter(RARE_VARIANTS))
    columns: dict[str, dict[str, list[float]]] = {}
    ends = [point[0] for point in variants[base]["over_steps"][0]]
    for step in ends:
        columns[f"step {step:.0f}"] = points(variants, "over_steps", step)
    for key, title in (("over_tokens", "equal tokens"), ("over_compute", "equal compute")):
        budget = min(curve[-1][0] for v in variants.values() for curve in v[key])
        columns[title] = points(variants, key, budget)
    columns["pass@16"] = {
        name: [classes[hard]["pass_at_k"] for classes in v["by_class"]]
        for name, v in variants.items()
    }
    text = f"Accuracy % on {hard}; the start passes {start['tried'][-1]['rates']}.\n\n"
    text += comparison(columns, base, {name: f"{lr:g}" for name, lr in rates.items()}, "rate")
    (folder / "table.md").write_text(text)
    for key, label in (("over_steps", "steps"), ("over_tokens", "generated tokens")):
        curves = {name: v[key] for name, v in variants.items()}
        plot(folder / f"{key}.svg", curves, label, f"{hard}, accuracy %")
    print(text)


def held_out_curve(folder: Path) -> Curve:
    """Return (step, held-out accuracy) of a run."""
    rows = [row for row in metrics(folder) if "held_out_accuracy" in row]
    return [(row["step"], row["held_out_accuracy"]) for row in rows]


def points(variants: dict, key: str, x: float) -> dict[str, list[float]]:
    """Return each variant's values at x, one for each seed."""
    return {name: [value_at(curve, x) for curve in v[key]] for name, v in variants.items()}


def comparison(
    columns: dict[str, dict[str, list[float]]], base: str, notes: dict[str, str], note: str
) -> str:
    """Return two Markdown tables: values, and differences to the base, paired by seed.

    Args:
        columns: {column: {variant: a value for each seed}}.
        base: Variant to compare with.
        notes: A remark for each variant, in the second column of the first table.
        note: Heading of the remarks.
    """
    values = [
        [name, notes[name], *(cell(column[name]) for column in columns.values())] for name in notes
    ]
    differences = [
        [name, *(cell(column[name], column[base]) for column in columns.values())]
        for name in notes
        if name != base
    ]
    return (
        f"{table(['', note, *columns], values)}\nLess {base}, paired by seed:\n\n"
        f"{table(['', *columns], differences)}"
    )


def temperature(args: argparse.Namespace) -> None:
    """Run protocol C, and write its results."""
    start, folder = prepare_start(args), args.folder / "temperature"
    seeds = range(args.seeds)

    def train(name: str, seed: int) -> Path:
        return run(
            "grpo",
            folder / slug(name) / f"seed_{seed}",
            [
                *rl_overrides(args, start, seed, args.rates[1]),
                TEMPERATURES[name],
                f"batch_size={PER_STEP // 8}",
                f"max_steps={args.steps}",
            ],
        )

    in_parallel([partial(train, n, s) for n in TEMPERATURES for s in seeds], args.workers)
    hard = f"{start['hard']} digits"
    columns: dict[str, dict[str, list[float]]] = {}
    results: dict = {"start": start, "variants": {name: {} for name in TEMPERATURES}}
    for at in (0.6, 1.0):
        for name in TEMPERATURES:
            evaluated = evaluate(
                folder / f"eval_{at}" / slug(name),
                {f"seed_{s}": train(name, s) / "model" for s in seeds},
                {start["easy"]: 200, start["hard"]: args.problems},
                16,
                at,
            )
            classes = [by_class(evaluated, f"seed_{seed}") for seed in seeds]
            results["variants"][name][f"at {at}"] = classes
            for key, title in (("accuracy", ""), ("pass_at_k", " pass@16")):
                column = columns.setdefault(f"{hard} at {at}{title}", {})
                column[name] = [c[hard][key] for c in classes]
                overall = columns.setdefault(f"all at {at}{title}", {})
                overall[name] = [c["all"][key] for c in classes]
    for name, result in results["variants"].items():
        logs = [metrics(train(name, seed)) for seed in seeds]
        result["entropy"] = [
            [(row["step"], row["entropy"]) for row in rows if "entropy" in row] for rows in logs
        ]
        result["over_steps"] = [held_out_curve(train(name, seed)) for seed in seeds]
    write_json(folder / "results.json", results)
    ends = {
        name: f"{fmean(curve[-1][1] for curve in result['entropy']):.3f}"
        for name, result in results["variants"].items()
    }
    text = comparison(columns, next(iter(TEMPERATURES)), ends, "entropy at the end")
    (folder / "table.md").write_text(text)
    for key, label in (("over_steps", f"{hard}, accuracy %"), ("entropy", "entropy, nats / 100")):
        curves = {name: result[key] for name, result in results["variants"].items()}
        plot(folder / f"{key}.svg", curves, "steps", label)
    print(text)


def styled(a: int, b: int, rng: random.Random) -> str:
    """Return a correct response in one of the teacher's styles."""
    [style] = rng.choices(list(STYLES), list(STYLES.values()))
    if style == "terse":
        return f"<think></think>\\boxed{{{a + b}}}"
    text, _ = worked_addition(a, b, ErrorRates(), rng)
    if style == "worked":
        return text
    reasoning, _, answer = text.removeprefix("<think>").partition("</think>")
    return f"<think>{reasoning}\n{reasoning}</think>{answer}"


def prepare_lengths(args: argparse.Namespace) -> dict:
    """Return the start of B: model, the limit that cuts some responses, and the selected prompts."""
    data = args.folder / "lengths" / "start"
    common = [f"run_dir={data}"]
    start = run("start", data / "start", common)
    rng = random.Random(0)
    rows = []
    for problem in column_addition("distill", {2: 1500, 3: 3000, 4: 1000}):
        a, b = map(int, str(problem["problem"]).removesuffix("=?").split("+"))
        turns = [
            {"role": "user", "content": problem["problem"]},
            {"role": "assistant", "content": styled(a, b, rng)},
        ]
        source = {key: problem[key] for key in ("id", "source", "answer")}
        rows.append(source | {"messages": turns})
    file = data / "styles.parquet"
    if not file.is_file():
        write_rows(file, rows, MESSAGES_SCHEMA)
    midtrain = run("midtrain", data / "midtrain", [*common, f"data={file}"])
    steps = f"max_steps={args.sft_steps}"
    sft = run("sft", data / "sft", [f"data={file}", steps, *start_from(midtrain / "model")])
    tokenizer = ChatTokenizer(str(start / "model"))
    lengths = sorted(
        len(tokenizer.hf.encode(row["messages"][1]["content"], add_special_tokens=False)) + 1
        for row in rows
    )
    limit = lengths[int((1 - CUT) * len(lengths))]
    chosen = run(
        "grpo",
        data / "selection",
        [
            *start_from(sft / "model"),
            f"problems={additions('rl', {2: 300, 3: 900, 4: 300})}",
            f"max_new_tokens={limit}",
            "selection={rounds: 2, samples: 8, threshold: 100.0, max_accuracy: 1.0}",
            "max_steps=1",
        ],
    )
    candidates = list(read_rows(chosen / "prompts.parquet"))
    threshold = median(row["length_cv"] for row in candidates)
    for name, bound in (("all", float("inf")), ("uniform", threshold)):
        kept = [row for row in candidates if row["length_cv"] <= bound]
        lines = [json.dumps({k: row[k] for k in ("id", "problem", "answer")}) for row in kept]
        (data / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "model": str(sft / "model"),
        "limit": limit,
        "threshold": threshold,
        "selection_tokens": selection_tokens(chosen),
        "length_cv": [row["length_cv"] for row in candidates],
        "prompts": {name: str(data / f"{name}.jsonl") for name in ("all", "uniform")},
    }


def collapse(rows: list[dict]) -> int | None:
    """Return the step at which a run collapses, or None."""
    best = 0.0
    for row in rows:
        best = max(best, row.get("held_out_accuracy", 0.0))
        if best - row.get("held_out_accuracy", best) > FALL or row.get("entropy", 1.0) < FLAT:
            return row["step"]
    return None


def lengths(args: argparse.Namespace) -> None:
    """Run protocol B, and write its results."""
    start, folder = prepare_lengths(args), args.folder / "lengths"
    seeds = range(args.seeds)
    variants = {
        f"{prompts} prompts, rate {lr:g}": (prompts, lr)
        for lr in args.rates
        for prompts in ("all", "uniform")
    }
    held_out = additions("eval", {2: 50, 3: 100, 4: 50})

    def train(name: str, seed: int) -> Path:
        prompts, lr = variants[name]
        table_node = "{_component_: custom_components.data.problems.table, path: %s}"
        return run(
            "grpo",
            folder / slug(name) / f"seed_{seed}",
            [
                *start_from(Path(start["model"])),
                *NO_FIX,
                f"problems={table_node % start['prompts'][prompts]}",
                f"held_out={{every: {args.every}, keep_best: false, problems: {held_out}}}",
                f"max_new_tokens={start['limit']}",
                "minibatches=4",
                "lr_decay=none",
                "checkpoint_every=10",
                f"optimizer.lr={lr}",
                f"max_steps={args.steps}",
                f"seed={seed}",
            ],
        )

    in_parallel([partial(train, n, s) for n in variants for s in seeds], args.workers)
    results: dict = {"start": start, "variants": {}}
    rows = []
    for name in variants:
        logs = [metrics(train(name, seed)) for seed in seeds]
        ends = [collapse(log) for log in logs]
        curves = [held_out_curve(train(name, seed)) for seed in seeds]
        results["variants"][name] = {
            "collapse": ends,
            "over_steps": curves,
            "entropy": [[(r["step"], r["entropy"]) for r in log if "entropy" in r] for log in logs],
            "length_cv": [fmean(row["length_cv"] for row in log) for log in logs],
            "truncated": [fmean(row["truncated"] for row in log) for log in logs],
        }
        steps = ", ".join(str(end) for end in ends if end is not None) or "none"
        best = [max(y for _, y in curve) for curve in curves]
        last = [curve[-1][1] for curve in curves]
        share = sum(end is not None for end in ends)
        rows.append([name, f"{share} of {len(ends)}", steps, cell(best), cell(last)])
    write_json(folder / "results.json", results)
    head = ["", "collapsed", "at step", "best held-out %", "last held-out %"]
    text = (
        f"Selection took {start['selection_tokens']:,} tokens; prompts with a coefficient of "
        f"variation of at most {start['threshold']:.2f} are uniform.\n\n{table(head, rows)}"
    )
    (folder / "table.md").write_text(text)
    for key, label in (("over_steps", "held-out %"), ("entropy", "entropy, nats / 100")):
        curves = {name: result[key] for name, result in results["variants"].items()}
        plot(folder / f"{key}.svg", curves, "steps", label)
    print(text)


DEFAULTS = {
    "rare": {"steps": 150, "every": 50, "rates": [2e-5, 4e-5, 8e-5, 1.6e-4]},
    "lengths": {"steps": 300, "every": 20, "seeds": 3, "rates": [4e-5, 1.6e-4]},
    "temperature": {"steps": 150, "every": 50, "rates": [2e-5, 4e-5, 8e-5, 1.6e-4]},
}


def main() -> None:
    """Run one protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    protocols = {"rare": rare, "lengths": lengths, "temperature": temperature}
    parser.add_argument("protocol", choices=protocols)
    parser.add_argument("--seeds", type=int, help="runs of each variant; 5, of lengths 3")
    parser.add_argument("--steps", type=int, help="steps of a run; 150, of lengths 300")
    parser.add_argument("--every", type=int, help="steps between held-out evaluations; 50, 20")
    parser.add_argument(
        "--rates", type=float, nargs="+", help="learning rates: tuned over in rare, all in lengths"
    )
    parser.add_argument("--prompts", type=int, default=1000, help="RL prompts of each class")
    parser.add_argument("--problems", type=int, default=400, help="held-out problems, hard class")
    parser.add_argument("--pilot", type=int, default=4, help="steps of a pilot of rare")
    parser.add_argument(
        "--tuning-steps", type=int, default=60, help="steps of a tuning run of rare"
    )
    parser.add_argument("--sft-steps", type=int, default=400, help="steps of the SFT of lengths")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/protocols"))
    args = parser.parse_args()
    for key, value in ({"seeds": 5} | DEFAULTS[args.protocol]).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    args.folder = args.folder.resolve()
    if find_spec("matplotlib") is None:  # It would otherwise fail after hours.
        parser.error("the plots need matplotlib: pip install -e '.[bench]'")
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more: the intervals are over seeds")
    protocols[args.protocol](args)


if __name__ == "__main__":
    main()
