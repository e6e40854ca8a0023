"""Measure best-fit packing beside first-fit and torchtune's PackedDataset.

    python benchmarks/packing.py --data DATA --documents 100000

The lengths are those of DeepSeek-R1's traces in DATA/traces/pcmb_r1_traces_413.jsonl, drawn with
replacement. Best-fit (ours) and first-fit plan packs by the lengths alone; `prepare_packs` is our
whole step (Parquet to memory-mapped packs); PackedDataset holds all packs in memory. Each side runs
in a process of its own. Memory is anonymous memory, which excludes the pages of mapped files.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def trace_lengths(data: Path, count: int, capacity: int) -> list[int]:
    """Draw token counts of R1's responses; responses longer than a pack are left out."""
    path = data / "traces" / "pcmb_r1_traces_413.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    known = [r["total_tokens"] for r in rows if r["total_tokens"] <= capacity]
    return random.Random(0).choices(known, k=count)


def first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Put each document, longest first, into the first pack that has room for it.

    A tree of the largest free space below each node finds the first pack with room.
    """
    size = 1
    while size < len(lengths):
        size *= 2
    free = [capacity] * (2 * size)
    packs: list[list[int]] = [[] for _ in range(size)]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        node = 1
        while node < size:
            node = 2 * node if free[2 * node] >= lengths[i] else 2 * node + 1
        packs[node - size].append(i)
        free[node] -= lengths[i]
        while node > 1:
            node //= 2
            free[node] = max(free[2 * node], free[2 * node + 1])
    return [p for p in packs if p]


def run(side: str, lengths: list[int], capacity: int, folder: Path) -> tuple[int, float]:
    """Pack with one side; return the number of packs and the seconds."""
    began = time.perf_counter()
    if side == "best-fit (ours)":
        from custom_components.data.packing import best_fit

        began = time.perf_counter()
        packs = len(best_fit(lengths, capacity))
    elif side == "first-fit, longest first":
        packs = len(first_fit(lengths, capacity))
    elif side == "prepare_packs (ours)":
        import pyarrow as pa
        import pyarrow.parquet as pq

        from custom_components.data.packing import prepare_packs

        turns = [{"role": "user", "content": "p"}]
        rows = [
            {"id": str(i), "source": "s", "messages": turns, "n": n} for i, n in enumerate(lengths)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
        del rows
        began = time.perf_counter()
        counts = prepare_packs(
            folder / "rows.parquet",
            lambda row: [([1] * row["n"], [1] * row["n"])],
            capacity,
            folder / "packs",
        )
        packs = counts["packs"]
    else:
        from torchtune.datasets import PackedDataset

        class Documents:
            def __iter__(self) -> Iterator[dict[str, list[int]]]:
                return ({"tokens": [1] * n, "labels": [1] * n} for n in lengths)

            def __len__(self) -> int:
                return len(lengths)

        began = time.perf_counter()
        packs = len(PackedDataset(Documents(), max_seq_len=capacity))
    return packs, time.perf_counter() - began


def watch(peak: list[float]) -> None:
    """Record the highest anonymous memory of this process in `peak[0]`, GiB."""
    while True:
        status = Path("/proc/self/status").read_text()
        kib = int(status.partition("RssAnon:")[2].split()[0])
        peak[0] = max(peak[0], kib / 2**20)
        time.sleep(0.05)


SIDES = (
    "best-fit (ours)",
    "prepare_packs (ours)",
    "first-fit, longest first",
    "torchtune PackedDataset",
)


def main() -> None:
    """Run every side and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--capacity", type=int, default=16_384)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    lengths = trace_lengths(args.data, args.documents, args.capacity)
    if args.side:
        peak = [0.0]
        threading.Thread(target=watch, args=(peak,), daemon=True).start()
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            packs, seconds = run(args.side, lengths, args.capacity, Path(folder))
        print(json.dumps([packs, seconds, peak[0]]))
        return
    print(f"{len(lengths):,} documents, {sum(lengths):,} tokens, packs of {args.capacity:,}\n")
    print("| | packs | density | seconds | peak GiB |")
    print("|---|---|---|---|---|")
    for side in SIDES:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--side", side],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            print(f"| {side} | ended with status {done.returncode} (memory?) | | | |")
            continue
        packs, seconds, peak = json.loads(done.stdout.splitlines()[-1])
        density = sum(lengths) / (packs * args.capacity)
        print(f"| {side} | {packs:,} | {density:.4f} | {seconds:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
