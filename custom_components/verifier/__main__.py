"""Verify a file of pairs: `python -m custom_components.verifier --input a --output b`.

Reads JSON lines with `gold` and either `response` or a bare `prediction` (the answer itself), and
optionally `reasoning_open`, `truncated`, `allow_fallback`, `choices`, `problem`, `rounding`. Writes the same
rows in order with `verdict`, `reason` and `prediction`, atomically, and prints a summary. The exit
code is 0 whatever the verdicts are, and 2 when a file cannot be read or written or a row is bad;
nothing is written then.
"""

import argparse
import codecs
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from custom_components.io import read_jsonl, write_jsonl
from custom_components.verifier.pool.pool import VerifierPool
from custom_components.verifier.types import Item

MAX_SHOWN = 20  # bad rows that are named one by one
KEYS: dict[str, tuple[str, tuple[type, ...]]] = {
    "gold": ("a string or a number", (str, int, float)),
    "response": ("a string", (str,)),
    "prediction": ("a string or a number", (str, int, float)),
    "reasoning_open": ("true or false", (bool, NoneType)),
    "truncated": ("true or false", (bool, NoneType)),
    "allow_fallback": ("true or false", (bool, NoneType)),
    "choices": ("a string", (str, NoneType)),
    "problem": ("a string", (str, NoneType)),
    "rounding": ("true or false", (bool, NoneType)),
}


def main(argv: list[str] | None = None) -> int:
    """Verify the file that the command line names and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m custom_components.verifier", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--input", type=Path, required=True, help="JSON lines of pairs")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines of verdicts")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds for one pair")
    parser.add_argument("--memory-limit", type=int, default=1 << 30, help="bytes for one worker")
    for_all = parser.add_argument_group("options for all rows")
    for_all.add_argument("--reasoning-open", action="store_true", help="the prompts opened <think>")
    for_all.add_argument(
        "--allow-fallback", action="store_true", help="accept 'the answer is', ####"
    )
    for_all.add_argument("--rounding", action="store_true", help="accept 12.52 for the gold 12.5")
    for_all.add_argument("--choices", help="letters of multiple-choice questions, ABCD")
    args = parser.parse_args(argv)

    outcomes: Counter[tuple[str, str]] = Counter()
    path = args.input
    try:
        if bad := list(bad_rows(args.input)):
            return fail(args.input, *bad[:MAX_SHOWN], f"{len(bad)} bad rows, nothing written")
        path = args.output
        if path.is_dir():
            return fail(path, "is a folder; name the file to write")
        write_jsonl(path, verified_rows(args, outcomes))
    except OSError as error:
        return fail(path, error.strerror or str(error))
    print_summary(outcomes)
    return 0


def fail(path: Path, *messages: str) -> int:
    """Print messages about a file and return the exit code of a failure."""
    for message in messages:
        print(f"{path}: {message}", file=sys.stderr)
    return 2


def bad_rows(path: Path) -> Iterator[str]:
    """Yield the number of each bad row and what is wrong with it."""
    with path.open("rb") as file:
        if file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield "row 1: a JSON array; write one object a line instead"
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    item_of(json.loads(text), {})
            except UnicodeDecodeError as error:
                yield f"row {number}: not UTF-8 at byte {error.start}"
            except (json.JSONDecodeError, RecursionError) as error:
                yield f"row {number}: not JSON: {error}"
            except ValueError as error:
                yield f"row {number}: {error}"


def item_of(row: object, defaults: dict[str, Any]) -> Item:
    """Return the pair in a row, with `defaults` for the options that the row does not have.

    Raises:
        ValueError: when the row is not an object, or a key is missing or has the wrong type.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    fields = {key: row[key] for key in KEYS if key in row}
    if "response" in fields:
        fields.pop("prediction", None)
    elif "prediction" not in fields:
        raise ValueError("key 'response' (or 'prediction') is missing")
    if "gold" not in fields:
        raise ValueError("key 'gold' is missing")
    for key, value in fields.items():
        kind, types = KEYS[key]
        if type(value) not in types:
            raise ValueError(f"key {key!r} must be {kind}, not {json.dumps(value)[:80]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"key {key!r} is {value}, not a number")
        if type(value) in (int, float):
            fields[key] = json.dumps(value)
    if "prediction" in fields:
        fields |= {"response": fields.pop("prediction"), "extract": False}
    return Item(**(defaults | {key: value for key, value in fields.items() if value is not None}))


def verified_rows(
    args: argparse.Namespace, outcomes: Counter[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows with their verdicts; count (verdict, reason) in `outcomes`.

    Only the rows that the pool works on are held in memory.
    """
    keys = ("reasoning_open", "allow_fallback", "choices", "rounding")
    defaults = {key: getattr(args, key) for key in keys}
    rows, ahead = itertools.tee(row for _, row in read_jsonl(args.input))
    with VerifierPool(args.workers, args.time_limit, args.memory_limit) as pool:
        verdicts = pool.imap(item_of(row, defaults) for row in ahead)
        for row, verdict in zip(rows, verdicts, strict=True):
            outcomes[verdict.verdict, verdict.reason] += 1
            prediction = verdict.prediction if "response" in row else row["prediction"]
            yield row | {
                "verdict": verdict.verdict,
                "reason": verdict.reason,
                "prediction": prediction,
            }


def print_summary(outcomes: Counter[tuple[str, str]]) -> None:
    """Print how many rows have each verdict and each reason."""
    total = outcomes.total()
    print(f"{total} rows")
    for outcome in ("correct", "incorrect", "undecided"):
        reasons = {reason: n for (verdict, reason), n in outcomes.items() if verdict == outcome}
        count = sum(reasons.values())
        share = f" ({100 * count / total:.1f} %)" if total else ""
        print(f"  {outcome:<10} {count:>8}{share}")
        for reason, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
            print(f"    {reason:<22} {n:>8}")


if __name__ == "__main__":
    sys.exit(main())
