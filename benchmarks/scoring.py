"""Measure the evaluation's scorer on labelled model outputs: agreement and cost.

    python benchmarks/scoring.py --data DATA
    python benchmarks/scoring.py --data DATA --labelled more.jsonl     # gold, response, label

The benchmark scores responses whose label is known with `eval.scoring.verified_responses`, which the
tasks call. Then it times single responses by length, up to one as long as the paper's limit (a real
trace, repeated).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CHARACTERS_PER_TOKEN = 3.2  # measured on R1's traces on mathematics
LONGEST = 32_768


def rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def labelled(data: Path) -> Iterator[tuple[str, dict[str, Any], str, bool]]:
    """Yield (source, doc, response, label) for every labelled response in the folder."""
    for row in rows(data / "rollouts" / "math_train_nemo_3x50.jsonl"):
        yield "MATH rollouts", {"answer": row["gold"]}, row["response"], row["is_correct"]
    # The set's own answer, a letter, follows the trace, so the response is right by construction.
    for row in rows(data / "traces" / "pcmb_r1_traces_413.jsonl"):
        text = f"<think>{row['reasoning']}</think>\\boxed{{{row['answer_letter']}}}"
        letters = "ABCDEFGHIJKLMNOP"[: len(row["options"])]
        yield "R1 traces, letters", {"answer": row["answer_letter"], "choices": letters}, text, True
    for row in rows(data / "gsm8k" / "train.jsonl")[::5]:
        solution, _, gold = row["answer"].rpartition("#### ")
        text = f"<think>{solution}</think>\\boxed{{{gold}}}"
        yield "GSM8K solutions", {"answer": gold.replace(",", "")}, text, True


def agreement(items: list[tuple[str, dict[str, Any], str, bool]]) -> None:
    """Print each source's agreement, and the responses that disagree."""
    from eval.scoring import verified_responses

    counts: dict[str, list[int]] = {}
    for source, doc, response, label in items:
        [sample] = verified_responses(doc, [response])
        right = (sample["verdict"] == "correct") == label
        counts.setdefault(source, []).append(right)
        if not right:
            print(
                f"  {source}: gold {doc['answer']!r}, read {sample['prediction']!r}, "
                f"{sample['verdict']} ({sample['reason']}), label {label}"
            )
    print("\n| source | responses | agree | % |\n|---|---|---|---|")
    for source, rights in counts.items():
        share = 100 * sum(rights) / len(rights)
        print(f"| {source} | {len(rights)} | {sum(rights)} | {share:.2f} |")


def cost(data: Path, repeats: int) -> None:
    """Print the seconds that one response takes, by length."""
    from eval.scoring import verified_responses

    traces = rows(data / "traces" / "pcmb_r1_traces_413.jsonl")
    longest = max((row["reasoning"] for row in traces), key=len)
    verified_responses({"answer": "1"}, ["\\boxed{1}"])  # starts the workers
    print("\n| response | characters | seconds, median (largest) |\n|---|---|---|")
    for tokens in (512, 4096, LONGEST):
        size = int(tokens * CHARACTERS_PER_TOKEN)
        trace = (longest * (1 + size // len(longest)))[:size]
        for kind, text, answer in (
            ("ends in a box", f"<think>{trace}</think>\\boxed{{\\frac{{3}}{{4}}}}", "0.75"),
            ("never ends", f"<think>{trace}", "0.75"),
        ):
            seconds = []
            for i in range(repeats):
                began = time.perf_counter()
                verified_responses({"answer": answer}, [f"{i}{text}"])
                seconds.append(time.perf_counter() - began)
            print(
                f"| {tokens:,} tokens, {kind} | {len(text):,} | {median(seconds):.4f} "
                f"({max(seconds):.4f}) |"
            )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--labelled", type=Path, help="JSONL: gold, response, label (true, false)")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    items = list(labelled(args.data))
    if args.labelled:
        items += [
            (args.labelled.name, {"answer": r["gold"]}, r["response"], r["label"])
            for r in rows(args.labelled)
        ]
    agreement(items)
    cost(args.data, args.repeats)


if __name__ == "__main__":
    main()
