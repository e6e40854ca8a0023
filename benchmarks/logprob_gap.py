"""Measure how far the rollout engine's log-probs are from the trainer's, token by token.

    python benchmarks/logprob_gap.py --model FOLDER --data DATA
    python benchmarks/logprob_gap.py --model FOLDER --data DATA --engine torch --engine-dtype fp32

The benchmark samples GSM8K's first problems at a temperature other than 1. It computes the
log-probs of the responses with the trainer's packed forward pass at that temperature, and at 1 to
show what a wrong temperature costs.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from custom_components.data.batching import collate
from custom_components.data.problems import gsm8k, read_problems
from custom_components.engines.engine import Engine, Sampling
from custom_components.models.hf import build_from_folder
from custom_components.rl.groups import Sample
from custom_components.tokenizer.chat import ChatTokenizer


def open_engine(args: argparse.Namespace, tokenizer: ChatTokenizer) -> Engine:
    """Return the engine whose log-probs are compared."""
    if args.engine == "torch":
        from custom_components.engines.torch_engine import TorchEngine

        return TorchEngine(args.model, tokenizer, dtype=args.engine_dtype, progress=False)
    from custom_components.engines.vllm_engine import VLLMEngine

    return VLLMEngine(
        args.model,
        tokenizer,
        max_model_len=2048,
        dtype=args.engine_dtype,
        progress=False,
        cpu_kv_cache_gib=1,
    )


def main() -> None:
    """Compare the log-probs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", required=True, help="folder of local copies, for GSM8K")
    parser.add_argument("--engine", choices=("vllm", "torch"), default="vllm")
    parser.add_argument("--engine-dtype", default="bfloat16")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    os.environ["REASONTUNE_DATA"] = args.data
    tokenizer = ChatTokenizer(args.model)
    problems, _ = read_problems(gsm8k(limit=args.prompts))
    prompts = [tokenizer.encode_prompt(p["problem"]) for p in problems]
    engine = open_engine(args, tokenizer)
    sampling = Sampling(args.temperature, 1.0, args.tokens, 0)
    groups = engine.generate(prompts, args.samples, sampling)
    engine.close()
    samples = [Sample(p, c, "") for p, g in zip(prompts, groups, strict=True) for c in g]
    batch = collate([s.row() for s in samples])
    engine_logprobs = torch.tensor([x for s in samples for x in s.completion.logprobs])
    model = build_from_folder(args.model).eval()
    print(
        f"\n{args.engine}, {args.engine_dtype}, temperature {args.temperature}: "
        f"{len(engine_logprobs)} tokens\n"
    )
    print("| trainer | at temperature | mean gap | 99 % below | largest | mean weight |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for temperature in (args.temperature, 1.0):
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logprobs = model(
                    batch.tokens,
                    mask=batch.documents,
                    input_pos=batch.positions,
                    targets=batch.targets,
                    scored=batch.scored,
                    temperature=temperature,
                )[0, batch.scored]
            gap = (logprobs - engine_logprobs).abs()
            weight = (logprobs - engine_logprobs).exp().clamp(max=2).mean()
            print(
                f"| {str(dtype).removeprefix('torch.')} | {temperature} | {gap.mean():.2e} | "
                f"{gap.quantile(0.99):.2e} | {gap.max():.2e} | {weight:.4f} |"
            )


if __name__ == "__main__":
    main()
