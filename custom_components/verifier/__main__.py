"""Verdicts on a file of pairs: `python -m custom_components.verifier --input a --output b`.

Reads JSON lines with `gold` and either `response` or a bare `prediction` (the answer itself), and
optionally `reasoning_open`, `truncated`, `allow_fallback`, `choices`, `problem`. Writes the same
rows in order with `verdict`, `reason` and `prediction`, atomically, and prints a summary. The exit
code is 0 whatever the verdicts are, and 2 when a file or a row cannot be read (nothing is
written then).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from custom_components.verifier.pool.pool import VerifierPool
from custom_components.verifier.types import Item, Verdict

_OPTIONS = {
    "reasoning_open": bool,
    "truncated": bool,
    "allow_fallback": bool,
    "choices": str,
    "problem": str,
}
_SHOWN = 20  # bad rows named one by one


class BadRow(ValueError):
    """A row that is no pair; the message names the key."""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        bad = list(_bad_rows(args.input))
    except OSError as error:
        print(f"{args.input}: {error.strerror or error}", file=sys.stderr)
        return 2
    if bad:
        for message in bad[:_SHOWN]:
            print(f"{args.input}: {message}", file=sys.stderr)
        print(f"{args.input}: {len(bad)} bad rows, nothing written", file=sys.stderr)
        return 2
    try:
        outcomes = _verify_file(args)
    except OSError as error:
        print(f"{args.output}: {error.strerror or error}", file=sys.stderr)
        return 2
    _print_summary(outcomes)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m custom_components.verifier", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--input", type=Path, required=True, help="JSON lines of pairs")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines of verdicts")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds for one pair")
    parser.add_argument("--memory-limit", type=int, default=1 << 30, help="bytes for one worker")
    parser.add_argument(
        "--reasoning-open", action="store_true", help="the prompts opened <think> (all rows)"
    )
    parser.add_argument(
        "--allow-fallback", action="store_true", help="accept #### and 'the answer is' (all rows)"
    )
    parser.add_argument("--choices", help="letters of multiple-choice questions, ABCD (all rows)")
    return parser.parse_args(argv)


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """(row number from 1, line) of the lines that are not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _bad_rows(path: Path) -> Iterator[str]:
    for number, line in _rows(path):
        try:
            _item(_parse(line))
        except BadRow as error:
            yield f"row {number}: {error}"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _item(row: dict[str, Any], defaults: dict[str, Any] | None = None) -> Item:
    """The Item of a row. Raises BadRow."""
    if "response" in row:
        response, extract = row["response"], True
        if not isinstance(response, str):
            raise BadRow(f"key 'response' is no string but {_kind(response)}")
    elif "prediction" in row:
        response, extract = _text(row, "prediction"), False
    else:
        raise BadRow("key 'response' (or 'prediction') is missing")
    if "gold" not in row:
        raise BadRow("key 'gold' is missing")
    options = dict(defaults or {})
    for key, kind in _OPTIONS.items():
        if row.get(key) is None:
            continue
        if not isinstance(row[key], kind):
            raise BadRow(f"key {key!r} is no {kind.__name__} but {_kind(row[key])}")
        options[key] = row[key]
    return Item(gold=_text(row, "gold"), response=response, extract=extract, **options)


def _text(row: dict[str, Any], key: str) -> str:
    """A string, or a number as JSON writes it."""
    value = row[key]
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(value)
    raise BadRow(f"key {key!r} is no string and no number but {_kind(value)}")


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _verify_file(args: argparse.Namespace) -> Counter[tuple[str, str]]:
    """Writes the verdicts beside the output and renames; returns the counts of (verdict, reason).

    Streams: holds only the rows that are on their way.
    """
    defaults = {"reasoning_open": args.reasoning_open, "allow_fallback": args.allow_fallback}
    if args.choices:
        defaults["choices"] = args.choices
    outcomes: Counter[tuple[str, str]] = Counter()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=args.output.parent, prefix=f".{args.output.name}.", suffix=".tmp"
    )
    try:
        with (
            os.fdopen(descriptor, "w", encoding="utf-8") as out,
            VerifierPool(args.workers, args.time_limit, args.memory_limit) as pool,
        ):
            items = (_item(_parse(line), defaults) for _, line in _rows(args.input))
            lines = (line for _, line in _rows(args.input))
            for line, verdict in zip(lines, pool.imap(items), strict=True):
                out.write(_dump(_with_verdict(_parse(line), verdict)) + "\n")
                outcomes[verdict.verdict, verdict.reason] += 1
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, args.output)
    except BaseException:
        os.unlink(temporary)
        raise
    return outcomes


def _with_verdict(row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    prediction = verdict.prediction if "response" in row else row["prediction"]
    return {**row, "verdict": verdict.verdict, "reason": verdict.reason, "prediction": prediction}


def _dump(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: only its escape can be written
        return json.dumps(row)
    return text


def _print_summary(outcomes: Counter[tuple[str, str]]) -> None:
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
