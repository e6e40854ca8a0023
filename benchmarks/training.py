"""Measure training steps of our recipes beside TRL's trainers and torchtune's own recipe.

    python benchmarks/training.py --model FOLDER --data DATA --stage midtrain
    python benchmarks/training.py --model FOLDER --data DATA --stage sft --repeats 5
    python benchmarks/training.py --model FOLDER --data DATA --stage dpo

FOLDER holds SmolLM2-135M (runs/smollm2_135m/start/model). The rows are GSM8K's own solutions from
`$REASONTUNE_DATA` or --data; the rejected side of a pair is another row's solution. The sides run
in turn, each in a process of its own. A run is one pass over the rows in float32, without its first
step. --checkpointing turns activation checkpointing on, on all sides.

TRL is configured as its documentation advises where there is no FlashAttention: mid-training packs
best-fit (`bfd`, with its document mask), and SFT groups by length. The reference pass of DPO counts
on both sides (TRL computes it ahead too). torchtune packs and masks documents in mid-training and
pads in SFT; it has no full DPO recipe for a CPU. Tokens are those that are not padding.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training_peers import run_torchtune, run_trl  # noqa: E402


def make_rows(args: argparse.Namespace) -> list[dict]:
    """Return rows of the midtrain, sft or pairs split."""
    from custom_components.data.curation import messages
    from custom_components.data.rows import resolve
    from custom_components.data.sources import gsm8k

    path = resolve("openai/gsm8k", "gsm8k/train.jsonl")
    rows = [row for row, _ in zip(gsm8k(path), range(args.rows + 1), strict=False)]
    common = ("id", "source", "answer", "domain", "difficulty")
    result = []
    for row, other in zip(rows, rows[1:], strict=False):
        kept = {k: row[k] for k in common} | {"pass_rate": 1.0}
        if args.stage == "dpo":
            del kept["answer"], kept["domain"]
            kept |= {
                "prompt": messages(row)[:1],
                "chosen": row["response"],
                "rejected": other["response"],
                "rejected_finished": True,
            }
        else:
            kept |= {"messages": messages(row)}
        result.append(kept)
    return result


def run_ours(args: argparse.Namespace, folder: Path) -> dict:
    """Make one pass with the recipe's own parts."""
    import importlib
    from collections import Counter

    import torch

    from custom_components.config import instantiate, load
    from custom_components.data import packing
    from custom_components.data.curation import MESSAGES_SCHEMA, PAIRS_SCHEMA
    from custom_components.data.rows import write_rows
    from custom_components.runs.run_folder import RunFolder
    from custom_components.training.distributed import setup_world
    from custom_components.training.supervised import global_batch, next_token_losses
    from custom_components.training.trainer import Trainer

    module = importlib.import_module(f"recipes.{args.stage}")
    schema = PAIRS_SCHEMA if args.stage == "dpo" else MESSAGES_SCHEMA
    write_rows(folder / "rows.parquet", json.loads((folder / "rows.json").read_text()), schema)
    cfg = load(
        module.main.schema,
        ROOT / f"configs/smollm2_135m/{args.stage}.yaml",
        [
            f"data={folder}/rows.parquet",
            f"checkpointer.checkpoint_dir={args.model}",
            f"tokenizer.path={args.model}",
            f"output_dir={folder}/ours",
            "resume=never",
            "dtype=fp32",
            f"max_seq_len={args.length}",
            f"batch_size={args.batch}",
            "device=cpu",
            f"max_tokens_per_micro_batch={args.micro_tokens}",
            f"activation_checkpointing={args.checkpointing}",
        ],
    )
    with setup_world("cpu") as world:
        run = RunFolder(args.stage, cfg, world)
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        encode = packing.encode_pair if args.stage == "dpo" else packing.encode_messages
        prepare = packing.prepare_packs if args.stage == "midtrain" else packing.prepare_examples
        prepare(cfg.data, partial(encode, tokenizer=tokenizer), cfg.max_seq_len, folder / "table")
        rows = packing.open_table(folder / "table")
        steps = len(rows) // cfg.batch_size
        trainer = Trainer(cfg, run, world, tokenizer, steps)
        started, seconds, tokens = time.perf_counter(), [], []
        reference = module.reference_logprobs(trainer, rows) if args.stage == "dpo" else None
        ahead = time.perf_counter() - started
        for _, indices in trainer.batches(rows):
            began = time.perf_counter()
            batch = global_batch(trainer, rows, indices)
            if args.stage == "dpo":
                losses = module.pair_losses(trainer, batch, reference, Counter())
            else:
                losses = next_token_losses(trainer, batch)
            trainer.backward(losses)
            trainer.update()
            trainer.step += 1
            seconds.append(time.perf_counter() - began)
            tokens.append(batch.tokens)
        del torch
    return {"seconds": seconds, "tokens": tokens, "ahead": ahead}


def main() -> None:
    """Run the sides in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", choices=("midtrain", "sft", "dpo"), required=True)
    parser.add_argument("--data", help="folder of local copies, instead of REASONTUNE_DATA")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument(
        "--length", type=int, default=1024, help="longest sequence, and size of a pack"
    )
    parser.add_argument("--batch", type=int, default=4, help="rows in a step")
    parser.add_argument("--micro-tokens", type=int, default=1024, help="tokens in one forward pass")
    parser.add_argument(
        "--mean", type=int, default=256, help="tokens assumed for each row in TRL's batch"
    )
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data:
        os.environ["REASONTUNE_DATA"] = args.data
    if args.side:
        result = SIDES[args.side](args, args.folder)
        result["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(result))
        return
    sides = [side for side in SIDES if side != "torchtune" or args.stage != "dpo"]
    results: dict[str, list[dict]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "rows.json").write_text(json.dumps(make_rows(args)))
        for _ in range(args.repeats):
            for side in sides:
                command = [
                    sys.executable,
                    __file__,
                    *sys.argv[1:],
                    "--side",
                    side,
                    "--folder",
                    temporary,
                ]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
                results[side].append(json.loads(done.stdout.splitlines()[-1]))
    rates = {side: [rate(run) for run in runs] for side, runs in results.items()}
    memory = {side: median(r["gib"] for r in runs) for side, runs in results.items()}
    print(
        "| | tokens/s, median (all) | peak GiB of the process | ours / theirs: tokens/s | memory |"
    )
    print("|---|---|---|---|---|")
    for side, values in rates.items():
        listed = ", ".join(f"{v:.0f}" for v in values)
        print(
            f"| {side} | {median(values):.0f} ({listed}) | {memory[side]:.2f} | "
            f"{median(rates['ours']) / median(values):.2f} | {memory['ours'] / memory[side]:.2f} |"
        )


def rate(run: dict) -> float:
    """Return tokens per second without the first step, with a share of the time spent ahead."""
    kept = len(run["seconds"]) - 1
    ahead = run["ahead"] * kept / len(run["seconds"])
    return sum(run["tokens"][1:]) / (sum(run["seconds"][1:]) + ahead)


SIDES = {"ours": run_ours, "trl": run_trl, "torchtune": run_torchtune}

if __name__ == "__main__":
    main()
