"""Responses for the page's browser: a bounded, repeatable choice, safe to embed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import read_jsonl
from custom_components.runs.metrics import logged_rows

MAX_PROBLEMS = 200
MAX_TRAINING = 200
"""Training samples of one stage."""
MAX_RESPONSES = 4
"""Responses to one problem by one stage."""
MAX_RESPONSE = 6000
"""Characters of one response; longer ones lose their middle."""
BUDGET = 3_000_000
"""Characters of the responses of all problems; as many again for training."""
JUDGED = ("verdict", "reason", "prediction", "finish_reason", "length", "num_tokens")


def sample_rows(run_dir: Path, stage: str, task: str) -> Iterator[dict[str, Any]]:
    """Rows of a stage's evaluation (`eval.results.problem_row`), one after the other.

    Raises:
        UserError: when they were written without their judged samples.
    """
    file = run_dir / "eval" / stage / f"{stage}.samples.jsonl"
    for number, row in read_jsonl(file):
        if row["task"] == task:
            if "samples" not in row:
                raise UserError(f"{file}, line {number}: no 'samples'; evaluate {stage} again")
            yield row


def choose_ids(scores: dict[str, dict[str, float]], most: int = MAX_PROBLEMS) -> list[str]:
    """Problems to show, the same for all stages and the same at every call.

    Problems that went alike (right, wrong or partly right after each stage) form a group; the groups
    take turns, so that the rare courses are there, too. Within a group the order is that of a hash.

    Args:
        scores: {stage: {id: accuracy}}; problems that all stages have count.
        most: as many ids at most.
    """
    if not scores:
        return []
    common = set.intersection(*(set(of) for of in scores.values()))
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in sorted(
        common, key=lambda i: (hashlib.sha256(i.encode("utf-8", "replace")).hexdigest(), i)
    ):
        groups[tuple((of[name] > 0) + (of[name] == 1) for of in scores.values())].append(name)
    turns = zip_longest(*(groups[course] for course in sorted(groups)))
    return [name for turn in turns for name in turn if name is not None][:most]


def shortened(text: str, most: int = MAX_RESPONSE) -> str:
    """A text without its middle where it is longer; how much is missing stands in its place."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]}\n\n[... {len(text) - most:,} characters cut ...]\n\n{text[-tail:]}"


def chosen_problems(
    run_dir: Path, task: str, scores: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """The problems to show with every stage's responses, as many as fit `BUDGET`.

    Returns:
        [{"id", "problem", "answer", "difficulty", "stages": {stage: {"accuracy", "of" (samples there
        are), "responses": [{"text", *JUDGED}]}}}].
    """
    ids = choose_ids(scores)
    found: dict[str, dict[str, Any]] = {name: {} for name in ids}
    for stage in scores:
        for row in sample_rows(run_dir, stage, task):
            if row["id"] not in found:
                continue
            problem = found[row["id"]]
            if not problem:
                problem |= {key: row[key] for key in ("id", "answer", "difficulty")}
                problem |= {"problem": shortened(row["problem"]), "stages": {}}
            shown = zip(row["responses"][:MAX_RESPONSES], row["samples"], strict=False)
            problem["stages"][stage] = {
                "accuracy": row["accuracy"],
                "of": len(row["samples"]),
                "responses": [
                    {"text": shortened(text)} | {key: judged[key] for key in JUDGED}
                    for text, judged in shown
                ],
            }
    kept, spent = [], 0
    for problem in found.values():
        spent += sum(len(r["text"]) for s in problem["stages"].values() for r in s["responses"])
        if spent > BUDGET and kept:
            break
        kept.append(problem)
    return kept


def training_samples(run_dir: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples that RL stages kept of their steps, evenly over the run.

    Returns:
        [{"stage", "label", "logged" (how many there are), "samples": rows of samples.jsonl}].
    """
    found, room = [], BUDGET
    for stage in stages:
        rows = logged_rows(run_dir / stage["name"] / "samples.jsonl", "step", "response")
        if not rows:
            continue
        count = min(MAX_TRAINING, len(rows))
        kept = [rows[i * len(rows) // count] for i in range(count)]
        kept = [row | {"response": shortened(row["response"])} for row in kept]
        while kept and sum(len(row["response"]) for row in kept) > room:
            kept = kept[::2] if len(kept) > 1 else []
        room -= sum(len(row["response"]) for row in kept)
        found.append(
            {"stage": stage["name"], "label": stage["label"], "logged": len(rows), "samples": kept}
        )
    return found


def embedded(value: Any) -> str:
    """JSON for the inside of a script element: nothing in it can end the element or open a comment.

    Lone surrogates, which are no text, become question marks.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode()
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
