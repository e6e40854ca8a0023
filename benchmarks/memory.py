"""Measure the peak memory of a training step over sequence length and vocabulary.

    python benchmarks/memory.py
    python benchmarks/memory.py --lengths 1024 2048 --vocab 200064 --estimate

The model has 4 layers of Phi-4-mini's shape. Each cell of the table is a process of its own that
takes three steps (benchmarks/step_memory.py). `--estimate` takes no steps and prints what
the doctor would.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (
    "model={{_component_: custom_components.models.phi4_mini.phi4_mini, vocab_size: {vocab}, "
    "num_layers: 4, num_heads: 8, num_kv_heads: 2, embed_dim: 256, intermediate_dim: 768, "
    "max_seq_len: 32768, original_max_seq_len: 4096, short_factor: {ones}, long_factor: {ones}}}"
)


def overrides(length: int, vocab: int) -> list[str]:
    """Return the overrides of one cell: one document of `length` tokens, all of them scored."""
    ones = [1.0] * 12
    return [
        SHAPE.format(vocab=vocab, ones=ones),
        f"max_seq_len={length}",
        f"max_tokens_per_micro_batch={length}",
        "head_chunk_size=256",
    ]


def measured(length: int, vocab: int) -> dict[str, int]:
    """Return {"measured", "estimated"}: peak bytes of real steps, and as estimated."""
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "benchmarks/step_memory.py", *overrides(length, vocab)]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def estimated(length: int, vocab: int) -> dict[str, float]:
    """Return {"estimated"}: peak bytes as estimated."""
    sys.path.insert(0, str(ROOT))
    from custom_components.config import load
    from custom_components.training.estimate import stage_memory
    from custom_components.training.training_config import MidtrainConfig

    cfg = load(MidtrainConfig, ROOT / "configs/tiny/midtrain.yaml", overrides(length, vocab))
    return {"estimated": stage_memory(cfg, ranks=1, gpu=False).trainer}


def main() -> None:
    """Print the table, cell by cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384], help="tokens"
    )
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 200_064])
    parser.add_argument(
        "--estimate", action="store_true", help="estimate only, without taking steps"
    )
    args = parser.parse_args()
    print(
        "| vocabulary | tokens | MiB measured | MiB estimated | MiB besides weights and optimizer |"
    )
    print("|---|---|---|---|---|")
    for vocab in args.vocab:
        held = 16 * (vocab * 256 + 4 * (256 * 256 * 2 + 2 * 256 * 64 + 3 * 256 * 768))
        for length in args.lengths:
            peak = estimated(length, vocab) if args.estimate else measured(length, vocab)
            real = peak.get("measured")
            total = real or peak["estimated"]
            print(
                f"| {vocab} | {length} | {f'{real / 2**20:.0f}' if real else ''} | "
                f"{peak['estimated'] / 2**20:.0f} | {(total - held) / 2**20:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
