"""Training steps of our recipes beside TRL's trainers, on the same model, rows and dtype.

    python benchmarks/training.py --model FOLDER --stage midtrain
    python benchmarks/training.py --model FOLDER --stage sft --data DATA --repeats 3
    python benchmarks/training.py --model FOLDER --stage dpo

FOLDER holds SmolLM2-135M (runs/smollm2_135m/start/model). Rows are GSM8K's own solutions from
`$REASONTUNE_DATA` or --data; the rejected side of a pair is another row's solution. Each side runs in a
process of its own, in turn; a run is one pass over the rows in float32 without activation
checkpointing, its first step left out. TRL is set as its documentation advises where there is no
FlashAttention: mid-training packs best-fit (`bfd`), SFT and DPO group by length. The reference pass
of DPO counts on both sides (TRL computes it ahead, too). Tokens are those that are not padding.
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


def make_rows(args: argparse.Namespace) -> list[dict]:
    """Rows of the midtrain, sft or pairs split."""
    from custom_components.data.curation import messages
    from custom_components.data.rows import gsm8k, resolve

    path = resolve("openai/gsm8k", "gsm8k/train.jsonl")
    rows = [row for row, _ in zip(gsm8k(path), range(args.rows + 1), strict=False)]
    common = ("id", "source", "answer", "domain", "difficulty")
    result = []
    for row, other in zip(rows, rows[1:], strict=False):
        kept = {k: row[k] for k in common} | {"pass_rate": 1.0}
        if args.stage == "dpo":
            del kept["answer"], kept["domain"]
            kept |= {"prompt": messages(row)[:1], "chosen": row["response"],
                     "rejected": other["response"], "rejected_finished": True}  # fmt: skip
        else:
            kept |= {"messages": messages(row)}
        result.append(kept)
    return result


def run_ours(args: argparse.Namespace, folder: Path) -> dict:
    """One pass with the recipe's own parts."""
    import importlib
    from collections import Counter

    import torch

    from custom_components.config import instantiate, load
    from custom_components.data import packing
    from custom_components.data.curation import MESSAGES_SCHEMA, PAIRS_SCHEMA
    from custom_components.data.rows import write_rows
    from custom_components.training.distributed import setup_world
    from custom_components.training.run_folder import RunFolder
    from custom_components.training.supervised import global_batch, next_token_losses
    from custom_components.training.trainer import Trainer

    module = importlib.import_module(f"recipes.{args.stage}")
    schema = PAIRS_SCHEMA if args.stage == "dpo" else MESSAGES_SCHEMA
    write_rows(folder / "rows.parquet", json.loads((folder / "rows.json").read_text()), schema)
    cfg = load(
        module.main.schema, ROOT / f"configs/smollm2_135m/{args.stage}.yaml",
        [f"data={folder}/rows.parquet", f"checkpointer.checkpoint_dir={args.model}",
         f"tokenizer.path={args.model}", f"output_dir={folder}/ours", "resume=never", "dtype=fp32",
         f"max_seq_len={args.length}", f"batch_size={args.batch}", "device=cpu",
         f"max_tokens_per_micro_batch={args.micro_tokens}"],
    )  # fmt: skip
    with setup_world("cpu") as world:
        run = RunFolder(args.stage, cfg, [], world)
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
        for _, indices in trainer.batches(len(rows)):
            began = time.perf_counter()
            batch = global_batch(trainer, rows, indices)
            if args.stage == "dpo":
                losses = module.pair_losses(trainer, batch, reference, Counter())
            else:
                losses = next_token_losses(trainer, batch)
            trainer.backward(losses)
            trainer.update()
            trainer.schedule.step()
            seconds.append(time.perf_counter() - began)
            tokens.append(batch.tokens)
        del torch
    return {"seconds": seconds, "tokens": tokens, "ahead": ahead}


def run_trl(args: argparse.Namespace, folder: Path) -> dict:
    """One pass with TRL's trainer, on rows that our tokenizer encoded."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from custom_components.data.packing import encode_messages
    from custom_components.tokenizer.hf import ChatTokenizer

    rows = json.loads((folder / "rows.json").read_text())
    instruction = "Please reason step by step, and put your final answer within \\boxed{}."
    tokenizer = ChatTokenizer(args.model, instruction=instruction)
    seconds, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.began)

    common = dict(
        output_dir=str(folder / "trl"), num_train_epochs=1, report_to=[], use_cpu=True, bf16=False,
        save_strategy="no", logging_strategy="no", gradient_checkpointing=False, optim="adamw_torch_fused",
        max_length=args.length, learning_rate=5e-5, dataloader_drop_last=True, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    processing = AutoTokenizer.from_pretrained(args.model)
    started = time.perf_counter()
    if args.stage == "dpo":

        def turns(i, key):
            return [{"role": "assistant", "content": rows[i][key]}]

        data = Dataset.from_list([
            {"prompt": tokenizer.complete_prompt(r["prompt"]), "chosen": turns(i, "chosen"),
             "rejected": turns(i, "rejected")} for i, r in enumerate(rows)
        ])  # fmt: skip
        per_device = max(1, args.micro_tokens // (2 * args.mean))
        config = DPOConfig(
            per_device_train_batch_size=min(per_device, args.batch), precompute_ref_log_probs=True,
            precompute_ref_batch_size=min(per_device, args.batch), beta=0.1,
            gradient_accumulation_steps=max(1, args.batch // per_device), **common,
        )  # fmt: skip
        trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=processing)
    else:
        encoded = [encode_messages(r, tokenizer)[0] for r in rows]
        data = Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in encoded])
        packed = args.stage == "midtrain"
        per_device = max(1, args.micro_tokens // (args.length if packed else args.mean))
        config = SFTConfig(
            per_device_train_batch_size=min(per_device, args.batch), packing=packed,
            gradient_accumulation_steps=max(1, args.batch // per_device),
            train_sampling_strategy="random" if packed else "group_by_length", **common,
        )  # fmt: skip
        trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=processing)
    trainer.add_callback(Clock())
    collate = trainer.data_collator
    counts = []

    def counting(examples):
        batch = collate(examples)
        mask = batch.get("attention_mask")
        counts.append(int(mask.sum()) if mask is not None else batch["input_ids"].numel())
        return batch

    trainer.data_collator = counting
    prepared = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - prepared
    group = max(1, len(counts) // len(seconds))
    tokens = [sum(counts[i * group : (i + 1) * group]) for i in range(len(seconds))]
    # what stands before the first step is the reference pass (in train) and, for SFT, nothing
    ahead = total - sum(seconds) if args.stage == "dpo" else 0.0
    if args.stage == "dpo" and ahead < 0.2 * sum(seconds):  # computed when the trainer was made
        ahead = prepared - started
    return {"seconds": seconds, "tokens": tokens, "ahead": ahead}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", choices=("midtrain", "sft", "dpo"), required=True)
    parser.add_argument("--data", help="folder of local copies, in place of REASONTUNE_DATA")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--length", type=int, default=1024, help="longest sequence, and pack")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--micro-tokens", type=int, default=1024, help="tokens of one forward pass")
    parser.add_argument(
        "--mean", type=int, default=256, help="tokens that a row counts for in TRL's batch"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data:
        os.environ["REASONTUNE_DATA"] = args.data
    if args.side:
        found = (run_ours if args.side == "ours" else run_trl)(args, args.folder)
        found["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    results: dict[str, list[dict]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "rows.json").write_text(json.dumps(make_rows(args)))
        for _ in range(args.repeats):
            for side in results:
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
    rates = {
        side: [sum(r["tokens"][1:]) / (sum(r["seconds"][1:]) + r["ahead"] * (len(r["seconds"]) - 1)
                                       / len(r["seconds"])) for r in runs]
        for side, runs in results.items()
    }  # fmt: skip
    memory = {side: median(r["gib"] for r in runs) for side, runs in results.items()}
    print("| | tokens/s, median (all) | peak GiB of the process |")
    print("|---|---|---|")
    for side, values in rates.items():
        listed = ", ".join(f"{v:.0f}" for v in values)
        print(f"| {side} | {median(values):.0f} ({listed}) | {memory[side]:.2f} |")
    print(f"\nours / TRL: {median(rates['ours']) / median(rates['trl']):.2f} times the tokens/s, "
          f"{memory['ours'] / memory['trl']:.2f} times the memory")  # fmt: skip


if __name__ == "__main__":
    main()
