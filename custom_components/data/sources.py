"""Read rollout rows from data sets of many forms.

Each function yields rows whose response is `<think>...</think>` and an answer, which is boxed if
the source marks it. A response that closes `<think>` without opening it, because its prompt did,
gets it back. A row that cannot be used is yielded as a `Reject`, and so is a file that cannot be
read to its end.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.data.rows import (
    Reject,
    Rows,
    cell,
    checked,
    label,
    load_table,
    resolve,
    rollout_row,
    table_files,
    text_cell,
)
from custom_components.tokenizer.thought import OPENED, whole_response
from custom_components.verifier.read import last_boxes

Convert = Callable[[dict[str, Any], int], dict[str, Any] | list[dict[str, Any]]]
LABELS = {
    "true": "correct",
    "yes": "correct",
    "correct": "correct",
    "1": "correct",
    "1.0": "correct",
    "false": "incorrect",
    "no": "incorrect",
    "incorrect": "incorrect",
    "0": "incorrect",
    "0.0": "incorrect",
}
"""Map the labels of a `correct` column, as lower-case text, to verdicts."""


def _adapt(
    path: str,
    convert: Convert,
    split: str = "train",
    name: str | None = None,
    files: list[str] | None = None,
    reasoning_open: bool = False,
) -> Rows:
    """Yield the rows of a table, each converted to a rollout row or to a list of them.

    Args:
        path: file, folder of .jsonl and .parquet files, or hub id.
        convert: function that makes rollout rows from a row and its index. It raises LookupError,
            AttributeError, TypeError or ValueError on a bad row.
        split, name: split and configuration of a data set on the hub.
        files: files to read instead of those at `path`.
        reasoning_open: whether every response's prompt ended in <think>.

    Raises:
        UserError: if no row at all can be read; one lost file among others is a `Reject`.
    """
    count = 0
    lost: list[Reject] = []
    for file in table_files(path, split) if files is None else files:
        try:
            for where, row in load_table(file, split, name):
                yield from _converted(convert, where, row, count, OPENED if reasoning_open else "")
                count += 1
        except UserError as e:
            lost.append(Reject(file, str(e), whole_file=True))
            yield lost[-1]
    if not count:
        more = f" (and {len(lost) - 1} other files cannot be read)" if len(lost) > 1 else ""
        raise UserError(lost[0].reason + more)


def _converted(
    convert: Convert, where: str, row: dict[str, Any] | Reject, i: int, opening: str
) -> Rows:
    """Yield the rollout rows, or the `Reject`, that one row of a table gives.

    Their responses are whole: they have the `<think>` of their prompt's opening.
    """
    if isinstance(row, Reject):
        yield row
        return
    try:
        adapted = convert(row, i)
    except KeyError as e:
        yield Reject(where, f"column {e.args[0]!r} is missing")
        return
    except (AttributeError, IndexError, TypeError, ValueError) as e:
        yield Reject(where, str(e))
        return
    if isinstance(adapted, dict):
        yield checked(_whole(adapted, opening), where)
        return
    for n, response in enumerate(adapted):
        yield checked(_whole(response, opening), f"{where}, response {n}")


def _whole(row: dict[str, Any], opening: str) -> dict[str, Any]:
    text = row["response"]
    if not isinstance(text, str) or not text.strip():  # `checked` rejects it
        return row
    return row | {"response": whole_response(text, opening)}


def _counted(rows: Rows, skipped: Counter[str]) -> Rows:
    """Yield the rows, then print how many others were skipped, and why."""
    yield from rows
    if skipped and os.environ.get("RANK", "0") == "0":
        for reason, count in sorted(skipped.items()):
            print(f"skipped {count} rows: {reason}", flush=True)


def rollouts(path: str, reasoning_open: bool = False) -> Rows:
    """Yield rows written by recipes/rollout.py.

    Args:
        path: run folder of the recipe, or a JSONL or Parquet file of such rows.
        reasoning_open: whether the prompts ended in <think> and the responses lack it: those of an
            endpoint without a reasoning parser that were sampled without its `reasoning_open`.
    """
    files = None
    if Path(path).is_dir():
        files = sorted(str(f) for f in (Path(path) / "rollouts").glob("*.parquet"))
        if not files:
            raise UserError(f"{path} holds no rollouts/*.parquet; run recipes/rollout.py first")
    yield from _adapt(
        path, lambda row, i: rollout_row(**row), files=files, reasoning_open=reasoning_open
    )


def gsm8k(path: str = "openai/gsm8k", split: str = "train") -> Rows:
    """Yield GSM8K's own solutions as responses: the reasoning in <think>, the answer boxed.

    Args:
        path: data set on the hub, or a JSONL file with question and answer.
        split: split on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        solution, mark, answer = row["answer"].rpartition("####")
        if not mark:
            raise ValueError("answer has no '####' line")
        # Annotations like <<48/2=24>> are for a calculator and not part of the solution.
        steps = re.sub(r"<<[^>]*>>", "", solution).strip()
        final = answer.strip().replace(",", "")
        response = f"<think>\n{steps}\n</think>\n\nThe answer is \\boxed{{{final}}}."
        return rollout_row(
            id=f"gsm8k-{split}-{i}",
            source="gsm8k",
            problem=row["question"].strip(),
            answer=final,
            response=response,
            model="human",
        )

    yield from _adapt(resolve(path, f"gsm8k/{split}.jsonl"), convert, split, "main")


def short_cot(path: str) -> Rows:
    """Yield traces whose prompt already opens <think> and whose answer is in <answer> tags.

    Args:
        path: JSONL with prompt ("...User: problem\\nAssistant: <think>"), response and
            ground_truth. The response is rewritten to `<think>...</think>` and a boxed answer.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        prompt = re.search(r"\nUser: (.*)\nAssistant: <think>\s*\Z", row["prompt"], re.DOTALL)
        if not prompt:
            raise ValueError("prompt does not end in 'Assistant: <think>'")
        response = row["response"]
        if not isinstance(response, str) or not isinstance(row["ground_truth"], str):
            raise ValueError("response and ground_truth must be text")
        parts = re.fullmatch(r"(.*?)</think>\s*<answer>(.*?)</answer>.*", response, re.DOTALL)
        text = "<think>" + response
        finish = "length"
        if parts:
            reasoning, answer = (p.strip() for p in parts.groups())
            boxed = answer if re.fullmatch(r"\\boxed\{.*\}", answer) else f"\\boxed{{{answer}}}"
            text = f"<think>\n{reasoning}\n</think>\n\nThe answer is {boxed}."
            finish = "stop"
        return rollout_row(
            id=f"short_cot-{i}",
            source="short_cot",
            problem=prompt.group(1).strip(),
            answer=row["ground_truth"],
            response=text,
            finish_reason=finish,
            model="unknown",
        )

    yield from _adapt(resolve(path, path), convert)


def jsonl(
    path: str,
    problem: str = "problem",
    answer: str = "answer",
    response: str = "response",
    reasoning: str | None = None,
    options: str | None = None,
    correct: str | None = None,
    domain: str = "domain",
    difficulty: str = "difficulty",
    id: str | list[str] = "id",
    source: str = "jsonl",
    split: str = "train",
    reasoning_open: bool = False,
) -> Rows:
    """Yield the traces of any JSONL or Parquet file or data set on the hub, by a column map.

    Args:
        path: file, folder of files, or hub id.
        problem, answer, response: names of the columns; a nested one is named by its path:
            `prompt.0.content`, `reward_model.ground_truth`.
        reasoning: column with the reasoning, if it is separate from the response; it is put before
            the response, in <think> tags.
        options: column with a list of choices, which are put below the problem as A, B, ... A
            response without a box that ends in the sentence "The answer is (C)", and names no
            other letter in this way, gets that letter boxed.
        correct: column that tells whether the answer is right: a boolean, 0 or 1, or a word such as
            correct, true, yes or their opposites.
        domain, difficulty: columns with labels, used if they exist.
        id: column, or several that together name a row; rows without them are numbered.
        source: name of the source in the rows.
        split: split of a data set on the hub.
        reasoning_open: whether the prompts ended in <think> and the responses lack it.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        question, gold = text_cell(row, problem), text_cell(row, answer)
        text = cell(row, response)
        if options is not None:
            letters = [chr(65 + n) for n in range(len(row[options]))]
            choices = (f"{x}. {choice}" for x, choice in zip(letters, row[options], strict=True))
            question = "\n".join([question.strip(), "", *choices])
            text = box_letter(text, letters)
        if reasoning is not None:
            text = _thought(row[reasoning], text)
        parts = [label(row.get(column)) for column in ([id] if isinstance(id, str) else id)]
        names = [part for part in parts if part is not None]
        return rollout_row(
            id="-".join(names) if len(names) == len(parts) else f"{source}-{i}",
            source=source,
            problem=question,
            answer=gold,
            response=text,
            finish_reason=row.get("finish_reason") or "stop",
            model=str(row.get("model") or ""),
            domain=label(row.get(domain)),
            difficulty=label(row.get(difficulty)),
            num_tokens=row.get("num_tokens"),
            given_verdict=None if correct is None else _verdict(row, correct),
        )

    yield from _adapt(resolve(path, path), convert, split, reasoning_open=reasoning_open)


STATED_LETTER = re.compile(r"(?i:answer|option|choice) (?i:is):? *\(?([A-Z])\b\)?")
FINAL_LETTER = re.compile(
    r"(?:^|(?<=[.!?\n])\s*)"
    r"((?i:(?:(?:so|thus|hence|therefore),? )?the (?:(?:correct|final|best|right) )?"
    r"(?:answer|option|choice) is):? *)\(?([A-Z])\)?\.?\s*\Z"
)


def box_letter(text: str, letters: list[str]) -> str:
    """Return the text with the letter of its last sentence in a box.

    The text is changed only if that sentence is "The answer is (C)" or similar, the letter is one
    of `letters`, the text calls no other letter the answer, and there is no box yet.
    """
    final = FINAL_LETTER.search(text)
    if final is None or final[2] not in letters or last_boxes(text) is not None:
        return text
    if set(STATED_LETTER.findall(text)) != {final[2]}:
        return text
    return f"{text[: final.end(1)]}\\boxed{{{final[2]}}}."


def _verdict(row: dict[str, Any], column: str) -> str | None:
    """Return the verdict that a column gives; None for null.

    Raises:
        KeyError: if there is no such column.
        ValueError: if its value does not say correct or incorrect.
    """
    given = label(cell(row, column))
    if given is None or not given.strip():
        return None
    verdict = LABELS.get(given.strip().lower())
    if verdict is None:
        raise ValueError(f"column {column!r} is {given[:40]!r}, not true or false")
    return verdict


def _thought(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{answer.strip()}"


def _as_thought(text: str) -> str:
    """Put a response that may begin with <think> into the common form, closed or left open."""
    reasoning, close, answer = text.rpartition("</think>")
    if close:
        return _thought(reasoning.strip().removeprefix("<think>"), answer)
    return f"<think>\n{text.strip().removeprefix('<think>').strip()}"


def openr1_math(path: str = "open-r1/OpenR1-Math-220k", split: str = "train") -> Rows:
    """Yield a row for each of a problem's generations by DeepSeek-R1 in OpenR1-Math-220k.

    A generation is labelled correct if math-verify or the Llama judge accepted it: the judge saw
    the generations that math-verify had rejected.

    Args:
        path: data set on the hub, or a file or folder of files with its columns.
        split: split on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> list[dict[str, Any]]:
        count = len(row["generations"])
        if count == 0:
            raise ValueError("no generations")

        def column(name: str) -> list[Any]:
            values = row.get(name) or [None] * count
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} entries for {count} generations")
            return values

        def generation(n: int) -> dict[str, Any]:
            labels = {column(c)[n] for c in ("correctness_math_verify", "correctness_llama")}
            complete = column("is_reasoning_complete")[n] is not False
            text = row["generations"][n]
            return rollout_row(
                id=f"{row.get('uuid') or f'openr1-{i}'}-{n}",
                source="openr1_math",
                problem=row["problem"].strip(),
                answer="" if row["answer"] is None else text_cell(row, "answer"),
                response=_as_thought(text) if text else "",
                domain=row.get("problem_type"),
                finish_reason="stop"
                if complete and column("finish_reasons")[n] != "length"
                else "length",
                given_verdict=LABELS[str(True in labels).lower()] if labels - {None} else None,
                model="deepseek-r1",
            )

        return [generation(n) for n in range(count)]

    yield from _adapt(resolve(path, path), convert, split)


def openthoughts(path: str = "open-thoughts/OpenThoughts-114k", split: str = "train") -> Rows:
    """Yield the mathematics of OpenThoughts-114k (configuration `metadata`), one trace a problem.

    Rows of other subjects are skipped, and counted in a line at the end: they are not faulty. The
    answer is the last box of the reference solution; a row without a box is a `Reject`.

    Args:
        path: data set on the hub, or a file or folder of files with its columns.
        split: split on the hub.
    """

    skipped: Counter[str] = Counter()

    def convert(row: dict[str, Any], i: int) -> dict[str, Any] | list[dict[str, Any]]:
        if row["domain"] != "math":
            skipped[f"{row['domain']}, not math (openthoughts)"] += 1
            return []
        gold = last_box(row["ground_truth_solution"])
        if gold is None:
            raise ValueError("ground_truth_solution holds no \\boxed answer")
        return rollout_row(
            id=f"openthoughts-{i}",
            source="openthoughts",
            problem=row["problem"].strip(),
            answer=gold,
            response=_thought(row["deepseek_reasoning"], row["deepseek_solution"]),
            model="deepseek-r1",
        )

    rows = _adapt(resolve(path, path), convert, split, "metadata")
    yield from _counted(rows, skipped)


def bespoke_stratos(
    path: str = "bespokelabs/Bespoke-Stratos-17k", split: str = "train", trust: bool = False
) -> Rows:
    """Yield the conversations of Bespoke-Stratos-17k, which mark thought and solution.

    The set has no reference answers: its makers kept the traces that they had found to be right.
    The trace's own last box takes the place of the answer, so verifying the trace proves nothing.
    Rows without a box (code) are skipped, and counted in a line at the end.

    Args:
        path: data set on the hub, or a file or folder of files with its columns.
        split: split on the hub.
        trust: whether to label the rows as correct, as their makers found them; otherwise a row is
            a `Reject`.
    """

    skipped: Counter[str] = Counter()

    def convert(row: dict[str, Any], i: int) -> dict[str, Any] | list[dict[str, Any]]:
        if len(row["conversations"]) < 2:
            raise ValueError("the conversation has no answer")
        request, response = (turn["value"] for turn in row["conversations"][:2])
        parts = MARKED.search(response)
        if parts is None:
            raise ValueError("no marked thought and solution in the conversation")
        gold = last_box(parts[2])
        if gold is None:
            skipped["no box in the solution, code as a rule (bespoke_stratos)"] += 1
            return []
        if not trust:
            raise ValueError("the set has no reference answers; trust=true takes its makers' word")
        problem = request.removeprefix(STRATOS_REQUEST).strip()
        return rollout_row(
            id=f"stratos-{i}",
            source="bespoke_stratos",
            problem=problem,
            answer=gold,
            response=_thought(parts[1], parts[2]),
            model="deepseek-r1",
            given_verdict="correct",
        )

    yield from _counted(_adapt(resolve(path, path), convert, split), skipped)


STRATOS_REQUEST = "Return your final response within \\boxed{}. "
MARKED = re.compile(
    r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*"
    r"<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>",
    re.DOTALL,
)


def last_box(text: str) -> str | None:
    """Return the content of the text's final box, or None; boxes of one statement are joined."""
    return ", ".join(last_boxes(text) or ()).strip() or None
