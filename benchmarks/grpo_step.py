"""Measure one GRPO step (rollout, reward, update) of our recipe beside TRL's GRPOTrainer.

    OMP_NUM_THREADS=2 python benchmarks/grpo_step.py --model FOLDER --data DATA
    OMP_NUM_THREADS=2 python benchmarks/grpo_step.py --model FOLDER --data DATA --engines torch

FOLDER holds SmolLM2-135M, and DATA (by default `$REASONTUNE_DATA`) holds the GSM8K problems. The
sides run in turn, each in a process of its own; one step warms up and `--steps` are measured.
`--engines torch` generates in torch on both sides. `--engines best` gives each side every faster
engine it has, and names the engines of TRL that do not run, with their error. Our side is
recipes/grpo.py itself, from its config; its figures are read from its metrics.jsonl.

These are equal on both sides: prompts and their order, group size, responses of exactly --new
tokens (no stop token ends one), micro-batches of as many responses (ours by tokens, TRL pads),
float32 training, activation checkpointing (off, or --checkpointing), fused AdamW, learning rate,
temperature 1, GRPO's loss without KL, and one update in a step. Half of a group's responses, drawn
at random, count as right, so that all are learned from. Both sides still verify each response (our
pool of processes, TRL's `accuracy_reward`), which is the time of the reward.

The dtype of our vLLM is --engine-dtype; TRL leaves it to vLLM and the model's config.json. The last
column is the mean |trainer - engine| log-prob of the last step's tokens where a side computes it.
With a large --lr, it shows an engine that still has old weights.

TRL's vLLM server mode is not measured, because its client refuses to send weights without CUDA
(`VLLMClient.init_communicator`: "needs a CUDA device, got 'cpu'").
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training_peers import INSTRUCTION  # noqa: E402

# "train" is the part of a step that none of the other parts takes.
PARTS = ("step", "rollout", "reward", "train", "sync")
TARGET = 2.0  # a step at least twice as fast as TRL's


def problems_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the config node of the problems: one batch of prompts for each step."""
    return {
        "_component_": "custom_components.data.problems.gsm8k",
        "limit": args.prompts * (args.steps + 1),
    }


def half_right(n: int, rng: random.Random) -> list[bool]:
    """Draw which half of n responses counts as right."""
    return rng.sample([i < n // 2 for i in range(n)], n)


def micro_tokens(args: argparse.Namespace, tokenizer: Any, problems: list[dict]) -> int:
    """Return the tokens of a micro-batch of TRL's, which pads each prompt to the longest."""
    longest = max(len(tokenizer.encode_prompt(p["problem"])) for p in problems)
    return args.micro * (longest + args.new)


def run_ours(args: argparse.Namespace, folder: Path, engine: str) -> dict[str, Any]:
    """Run the recipe with replaced verdicts and without stop tokens."""
    import torch

    from custom_components.config import instantiate, load
    from custom_components.data.problems import read_problems
    from custom_components.rl import sampler
    from custom_components.tokenizer.chat import ChatTokenizer
    from recipes import grpo

    verify_groups = sampler.verify_groups
    rng = random.Random(0)

    def verify_and_replace(groups: list, pool: Any) -> None:
        verify_groups(groups, pool)
        for group in groups:
            for sample, right in zip(
                group.samples, half_right(len(group.samples), rng), strict=True
            ):
                sample.verdict = "correct" if right else "incorrect"
                # Every response has the full length here, and a truncated one would count as wrong.
                sample.completion = replace(sample.completion, finish_reason="stop")

    sampler.verify_groups = verify_and_replace
    ChatTokenizer._find_stop_ids = lambda self: []
    node = {
        "_component_": f"custom_components.engines.{ENGINES[engine]}",
        "model": args.model,
        "progress": False,
    }
    if engine == "vllm":
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # vLLM reads it on import
        from vllm import LLM

        generate = LLM.generate

        def endless(llm: Any, requests: list, params: Any, **kwargs: Any) -> list:
            params.ignore_eos = True
            return generate(llm, requests, params, **kwargs)

        LLM.generate = endless
        node |= {"max_model_len": args.context, "dtype": args.engine_dtype}
    problems, _ = read_problems(instantiate(problems_of(args), "problems"))
    limit = micro_tokens(args, ChatTokenizer(args.model, instruction=INSTRUCTION), problems)
    cfg = load(
        grpo.main.schema,
        ROOT / "configs/smollm2_135m/grpo.yaml",
        [
            f"problems={json.dumps(problems_of(args))}",
            f"engine={json.dumps(node)}",
            f"checkpointer.checkpoint_dir={args.model}",
            f"tokenizer.path={args.model}",
            f"output_dir={folder}/ours",
            "resume=never",
            "dtype=fp32",
            "device=cpu",
            f"activation_checkpointing={args.checkpointing}",
            f"batch_size={args.prompts}",
            f"group_size={args.group}",
            f"max_new_tokens={args.new}",
            f"max_seq_len={args.context}",
            f"max_tokens_per_micro_batch={limit}",
            f"max_steps={args.steps + 1}",
            f"optimizer.lr={args.lr}",
            "rebalance.enabled=false",
            "temperature={start: 1.0, end: 1.0, fraction: 0.5}",
            "checkpoint_every=1000",
        ],
    )
    grpo.main.run(cfg)
    steps = []
    for line in (folder / "ours/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step = {part: row.get(f"seconds_{part}", 0.0) for part in ("rollout", "reward", "sync")}
        step["step"] = row["tokens"] / row["tokens_per_second"]
        step["train"] = step["step"] - sum(step[p] for p in ("rollout", "reward", "sync"))
        # Our last step skips the sync. TRL syncs in every step, so count one here too.
        if not step["sync"]:
            step["sync"] = steps[-1]["sync"]
            step["step"] += step["sync"]
        step |= {"generated": row["generated_tokens"], "trained": row["trained_tokens"]}
        steps.append(step)
    return {
        "steps": steps,
        "gib": row["memory_gib"],
        "gap": row["logprob_gap"],
        "threads": torch.get_num_threads(),
    }


def run_trl(args: argparse.Namespace, folder: Path, engine: str) -> dict[str, Any]:
    """Run TRL's trainer and time its methods from outside."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # the same size as in our engine
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.rewards import accuracy_reward

    from custom_components.config import instantiate
    from custom_components.data.batching import batch_order
    from custom_components.data.problems import read_problems
    from custom_components.tokenizer.chat import ChatTokenizer

    problems, _ = read_problems(instantiate(problems_of(args), "problems"))
    complete = ChatTokenizer(args.model, instruction=INSTRUCTION).complete_prompt
    order = batch_order(len(problems), args.prompts, 0)  # the order and seed of the recipe
    rows = [problems[i] for _ in range(args.steps + 1) for i in next(order)[1]]
    data = Dataset.from_list(
        [
            {
                "prompt": complete([{"role": "user", "content": p["problem"]}]),
                "solution": p["answer"],
            }
            for p in rows
        ]
    )
    rng, spent, steps = random.Random(0), dict.fromkeys(PARTS, 0.0), []

    def reward(completions: list, solution: list[str], **_: Any) -> list[float]:
        accuracy_reward(completions, solution)
        return [
            1.0 if right else -1.0
            for _ in range(len(completions) // args.group)
            for right in half_right(args.group, rng)
        ]

    def timed(name: str, call: Any) -> Any:
        def wrapped(*a: Any, **k: Any) -> Any:
            began = time.perf_counter()
            result = call(*a, **k)
            spent[name] += time.perf_counter() - began
            return result

        return wrapped

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            spent.update(dict.fromkeys(PARTS, 0.0))
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            spent["step"] = time.perf_counter() - self.began
            spent["rollout"] -= spent["sync"]  # TRL syncs inside its rollout
            spent["train"] = spent["step"] - spent["rollout"] - spent["reward"] - spent["sync"]
            length = trainer._metrics["train"]["completions/mean_length"][-1]
            tokens = round(length * args.prompts * args.group)
            steps.append(spent | {"generated": tokens, "trained": tokens})
            gaps = trainer._metrics["train"].get("sampling/sampling_logp_difference/mean")
            self.gap = gaps[-1] if gaps else None

    endless = {"ignore_eos": True} if engine == "vllm" else {"eos_token_id": -1}
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=args.steps + 1,
        shuffle_dataset=False,
        per_device_train_batch_size=args.micro,
        num_generations=args.group,
        gradient_accumulation_steps=args.prompts * args.group // args.micro,
        max_completion_length=args.new,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=args.lr,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=args.checkpointing,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        generation_kwargs=endless,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=2.0,
        vllm_max_model_length=args.context,
        **ENGINES[f"trl-{engine}"],
    )
    clock = Clock()
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(args.model),
        reward_funcs=reward,
        train_dataset=data,
        callbacks=[clock],
    )
    trainer.eos_token_ids = [-1]  # TRL would cut responses at these tokens
    trainer._generate = timed("rollout", trainer._generate)
    trainer._calculate_rewards = timed("reward", trainer._calculate_rewards)
    if engine == "vllm":
        vllm = trainer.vllm_generation
        vllm.sync_weights = timed("sync", vllm.sync_weights)
    trainer.train()
    return {
        "steps": steps,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "gap": clock.gap,
        "threads": torch.get_num_threads(),
    }


ENGINES: dict[str, Any] = {
    "torch": "torch_engine.TorchEngine",
    "vllm": "vllm_engine.VLLMEngine",
    "trl-generate": {},
    "trl-paged": {"use_transformers_continuous_batching": True},
    "trl-vllm": {"use_vllm": True, "vllm_mode": "colocate"},
}
SIDES = {
    "ours, torch engine": partial(run_ours, engine="torch"),
    "ours, vLLM in process": partial(run_ours, engine="vllm"),
    "TRL, transformers generate": partial(run_trl, engine="generate"),
    "TRL, continuous batching": partial(run_trl, engine="paged"),
    "TRL, vLLM colocated": partial(run_trl, engine="vllm"),
}
COMPARISONS = {
    "torch": ["ours, torch engine", "TRL, transformers generate"],
    "best": [
        "ours, vLLM in process",
        "TRL, transformers generate",
        "TRL, continuous batching",
        "TRL, vLLM colocated",
    ],
}
MAY_FAIL = ("TRL, continuous batching", "TRL, vLLM colocated")


def measure(side: str, folder: Path, patience: float) -> dict[str, Any] | str:
    """Run a side in a process of its own; return its figures, or the last line of its error."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)]
    with open(folder / "log.txt", "w+", encoding="utf-8") as log:
        try:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            return f"not finished after {patience:g} s"
        log.seek(0)
        lines = log.read().splitlines()
    if result.exists():
        return json.loads(result.read_text())
    errors = [line for line in lines if "Error" in line] or lines or ["no message"]
    return errors[-1].strip()


def print_table(title: str, runs: dict[str, list[dict]]) -> None:
    """Print a comparison's table: medians over the measured steps of all runs."""
    steps = {
        side: [s for run in side_runs for s in run["steps"][1:]] for side, side_runs in runs.items()
    }
    middle = {
        side: {part: median(s[part] for s in side_steps) for part in PARTS}
        for side, side_steps in steps.items()
    }
    gib = {side: median(run["gib"] for run in side_runs) for side, side_runs in runs.items()}
    ours = next(side for side in runs if side.startswith("ours"))
    print(f"\n{title}\n")
    print(
        "| side | step s (all) | rollout s | reward s | train s | sync s | generated tokens/s | "
        "trained tokens/s | peak GiB | log-prob gap |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for side, side_steps in steps.items():
        listed = ", ".join(f"{s['step']:.1f}" for s in side_steps)
        generated = median(s["generated"] / s["rollout"] for s in side_steps)
        trained = median(s["trained"] / s["train"] for s in side_steps)
        gap = median(run["gap"] for run in runs[side]) if runs[side][0]["gap"] is not None else None
        seconds = " | ".join(f"{middle[side][part]:.2f}" for part in PARTS[1:])
        print(
            f"| {side} | {middle[side]['step']:.1f} ({listed}) | {seconds} | {generated:.0f} | "
            f"{trained:.0f} | {gib[side]:.2f} | {'' if gap is None else f'{gap:.1e}'} |"
        )
    print("\n| ours / theirs | step, as speed | rollout | train | memory | target for the step |")
    print("|---|---|---|---|---|---|")
    for side in steps:
        if side != ours:
            faster = {p: middle[side][p] / middle[ours][p] for p in ("step", "rollout", "train")}
            met = "met" if faster["step"] >= TARGET else "missed"
            print(
                f"| {side} | {faster['step']:.2f} | {faster['rollout']:.2f} | "
                f"{faster['train']:.2f} | {gib[ours] / gib[side]:.2f} | "
                f"{TARGET:g}: {met} |"
            )


def main() -> None:
    """Run the sides in turn and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", help="folder of local copies, instead of REASONTUNE_DATA")
    parser.add_argument("--engines", choices=(*COMPARISONS, "both"), default="both")
    parser.add_argument("--prompts", type=int, default=4, help="prompts in a step")
    parser.add_argument("--group", type=int, default=8, help="responses to a prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens of a response")
    parser.add_argument("--micro", type=int, default=8, help="responses of a micro-batch")
    parser.add_argument("--context", type=int, default=1024, help="longest prompt and response")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument(
        "--engine-dtype", default="float32", help="dtype of our vLLM; auto is as TRL's"
    )
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--steps", type=int, default=3, help="measured steps in a run")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side")
    parser.add_argument("--patience", type=float, default=3600, help="seconds that a run may take")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prompts * args.group % args.micro:
        parser.error("--prompts x --group must be a multiple of --micro")
    if not Path(args.model, "config.json").is_file():
        parser.error(f"--model {args.model} holds no config.json")
    if args.data:
        os.environ["REASONTUNE_DATA"] = args.data
    if args.side:
        result = json.dumps(SIDES[args.side](args, args.folder))
        (args.folder / "result.json").write_text(result)
        return
    comparisons = (
        COMPARISONS if args.engines == "both" else {args.engines: COMPARISONS[args.engines]}
    )
    sides = list(dict.fromkeys(side for names in comparisons.values() for side in names))
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    failed: dict[str, str] = {}
    load = []
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(args.repeats):
            for side in sides:
                if side in failed:
                    continue
                load.append(os.getloadavg()[0])
                outcome = measure(side, Path(temporary), args.patience)
                if isinstance(outcome, dict):
                    runs[side].append(outcome)
                elif side in MAY_FAIL:
                    failed[side] = outcome
                else:
                    sys.exit(f"error: {side}: {outcome}")
    every_run = [run for side_runs in runs.values() for run in side_runs]
    tokens = {(s["generated"], s["trained"]) for run in every_run for s in run["steps"]}
    if tokens != {(args.prompts * args.group * args.new,) * 2}:
        sys.exit(f"error: the sides did not generate and train on the same tokens: {tokens}")
    threads = {run["threads"] for run in every_run}
    print(
        f"{args.prompts} prompts x {args.group} responses x {args.new} tokens, {args.micro} "
        f"responses in a micro-batch, float32, activation checkpointing "
        f"{'on' if args.checkpointing else 'off'}, lr {args.lr:g}, our vLLM in "
        f"{args.engine_dtype}; {args.repeats} run(s) of 1 + {args.steps} steps; torch threads "
        f"{sorted(threads)}"
    )
    for name, names in comparisons.items():
        print_table(f"Engines: {name}", {s: runs[s] for s in names if s not in failed})
    for side, why in failed.items():
        print(f"\n{side} does not run here: {why}")


if __name__ == "__main__":
    main()
