"""Measure pairs per second of VerifierPool and of math-verify in process with its own alarms.

Both verify the same pairs in the same run: the GSM8K and MATH answers in a data folder. Each
response is a worked text with the answer in a box; a quarter of the boxes hold another row's
answer. A second part replaces 1 % of the responses by one that hangs a computer algebra.

    python benchmarks/verifier.py --data ../shared/data --pairs 4000

Prints one JSON object per measurement. Responses of a model are not measured: they are longer, and
extraction is linear in their length. The start of the workers is measured on its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from custom_components.verifier import VerifierPool

HANG = r"\int \frac{\sin(x^{3}) e^{x^{2}}}{\log(x)+x^{x}} dx"


def golds(data: Path) -> Iterator[tuple[str, str]]:
    """Yield (gold, worked text) of every GSM8K and MATH row in a data folder."""
    for name in ("gsm8k/train.jsonl", "gsm8k/test.jsonl"):
        for line in (data / name).open(encoding="utf-8"):
            text, _, gold = json.loads(line)["answer"].rpartition("####")
            yield gold.strip(), text
    for line in (data / "math/train7500_answers.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        if row["answer"].strip():
            yield row["answer"], row["problem"]
    for line in (data / "eval/math500.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        yield row["answer"], row["problem"]


def pairs(data: Path, count: int, seed: int) -> list[dict[str, str]]:
    """Return shuffled pairs; every fourth response boxes another row's answer."""
    rng = random.Random(seed)
    rows = list(golds(data))
    rng.shuffle(rows)
    rows = rows[:count]
    items = []
    for index, (gold, text) in enumerate(rows):
        boxed = rng.choice(rows)[0] if index % 4 == 3 else gold
        items.append({"gold": gold, "response": f"{text}\nThe answer is $\\boxed{{{boxed}}}$."})
    return items


def with_hanging(items: list[dict[str, str]], share: float, seed: int) -> list[dict[str, str]]:
    """Return the items, a share of them replaced by a pair of integrals to compare."""
    rng = random.Random(seed)
    hanging = set(rng.sample(range(len(items)), round(share * len(items))))
    replaced = {"gold": r"\int_0^{1} x dx", "response": rf"So $\boxed{{{HANG}}}$."}
    return [replaced if index in hanging else item for index, item in enumerate(items)]


def run_pool(items: list[dict[str, str]], workers: int, time_limit: float) -> dict[str, object]:
    """Time VerifierPool on the items."""
    with VerifierPool(workers=workers, time_limit=time_limit) as pool:
        start = time.perf_counter()
        pool.verify_all({"gold": r"\sqrt{2}", "response": r"\boxed{x}"} for _ in range(workers * 8))
        started = time.perf_counter()
        verdicts = pool.verify_all(items)
        seconds = time.perf_counter() - started
    return {
        "pairs": len(items),
        "seconds": round(seconds, 2),
        "pairs_per_second": round(len(items) / seconds, 1),
        "start_seconds": round(started - start, 2),
        "outcomes": Counter(f"{v.verdict}/{v.reason}" for v in verdicts),
    }


def run_math_verify(items: list[dict[str, str]], time_limit: int) -> dict[str, object]:
    """Time math-verify on the items, called as in its README, with alarms at `time_limit` seconds."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    verify(parse(r"$\sqrt{2}$"), parse(r"$\boxed{x}$"))
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()
    for item in items:
        gold = parse(f"${item['gold']}$", parsing_timeout=time_limit)
        answer = parse(item["response"], parsing_timeout=time_limit)
        outcomes[str(verify(gold, answer, timeout_seconds=time_limit))] += 1
    seconds = time.perf_counter() - started
    return {
        "pairs": len(items),
        "seconds": round(seconds, 2),
        "pairs_per_second": round(len(items) / seconds, 1),
        "outcomes": outcomes,
    }


def main() -> None:
    """Run both sides on both selections of pairs and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-limit", type=int, default=5, help="seconds, for both sides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hanging-pairs", type=int, default=1000, help="pairs in the second part")
    args = parser.parse_args()

    items = pairs(args.data, args.pairs, args.seed)
    hanging = with_hanging(items[: args.hanging_pairs], 0.01, args.seed)
    for name, selection in (("no hanging items", items), ("1 % hanging items", hanging)):
        pooled = run_pool(selection, args.workers, args.time_limit)
        print(json.dumps({"what": f"VerifierPool, {name}", **pooled}), flush=True)
        direct = run_math_verify(selection, args.time_limit)
        print(json.dumps({"what": f"math-verify, {name}", **direct}), flush=True)


if __name__ == "__main__":
    main()
