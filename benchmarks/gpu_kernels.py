"""Measure the output head and packed attention by themselves on one GPU: time, error, memory.

    python benchmarks/gpu_kernels.py
    python benchmarks/gpu_kernels.py --device cpu --tokens 64 --vocab 500 --dim 64   # does it run

The head is Phi-4-mini's, forward and backward, in chunks: products in float32, in TF32, and in
bf16 with float32 sums (what training does on CUDA). The error is that of the log-probs against
float64 on the same bf16 inputs. Attention is one layer's, forward and backward, on packs of four
documents and on one long document: what training calls, against the varlen kernel and SDPA document
by document with each of its backends. The second pack shows what new lengths cost.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu import timed

from custom_components.losses.logprobs import token_logprobs
from custom_components.models.attention import Documents, document_attention

SHARES = ((0.1, 0.2, 0.3, 0.4), (0.11, 0.21, 0.31, 0.37), (1.25,))


def peak_gib(device: torch.device, step: Callable[[], object]) -> str:
    """Return the GiB that a call takes beyond what is allocated before it, on CUDA."""
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return f"{(torch.cuda.max_memory_allocated(device) - before) / 2**30:.2f}"


def measure_head(args: argparse.Namespace, device: torch.device) -> None:
    """Print a row per precision and chunk of the head."""
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(1, args.tokens, args.dim, generator=generator, device=device).bfloat16()
    weight = torch.randn(args.vocab, args.dim, generator=generator, device=device) * 0.05
    weight = weight.bfloat16().float()  # every precision has the same inputs
    targets = torch.randint(args.vocab, (1, args.tokens), generator=generator, device=device)
    scored = torch.arange(args.tokens, device=device)
    sample = slice(0, min(256, args.tokens))
    logits = hidden[0, sample].double() @ weight.double().T
    exact = logits.log_softmax(-1).gather(-1, targets[0, sample, None])[:, 0]
    del logits
    print("| head | chunk | ms forward | ms forward and backward | TFLOP/s | largest error | GiB |")
    print("|---|---|---|---|---|---|---|")
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bf16, float32 sums", torch.bfloat16, False),
    ):
        for chunk in args.chunks:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            h = hidden.to(dtype).requires_grad_()
            w = weight.clone().requires_grad_()

            def forward(h=h, w=w, chunk=chunk) -> torch.Tensor:
                result = token_logprobs(h, w, targets, chunk_size=chunk, scored=scored)
                assert isinstance(result, torch.Tensor)
                return result

            def both(h=h, w=w, forward=forward) -> None:
                torch.autograd.grad(forward().mean(), (h, w))

            with torch.no_grad():
                error = (forward()[0, sample].double() - exact).abs().max()
                alone = median(timed(forward, 5, device))
            seconds = median(timed(both, 5, device))
            flops = 8 * args.tokens * args.dim * args.vocab  # two forward passes, two gradients
            print(
                f"| {name} | {chunk} | {alone * 1e3:.1f} | {seconds * 1e3:.1f} | "
                f"{flops / seconds / 1e12:.0f} | {error:.1e} | {peak_gib(device, both)} |",
                flush=True,
            )
    torch.backends.cuda.matmul.allow_tf32 = False


def measure_attention(
    args: argparse.Namespace, device: torch.device, shares: tuple[float, ...]
) -> None:
    """Print a row per kernel of packed attention, with its distance from float32 SDPA."""
    heads, kv_heads, head_dim = 24, 8, 128
    lengths = tuple(int(share * args.tokens) for share in shares)
    documents, total = Documents(lengths).to(device), sum(lengths)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, h, total, head_dim, device=device, dtype=dtype, requires_grad=True)
        for h in (heads, kv_heads, kv_heads)
    )
    upstream = torch.randn_like(q)
    kernels: dict[str, Callable[[], torch.Tensor]] = {
        "training's": lambda: document_attention(q, k, v, documents)
    }
    if device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        offsets = torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)

        def varlen() -> torch.Tensor:
            flat = (t[0].transpose(0, 1) for t in (q, k, v))
            ends = (offsets, offsets, max(lengths), max(lengths))
            out = varlen_attn(*flat, *ends, window_size=(-1, 0), enable_gqa=True)
            return cast(torch.Tensor, out).transpose(0, 1)[None]

        def by_document() -> torch.Tensor:
            parts = zip(*(t.split(lengths, dim=2) for t in (q, k, v)), strict=True)
            return torch.cat(
                [
                    F.scaled_dot_product_attention(a, b, c, is_causal=True, enable_gqa=True)
                    for a, b, c in parts
                ],
                dim=2,
            )

        kernels["varlen"] = varlen
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

            def sdpa(backend=backend) -> torch.Tensor:
                with sdpa_kernel(backend):
                    return by_document()

            kernels[f"SDPA by document, {backend.name}"] = sdpa
    first = min(lengths[0], 2048)
    small = [t[:, :, :first].detach().float().requires_grad_() for t in (q, k, v)]
    wide = (small[0], *(t.repeat_interleave(heads // kv_heads, dim=1) for t in small[1:]))
    with sdpa_kernel(SDPBackend.MATH):
        exact = F.scaled_dot_product_attention(*wide, is_causal=True)
    flops = 6 * heads * head_dim * sum(n * n for n in lengths)  # causal, forward and backward
    print(f"\nDocuments of {', '.join(map(str, lengths))} tokens:\n")
    print("| attention | first call ms | ms forward | ms forward and backward | TFLOP/s | error |")
    print("|---|---|---|---|---|---|")
    for name, kernel in kernels.items():

        def both(kernel=kernel) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(kernel(), (q, k, v), upstream)

        started = time.perf_counter()
        both()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        first_call = time.perf_counter() - started
        with torch.no_grad():
            alone = median(timed(kernel, 5, device))
            error = (kernel()[:, :, :first].float() - exact).abs().max()
        seconds = median(timed(both, 5, device))
        print(
            f"| {name} | {first_call * 1e3:.1f} | {alone * 1e3:.2f} | {seconds * 1e3:.2f} | "
            f"{flops / seconds / 1e12:.0f} | {error:.1e} |",
            flush=True,
        )


def main() -> None:
    """Read the options and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=["head", "attention"])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocab", type=int, default=200064)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1024, 4096])
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {args.tokens} tokens\n")
    if "head" in args.parts:
        measure_head(args, device)
    for shares in SHARES if "attention" in args.parts else ():
        measure_attention(args, device, shares)


if __name__ == "__main__":
    main()
