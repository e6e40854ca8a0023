"""Measure curation and packing of synthetic rollouts at scale: speed and peak memory.

    python benchmarks/curate.py --rollouts 1000000 --tokenizer FOLDER
    python benchmarks/curate.py --rollouts 1000000 --tokenizer FOLDER --ranks 2

Each problem has eight rollouts of 2.1 kB each. Half of the rows carry a verdict that is taken as it
is (given_verdicts=trust); the others are verified. With --data (a folder of local copies, see
REASONTUNE_DATA) decontamination is on. Then the midtrain split is tokenised and packed into 16K.
Peak memory is the anonymous memory (Pss_Anon, which excludes the pages of mapped files) of all
processes together, read four times a second.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TUNE = str(Path(sys.executable).with_name("tune"))
NOUNS = "apples coins marbles stamps books pencils tickets shells stones cards cups boxes".split()
NAMES = "Ada Ben Cleo Dan Eve Finn Gina Hugo Iris Jon Kim Leo Mia Ned Olga Pia".split()
PLACES = "market school garden station harbour museum library bakery park farm".split()
WORDS = """
first then so now next hence since because therefore let us check the sum of both sides and add subtract
multiply divide number value equals total left right more less than after before again wait maybe problem
answer question says gives means know find count each every same other together carry over digit place ten
hundred step work out simple careful mistake look back verify result correct final small large part whole
""".split()


def write_rollouts(folder: Path, count: int, seed: int = 0) -> int:
    """Write shards of made-up rollouts and return the bytes of their texts."""
    from custom_components.data.rows import rollout_row, write_rows

    rng, total, rows = random.Random(seed), 0, []
    for problem in range(count // 8):
        a, b, c = rng.randint(2, 999), rng.randint(2, 999), rng.randint(2, 99)
        noun, place = rng.choice(NOUNS), rng.choice(PLACES)
        name, other = rng.sample(NAMES, 2)
        text = (
            f"{name} has {a} {noun} and finds {b} more at the {place} on day {problem % 977}. "
            f"{other} takes {c} of them. How many {noun} does {name} have left, in case {problem}?"
        )
        answer = a + b - c
        for sample in range(8):
            right = rng.random() < 0.6
            result = answer if right else answer + rng.randint(1, 50)
            steps = " ".join(rng.choices(WORDS, k=360))
            response = (
                f"<think>\n{steps}\n{a}+{b}-{c}={result}\n</think>\n\nIt is \\boxed{{{result}}}."
            )
            given = ("correct" if right else "incorrect") if sample % 2 else None
            rows.append(
                rollout_row(
                    id=f"p{problem}",
                    source="synthetic",
                    problem=text,
                    answer=str(answer),
                    response=response,
                    num_tokens=len(response) // 4,
                    given_verdict=given,
                )
            )
            total += len(text) + len(response)
        if len(rows) >= 8000:
            write_rows(folder / "rollouts" / f"{problem:08d}.parquet", rows)
            rows = []
    if rows:
        write_rows(folder / "rollouts" / f"{problem:08d}.parquet", rows)
    return total


def tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids += [p for child in task.read_text().split() for p in tree(int(child))]
        except OSError:
            continue
    return pids


def pss(pid: int) -> int:
    """Return one process's share of the anonymous memory in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def watched(command: list[str], env: dict[str, str]) -> tuple[float, float, float]:
    """Run a command and return (seconds, peak GiB of all processes, peak GiB of the largest)."""
    began, peak, largest = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    while process.poll() is None:
        sizes = [pss(p) for p in tree(process.pid)]
        peak = max(peak, sum(sizes))
        largest = max(largest, *sizes, 0)
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - began, peak / 2**30, largest / 2**30


def pack(folder: Path, tokenizer: str) -> None:
    """Tokenise and pack the midtrain split in two processes."""
    from custom_components.data.packing import encode_messages, prepare_packs
    from custom_components.tokenizer.chat import ChatTokenizer

    encode = partial(encode_messages, tokenizer=ChatTokenizer(tokenizer))
    shutil.rmtree(folder / "packs", ignore_errors=True)
    print(prepare_packs(folder / "midtrain.parquet", encode, 16_384, folder / "packs", workers=2))


def main() -> None:
    """Make the rollouts, curate and pack them, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="verifier workers of each rank")
    parser.add_argument("--data", help="folder of local copies of the evaluation sets")
    parser.add_argument(
        "--tokenizer", required=True, help="folder of the model whose tokenizer packs"
    )
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark_curate"))
    args = parser.parse_args()
    if args.pack:
        pack(args.pack, args.tokenizer)
        return
    source = args.folder / f"source-{args.rollouts}"
    if not (source / "bytes.json").is_file():
        size = write_rollouts(source, args.rollouts)
        (source / "bytes.json").write_text(json.dumps(size))
    size = json.loads((source / "bytes.json").read_text())
    output = args.folder / f"ranks-{args.ranks}"
    launch = ["--nproc_per_node", str(args.ranks)] if args.ranks > 1 else []
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    overrides = []
    if args.data:
        env["REASONTUNE_DATA"] = args.data
        overrides = ["decontamination={sets: [math500, aime24, aime25, gsm8k]}"]
    seconds, peak, largest = watched(
        [
            TUNE,
            "run",
            *launch,
            "recipes/curate.py",
            "--config",
            "configs/phi4_mini/curate.yaml",
            f"sources=[{{_component_: custom_components.data.sources.rollouts, path: {source}}}]",
            f"output_dir={output}",
            "given_verdicts=trust",
            f"verifier.workers={args.workers}",
            "resume=never",
            "decontamination.sets=[]",
            *overrides,
        ],
        env,
    )
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    print(
        f"\n{args.rollouts:,} rollouts of {counts['problems']:,} problems, {size / 1e9:.2f} GB of "
        f"text, {args.ranks} rank(s) with {args.workers} verifier worker(s) each\n"
    )
    print("| step | seconds | rollouts per second |")
    print("|---|---|---|")
    for name, spent in counts["seconds"].items():
        print(f"| {name} | {spent:.0f} | {args.rollouts / max(spent, 1e-9):,.0f} |")
    print(
        f"| total, with start and hashing of the input | {seconds:.0f} | "
        f"{args.rollouts / seconds:,.0f} |"
    )
    print(f"\npeak memory: {peak:.2f} GiB in all processes, {largest:.2f} GiB in the largest")
    if args.ranks == 1:
        seconds, peak, _ = watched(
            [sys.executable, __file__, "--tokenizer", args.tokenizer, "--pack", str(output)], env
        )
        rows = counts["midtrain"]
        print(
            f"pack: {rows:,} rows in {seconds:.0f} s ({rows / seconds:,.0f} a second), {peak:.2f} GiB"
        )
    held = {k: v for k, v in counts.items() if k.startswith("bytes_per_")}
    print(f"held for selection: {held}")


if __name__ == "__main__":
    main()
