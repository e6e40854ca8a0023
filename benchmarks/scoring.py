"""The evaluation's scorer on labelled model outputs: agreement with the labels, and what it costs.

    python benchmarks/scoring.py --data DATA
    python benchmarks/scoring.py --data DATA --labelled more.jsonl     # problem, gold, response, label

Replays responses whose label is known through `eval.scoring.verified_responses`, which is what a task calls. Then
it times single responses by length, up to one as long as the paper's limit (a real trace, repeated).
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
CHARACTERS_PER_TOKEN = 3.2  # of R1's traces on mathematics
LONGEST = 32_768


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def labelled(data: Path) -> Iterator[tuple[str, dict[str, Any], str, bool]]:
    """(source, doc, response, label) of what the folder holds."""
    for row in rows(data / "rollouts" / "math_train_nemo_3x50.jsonl"):
        yield "MATH rollouts", {"answer": row["gold"]}, row["response"], row["is_correct"]
    # the set's own answers follow the trace: the letter, right by construction
    for row in rows(data / "traces" / "pcmb_r1_traces_413.jsonl"):
        text = f"<think>{row['reasoning']}</think>\\boxed{{{row['answer_letter']}}}"
        letters = "ABCDEFGHIJKLMNOP"[: len(row["options"])]
        yield "R1 traces, letters", {"answer": row["answer_letter"], "choices": letters}, text, True
    for row in rows(data / "gsm8k" / "train.jsonl")[::5]:
        solution, _, gold = row["answer"].rpartition("#### ")
        text = f"<think>{solution}</think>\\boxed{{{gold}}}"
        yield "GSM8K solutions", {"answer": gold.replace(",", "")}, text, True


def agreement(items: list[tuple[str, dict[str, Any], str, bool]]) -> None:
    """Print each source's agreement, and what disagrees."""
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
    for source, of in counts.items():
        print(f"| {source} | {len(of)} | {sum(of)} | {100 * sum(of) / len(of):.2f} |")


def cost(data: Path, repeats: int) -> None:
    """Print the seconds that one response takes, by its length."""
    from eval.scoring import verified_responses

    traces = rows(data / "traces" / "pcmb_r1_traces_413.jsonl")
    longest = max((row["reasoning"] for row in traces), key=len)
    verified_responses({"answer": "1"}, ["\\boxed{1}"])  # the workers start
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
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
