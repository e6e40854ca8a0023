"""Choose responses for the page's browser: bounded, repeatable and safe to embed."""

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
"""Most training samples of one stage."""
MAX_RESPONSES = 4
"""Most responses to one problem by one stage."""
MAX_RESPONSE = 6000
"""Most characters of one response; longer ones lose their middle."""
BUDGET = 3_000_000
"""Most characters of the responses to all problems, and also of all training samples."""
VERIFIED = ("verdict", "reason", "prediction", "finish_reason", "length", "num_tokens")


def sample_rows(run_dir: Path, stage: str, task: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stage's evaluation (`eval.results.problem_row`) for one task.

    Raises:
        UserError: if they were written without their verified samples.
    """
    file = run_dir / "eval" / stage / f"{stage}.samples.jsonl"
    for number, row in read_jsonl(file):
        if row["task"] == task:
            if "samples" not in row:
                raise UserError(f"{file}, line {number}: no 'samples'; evaluate {stage} again")
            yield row


def choose_ids(scores: dict[str, dict[str, float]], max_problems: int = MAX_PROBLEMS) -> list[str]:
    """Choose the problems to show, the same for all stages and at every call.

    Problems with the same course (right, wrong or partly right after each stage) form a group. The
    groups take turns, so that rare courses are shown, too. Within a group a hash decides the order.

    Args:
        scores: {stage: {id: accuracy}}; only problems that all stages have are chosen.
        max_problems: most ids to return.
    """
    if not scores:
        return []
    common = set.intersection(*(set(by_id) for by_id in scores.values()))
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in sorted(
        common, key=lambda i: (hashlib.sha256(i.encode("utf-8", "replace")).hexdigest(), i)
    ):
        course = tuple(
            (by_id[name] > 0) + (by_id[name] == 1)  # 0 wrong, 1 partly right, 2 right
            for by_id in scores.values()
        )
        groups[course].append(name)
    turns = zip_longest(*(groups[course] for course in sorted(groups)))
    return [name for turn in turns for name in turn if name is not None][:max_problems]


def shortened(text: str, max_length: int = MAX_RESPONSE) -> str:
    """Return a text, or a longer one with a note on its missing length in place of its middle."""
    if len(text) <= max_length:
        return text
    head = max_length * 2 // 3
    tail = max_length - head
    missing = len(text) - max_length
    return f"{text[:head]}\n\n[... {missing:,} characters cut ...]\n\n{text[-tail:]}"


def chosen_problems(
    run_dir: Path, task: str, scores: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """Return the problems to show with every stage's responses, as many as fit `BUDGET`.

    Returns:
        [{"id", "problem", "answer", "difficulty", "stages": {stage: {"accuracy", "of" (number of
        all samples), "responses": [{"text", *VERIFIED}]}}}].
    """
    ids = choose_ids(scores)
    problems: dict[str, dict[str, Any]] = {name: {} for name in ids}
    for stage in scores:
        for row in sample_rows(run_dir, stage, task):
            if row["id"] not in problems:
                continue
            problem = problems[row["id"]]
            if not problem:
                problem |= {key: row[key] for key in ("id", "answer", "difficulty")}
                problem |= {"problem": shortened(row["problem"]), "stages": {}}
            shown = zip(row["responses"][:MAX_RESPONSES], row["samples"], strict=False)
            problem["stages"][stage] = {
                "accuracy": row["accuracy"],
                "of": len(row["samples"]),
                "responses": [
                    {"text": shortened(text)} | {key: sample[key] for key in VERIFIED}
                    for text, sample in shown
                ],
            }
    kept: list[dict[str, Any]] = []
    spent = 0
    for problem in problems.values():
        spent += sum(len(r["text"]) for s in problem["stages"].values() for r in s["responses"])
        if spent > BUDGET and kept:
            break
        kept.append(problem)
    return kept


def training_samples(run_dir: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return samples that RL stages have logged, spread evenly over the run.

    Returns:
        [{"stage", "label", "logged" (number of all samples), "samples": rows of samples.jsonl}].
    """
    logged: list[dict[str, Any]] = []
    room = BUDGET
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
        logged.append(
            {"stage": stage["name"], "label": stage["label"], "logged": len(rows), "samples": kept}
        )
    return logged


def embedded(value: Any) -> str:
    """Return JSON for a script element: nothing in it can end the element or open a comment.

    Lone surrogates, which UTF-8 cannot encode, become question marks.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode()
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
