"""Sources of rollout rows: functions that yield what others wrote, in one form.

Every response is `<think>...</think>` and an answer, boxed where the source says which part of the
text it is. A row that cannot be used is yielded as a `Reject`, and so is a file that cannot be read on.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.data.rows import (
    Reject,
    Rows,
    checked,
    load_table,
    resolve,
    rollout_row,
)

LABELS = {True: "correct", False: "incorrect", "correct": "correct", "incorrect": "incorrect"}


def _adapt(
    path: str, convert: Callable[[dict[str, Any], int], Any], split: str = "train",
    name: str | None = None,
) -> Rows:  # fmt: skip
    """Rows of a table, each converted to a rollout row or to a list of them."""
    for i, (where, row) in enumerate(load_table(path, split, name)):
        if row is None:
            yield Reject(where, "not a JSON object")
            continue
        try:
            adapted = convert(row, i)
        except KeyError as e:
            yield Reject(where, f"column {e.args[0]!r} is missing")
            continue
        except (AttributeError, TypeError, ValueError) as e:
            yield Reject(where, str(e))
            continue
        for made in adapted if isinstance(adapted, list) else [adapted]:
            yield checked(made, where)


def rollouts(path: str) -> Rows:
    """Rows written by recipes/rollout.py.

    Args:
        path: its run folder, or a JSONL or Parquet file of such rows.
    """
    files = [Path(path)]
    if Path(path).is_dir():
        files = sorted((Path(path) / "rollouts").glob("*.parquet"))
        if not files:
            raise UserError(f"{path} holds no rollouts/*.parquet; run recipes/rollout.py first")
    for file in files:
        try:
            yield from _adapt(str(file), lambda row, i: rollout_row(**row))
        except UserError as e:
            if len(files) == 1:
                raise
            yield Reject(str(file), str(e), whole_file=True)


def gsm8k(path: str = "openai/gsm8k", split: str = "train") -> Rows:
    """GSM8K's own solutions as responses: the reasoning in <think>, the answer boxed.

    Args:
        path: the data set on the hub, or a JSONL file with question and answer.
        split: on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        solution, mark, answer = row["answer"].rpartition("####")
        if not mark:
            raise ValueError("answer has no '####' line")
        # <<48/2=24>> are annotations for a calculator, not part of the solution
        steps = re.sub(r"<<[^>]*>>", "", solution).strip()
        final = answer.strip().replace(",", "")
        response = f"<think>\n{steps}\n</think>\n\nThe answer is \\boxed{{{final}}}."
        return rollout_row(
            id=f"gsm8k-{split}-{i}", source="gsm8k", problem=row["question"].strip(),
            answer=final, response=response, model="human",
        )  # fmt: skip

    yield from _adapt(resolve(path, f"gsm8k/{split}.jsonl"), convert, split, "main")


def short_cot(path: str) -> Rows:
    """Traces whose prompt already opens <think> and whose answer stands in <answer> tags.

    Args:
        path: JSONL with prompt ("...User: problem\\nAssistant: <think>"), response and
            ground_truth. The response is rewritten to `<think>...</think>` and a boxed answer.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        found = re.search(r"\nUser: (.*)\nAssistant: <think>\s*\Z", row["prompt"], re.DOTALL)
        if not found:
            raise ValueError("prompt does not end in 'Assistant: <think>'")
        response = row["response"]
        if not isinstance(response, str) or not isinstance(row["ground_truth"], str):
            raise ValueError("response and ground_truth must be text")
        parts = re.fullmatch(r"(.*?)</think>\s*<answer>(.*?)</answer>.*", response, re.DOTALL)
        text, finish = "<think>" + response, "length"
        if parts:
            reasoning, answer = (p.strip() for p in parts.groups())
            boxed = answer if re.fullmatch(r"\\boxed\{.*\}", answer) else f"\\boxed{{{answer}}}"
            text = f"<think>\n{reasoning}\n</think>\n\nThe answer is {boxed}."
            finish = "stop"
        return rollout_row(
            id=f"short_cot-{i}", source="short_cot", problem=found.group(1).strip(),
            answer=row["ground_truth"], response=text, finish_reason=finish, model="unknown",
        )  # fmt: skip

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
    source: str = "jsonl",
    split: str = "train",
) -> Rows:
    """Any JSONL or Parquet file with traces, or such a data set on the hub, by a column map.

    Args:
        path: file, or hub id.
        problem, answer, response: names of its columns.
        reasoning: column with the reasoning where it stands apart from the response; it goes
            before the response, in <think> tags.
        options: column with a list of choices, which go below the problem as A, B, ...; a
            response that ends in "the answer is (C)" gets that letter boxed.
        correct: column that says whether the answer is right (a boolean, or correct/incorrect).
        domain, difficulty: columns with labels, used where they are there.
        source: name of the source in the rows.
        split: of a data set on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any]:
        question, gold, text = row[problem], str(row[answer]), row[response]
        if options is not None:
            letters = (f"{chr(65 + n)}. {choice}" for n, choice in enumerate(row[options]))
            question = "\n".join([question.strip(), "", *letters])
            text = FINAL_LETTER.sub(r"\1\\boxed{\2}.", text.rstrip())
        if reasoning is not None:
            text = _thought(row[reasoning], text)
        return rollout_row(
            id=str(row.get("id", f"{source}-{i}")), source=source, problem=question,
            answer=gold, response=text,
            finish_reason=row.get("finish_reason", "stop"), model=str(row.get("model", "")),
            domain=row.get(domain), difficulty=row.get(difficulty),
            num_tokens=row.get("num_tokens"),
            given_verdict=None if correct is None else LABELS.get(row[correct]),
        )  # fmt: skip

    yield from _adapt(resolve(path, path), convert, split)


FINAL_LETTER = re.compile(r"((?:answer|option) is:?\s*)\(?([A-J])\)?\.?\s*\Z", re.IGNORECASE)


def _thought(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{answer.strip()}"


def openr1_math(path: str = "open-r1/OpenR1-Math-220k", split: str = "train") -> Rows:
    """OpenR1-Math-220k: a row for each of a problem's generations by DeepSeek-R1.

    Its labels are those of math-verify, or of a Llama judge where math-verify gave none.

    Args:
        path: the data set on the hub, or a JSONL or Parquet file with its columns.
        split: on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> list[dict[str, Any]]:
        count = len(row["generations"])

        def column(name: str) -> list[Any]:
            values = row.get(name)
            return [None] * count if values is None else values

        complete = column("is_reasoning_complete")
        return [
            rollout_row(
                id=f"{row.get('uuid') or f'openr1-{i}'}-{n}", source="openr1_math",
                problem=row["problem"].strip(), answer=str(row["answer"] or "").strip(),
                response=text, domain=row.get("problem_type"), model="deepseek-r1",
                finish_reason="length" if reason == "length" or complete[n] is False else "stop",
                given_verdict=LABELS.get(judged if exact is None else exact),
            )
            for n, (text, reason, exact, judged) in enumerate(zip(
                row["generations"], column("finish_reasons"),
                column("correctness_math_verify"), column("correctness_llama"), strict=True,
            ))
        ]  # fmt: skip

    yield from _adapt(path, convert, split)


def openthoughts(path: str = "open-thoughts/OpenThoughts-114k", split: str = "train") -> Rows:
    """OpenThoughts-114k (its config `metadata`): the mathematics of it, one trace a problem.

    The other subjects are passed over. The answer is the last box of the reference solution; a row
    without one is a `Reject`.

    Args:
        path: the data set on the hub, or a JSONL or Parquet file with its columns.
        split: on the hub.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any] | list:
        if row["domain"] != "math":
            return []
        gold = last_box(row["ground_truth_solution"])
        if gold is None:
            raise ValueError("ground_truth_solution holds no \\boxed answer")
        return rollout_row(
            id=f"openthoughts-{i}", source="openthoughts", problem=row["problem"].strip(),
            answer=gold, response=_thought(row["deepseek_reasoning"], row["deepseek_solution"]),
            model="deepseek-r1",
        )  # fmt: skip

    yield from _adapt(path, convert, split, "metadata")


def bespoke_stratos(
    path: str = "bespokelabs/Bespoke-Stratos-17k", split: str = "train", trust: bool = False
) -> Rows:
    """Bespoke-Stratos-17k: conversations with marked thought and solution.

    The set carries no reference answers: its makers kept what they had found to be right. The
    trace's own last box stands for the answer, so that verifying it says nothing. Rows without a
    box (code) are passed over.

    Args:
        path: the data set on the hub, or a JSONL or Parquet file with its columns.
        split: on the hub.
        trust: label the rows as correct, as their makers found them; otherwise a row is a
            `Reject`.
    """

    def convert(row: dict[str, Any], i: int) -> dict[str, Any] | list:
        asked, said = row["conversations"][0]["value"], row["conversations"][1]["value"]
        parts = MARKED.search(said)
        if parts is None:
            raise ValueError("no marked thought and solution in the conversation")
        gold = last_box(parts[2])
        if gold is None:
            return []
        if not trust:
            raise ValueError(
                "the set carries no reference answers; trust=true takes its makers' word"
            )
        problem = asked.removeprefix(STRATOS_REQUEST).strip()
        return rollout_row(
            id=f"stratos-{i}", source="bespoke_stratos", problem=problem, answer=gold,
            response=_thought(parts[1], parts[2]), model="deepseek-r1", given_verdict="correct",
        )  # fmt: skip

    yield from _adapt(path, convert, split)


STRATOS_REQUEST = "Return your final response within \\boxed{}. "
MARKED = re.compile(
    r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*"
    r"<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>",
    re.DOTALL,
)


def last_box(text: str) -> str | None:
    """What the text's last \\boxed{...} holds, braces balanced; None without one."""
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    depth = 0
    for i in range(at + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[at + 7 : i].strip() or None
    return None
