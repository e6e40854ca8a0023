"""Measure training steps of Phi-4-mini on one GPU from random weights: tokens/s, MFU, peak memory.

    python benchmarks/gpu.py                      # full fine-tune, bf16 over float32 weights
    python benchmarks/gpu.py --lora-rank 32 --length 8192
    python benchmarks/gpu.py --model tiny --device cpu --length 256    # check that it runs

The benchmark needs only torch and torchtune: no network, no vLLM. The steps are those of the
recipes (same model, same head, same losses) at the paper's lengths: a pack of 16K for mid-training,
an example of 20K for SFT, a pair of 16K each for DPO, a response of 25K for the policy gradient.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from custom_components.losses.dpo import dpo_loss
from custom_components.losses.policy_gradient import SETTINGS, policy_gradient_loss
from custom_components.models.attention import Documents
from custom_components.models.decoder import Decoder
from custom_components.models.phi4_mini import phi4_mini_3_8b, phi4_mini_tiny
from custom_components.training.distributed import World, setup_world
from custom_components.training.flops import known_device, training_flops
from custom_components.training.model import materialise, prepare_layers

MODELS = {"3.8b": phi4_mini_3_8b, "tiny": phi4_mini_tiny}
# Each step has these documents, as shares of 16K tokens.
STAGES = {
    "mid-training, packed": (0.1, 0.2, 0.3, 0.4),
    "SFT": (1.25,),
    "DPO, a pair": (1.0, 1.0),
    "policy gradient": (1.5625,),
}


def step_loss(
    stage: str, model: Decoder, documents: Documents, tokens: torch.Tensor, chunk: int
) -> torch.Tensor:
    """Return the loss of one step of a stage, with every token scored."""
    inputs = {
        "mask": documents,
        "input_pos": documents.positions(tokens.device),
        "targets": tokens,
        "scored": torch.arange(tokens.numel(), device=tokens.device),
        "chunk_size": chunk,
    }
    if stage == "policy gradient":
        logprobs, _ = model(tokens, **inputs, temperature=0.8, entropy=True)
        setting = SETTINGS["grpo"]
        advantages = torch.ones_like(logprobs[0])
        losses, _, _ = policy_gradient_loss(
            logprobs[0], logprobs[0].detach(), advantages, list(documents.lengths), setting
        )
        return losses.mean()
    logprobs = model(tokens, **inputs)[0]
    if stage == "DPO, a pair":
        chosen, rejected = (part.sum()[None] for part in logprobs.split(documents.lengths))
        return dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1)[0].mean()
    return -logprobs.mean()


def timed(step: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Return the seconds of each repeat, without the first call, which warms up."""
    seconds = []
    for i in range(repeats + 1):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i:
            seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="3.8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=16384, help="tokens that stand for 16K")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument(
        "--chunk", type=int, default=1024, help="scored tokens per chunk of the head"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument(
        "--recompute-every", type=int, default=1, help="n recomputes every n-th layer; 0 none"
    )
    parser.add_argument("--stages", type=int, default=len(STAGES), help="number of steps to time")
    args = parser.parse_args()
    with setup_world(args.device, alone=args.dtype == "bf16") as world:
        measure(args, world)


def measure(args: argparse.Namespace, world: World) -> None:
    """Time the steps of every stage and print the table."""
    device = world.device
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    known = known_device(name)
    with torch.device("meta"):
        model = MODELS[args.model](lora_rank=args.lora_rank)
    prepare_layers(model, args.compile, args.recompute_every or None)
    materialise(model, world, args.dtype, "fp32")
    for parameter in model.parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if local.dim() > 1:
            torch.nn.init.normal_(local, std=0.02)
        else:
            torch.nn.init.ones_(local)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    kind = f"LoRA rank {args.lora_rank}" if args.lora_rank else "full fine-tune"
    print(f"{name}, torch {torch.__version__}, {args.model}, {kind}\n")
    print("| step | tokens | seconds (median, all) | tokens/s | MFU | peak GiB |")
    print("|---|---|---|---|---|---|")
    for stage, shares in list(STAGES.items())[: args.stages]:
        documents = Documents(tuple(int(s * args.length) for s in shares)).to(device)
        total = sum(documents.lengths)
        tokens = torch.randint(0, model.tok_embeddings.num_embeddings, (1, total), device=device)

        def step(stage=stage, documents=documents, tokens=tokens) -> None:
            loss = step_loss(stage, model, documents, tokens, args.chunk)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        seconds = timed(step, args.repeats, device)
        length = sum(n * n for n in documents.lengths) / total
        flops = training_flops(model, total, length)
        mfu = f"{flops / median(seconds) / known.flops:.1%}" if known else ""
        peak = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}" if cuda else ""
        listed = ", ".join(f"{s:.2f}" for s in seconds)
        print(
            f"| {stage} | {total} | {median(seconds):.2f} ({listed}) | "
            f"{total / median(seconds):.0f} | {mfu} | {peak} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
