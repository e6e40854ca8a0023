"""Sources by small rows with their public columns; every response goes through the verifier."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from custom_components.config import UserError
from custom_components.data import sources
from custom_components.data.rows import Reject, rollout_row, write_rows
from custom_components.verifier import verify


def write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def verdict(row):
    return verify(
        row["answer"], row["response"], truncated=row["finish_reason"] == "length"
    ).verdict


OPENR1 = {
    "problem": "What is 2+2?", "solution": "Add.", "answer": "4", "problem_type": "Algebra",
    "question_type": "math-word-problem", "source": "olympiads", "uuid": "u-1",
    "is_reasoning_complete": [True, True, False],
    "generations": ["<think>\nadd\n</think>\n\n\\boxed{4}", "<think>\nadd\n</think>\n\n\\boxed{5}",
                    "<think>\nadd and"],
    "correctness_math_verify": [True, False, False], "correctness_llama": None,
    "finish_reasons": None, "correctness_count": 1,
    "messages": [{"role": "user", "content": "What is 2+2?"}],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_openr1_gives_a_row_for_each_generation(tmp_path, kind):
    path = tmp_path / f"o.{kind}"
    if kind == "jsonl":
        write(path, OPENR1)
    else:
        pq.write_table(pa.Table.from_pylist([OPENR1]), path)
    rows = list(sources.openr1_math(str(path)))
    assert [r["id"] for r in rows] == ["u-1-0", "u-1-1", "u-1-2"]
    assert [verdict(r) for r in rows] == ["correct", "incorrect", "incorrect"]
    assert [r["given_verdict"] for r in rows] == ["correct", "incorrect", "incorrect"]
    assert [r["finish_reason"] for r in rows] == ["stop", "stop", "length"]
    assert rows[0]["domain"] == "Algebra"


def test_openr1_labels_of_the_judge_stand_in(tmp_path):
    row = OPENR1 | {"correctness_math_verify": [None, True, None], "correctness_llama": [True, False, None],
                    "finish_reasons": ["stop", "stop", "length"], "is_reasoning_complete": None}  # fmt: skip
    rows = list(sources.openr1_math(write(tmp_path / "o.jsonl", row)))
    assert [r["given_verdict"] for r in rows] == ["correct", "correct", None]
    assert rows[2]["finish_reason"] == "length"
    short = OPENR1 | {"correctness_math_verify": [True]}
    [bad] = sources.openr1_math(write(tmp_path / "p.jsonl", short))
    assert isinstance(bad, Reject)


def test_openthoughts_keeps_the_mathematics(tmp_path):
    math = {
        "problem": "What is 2+2?", "deepseek_reasoning": "add", "deepseek_solution": "It is \\boxed{4}.",
        "ground_truth_solution": "2+2=\\boxed{\\frac{8}{2}}", "domain": "math", "source": "numina",
        "test_cases": None, "starter_code": None,
    }  # fmt: skip
    rows = list(sources.openthoughts(write(
        tmp_path / "t.jsonl", math, math | {"domain": "code"}, math | {"ground_truth_solution": "4"}
    )))  # fmt: skip
    assert len(rows) == 2
    assert rows[0]["response"] == "<think>\nadd\n</think>\n\nIt is \\boxed{4}."
    assert rows[0]["answer"] == "\\frac{8}{2}" and verdict(rows[0]) == "correct"
    assert rows[1].reason == "ground_truth_solution holds no \\boxed answer"


def test_stratos_is_taken_at_its_makers_word_only_when_asked(tmp_path):
    def talk(said):
        return {"system": "Your role ...", "conversations": [
            {"from": "user", "value": "Return your final response within \\boxed{}. What is 2+2?"},
            {"from": "assistant", "value": said}]}  # fmt: skip

    said = ("<|begin_of_thought|>\n\nadd\n\n<|end_of_thought|>\n\n"
            "<|begin_of_solution|>\n\nIt is \\boxed{4}.\n\n<|end_of_solution|>")  # fmt: skip
    code = said.replace("\\boxed{4}", "a program")
    path = write(tmp_path / "s.jsonl", talk(said), talk(code), talk("no marks"))
    row, bad = sources.bespoke_stratos(path, trust=True)
    assert (row["problem"], row["given_verdict"]) == ("What is 2+2?", "correct")
    assert row["response"] == "<think>\nadd\n</think>\n\nIt is \\boxed{4}."
    assert verdict(row) == "correct" and isinstance(bad, Reject)
    refused, _ = sources.bespoke_stratos(path)
    assert "trust=true" in refused.reason


def test_choices_stand_below_the_problem_and_a_stated_letter_is_boxed(tmp_path):
    row = {
        "q": "Which is even?",
        "options": ["3", "4"],
        "a": "B",
        "why": "4 = 2 * 2",
        "right": True,
    }
    path = write(
        tmp_path / "c.jsonl",
        row | {"said": "Four.\n\nThe answer is (B)."},
        row | {"said": "The answer is (A)", "right": False},
        row | {"said": "I think A or B.", "right": "?"},
    )
    found = list(
        sources.jsonl(path, "q", "a", "said", reasoning="why", options="options", correct="right")
    )
    assert found[0]["problem"] == "Which is even?\n\nA. 3\nB. 4"
    assert found[0]["response"].endswith("The answer is \\boxed{B}.")
    assert [verdict(r) for r in found] == ["correct", "incorrect", "incorrect"]
    assert [r["given_verdict"] for r in found] == ["correct", "incorrect", None]


def test_a_shard_that_cannot_be_read_on_is_named_and_the_others_are_read(tmp_path):
    for i in range(3):
        row = rollout_row(id=str(i), source="s", problem="p", answer="1", response="\\boxed{1}")
        write_rows(tmp_path / "rollouts" / f"{i}.parquet", [row])
    broken = tmp_path / "rollouts" / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    first, lost, last = sources.rollouts(str(tmp_path))
    assert (first["id"], last["id"]) == ("0", "2")
    assert lost.whole_file and lost.where == str(broken)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(sources.rollouts(str(broken)))


def test_last_box():
    assert sources.last_box("\\boxed{1} then \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert sources.last_box("\\boxed{1") is None and sources.last_box("none") is None


def test_real_labels_agree(data_dir):
    """NeMo's 150 labelled rollouts, and R1's traces on multiple-choice questions."""
    nemo = list(sources.jsonl(str(data_dir / "rollouts" / "math_train_nemo_3x50.jsonl"),
                              "question", "gold", "response", correct="is_correct"))  # fmt: skip
    assert len(nemo) == 150
    agree = [verdict(r) == r["given_verdict"] for r in nemo]
    assert sum(agree) == 147  # the other three labels are wrong (docs/VERIFIER.md)
    traces = list(sources.jsonl(
        str(data_dir / "traces" / "pcmb_r1_traces_413.jsonl"), "question", "answer_letter",
        "answer_text", reasoning="reasoning", options="options", domain="subject",
    ))  # fmt: skip
    assert len(traces) == 413
    assert all(verdict(r) == "correct" for r in traces)
    assert all(re.search(r"\\boxed\{[A-J]\}", r["response"]) for r in traces)
