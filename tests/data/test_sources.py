"""Test the sources with small rows in their public columns, and verify every response."""

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
    "problem": "What is 2+2?",
    "solution": "Add.",
    "answer": "4",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "u-1",
    "is_reasoning_complete": [True, True, False],
    "generations": [
        "<think>\nadd\n</think>\n\n\\boxed{4}",
        "<think>\nadd\n</think>\n\n\\boxed{5}",
        "<think>\nadd and",
    ],
    "correctness_math_verify": [True, False, False],
    "correctness_llama": None,
    "finish_reasons": None,
    "correctness_count": 1,
    "messages": [{"role": "user", "content": "What is 2+2?"}],
}


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


def test_openr1_is_correct_where_either_judge_said_so(tmp_path):
    row = OPENR1 | {
        "correctness_math_verify": [False, True, False],
        "correctness_llama": [True, False, False],
        "finish_reasons": ["stop", "stop", "length"],
        "is_reasoning_complete": None,
    }
    rows = list(sources.openr1_math(write(tmp_path / "o.jsonl", row)))
    assert [r["given_verdict"] for r in rows] == ["correct", "correct", "incorrect"]
    assert [r["finish_reason"] for r in rows] == ["stop", "stop", "length"]
    unlabelled = row | {"correctness_math_verify": [None] * 3, "correctness_llama": []}
    rows = list(sources.openr1_math(write(tmp_path / "n.jsonl", unlabelled)))
    assert [r["given_verdict"] for r in rows] == [None] * 3


def test_openr1_bad_rows_are_named(tmp_path):
    text = OPENR1["generations"][0]
    path = write(
        tmp_path / "p.jsonl",
        OPENR1 | {"correctness_math_verify": [True]},
        OPENR1 | {"generations": []},
        OPENR1 | {"generations": [text, None, "<think>add"]},
        OPENR1
        | {
            "answer": None,
            "generations": [text],
            "correctness_math_verify": [True],
            "is_reasoning_complete": [True],
        },
    )
    short, none, good, empty, unfinished, no_answer = sources.openr1_math(path)
    assert short.reason == "correctness_math_verify has 1 entries for 3 generations"
    assert none.reason == "no generations"
    assert good["response"] == text and unfinished["response"] == "<think>\nadd"
    assert empty.reason == "column 'response' is missing or empty"
    assert empty.where.endswith("line 3, response 1")
    assert no_answer.reason == "column 'answer' is missing or empty"


def test_openthoughts_keeps_the_mathematics(tmp_path, capsys):
    math = {
        "problem": "What is 2+2?",
        "deepseek_reasoning": "add",
        "deepseek_solution": "It is \\boxed{4}.",
        "ground_truth_solution": "2+2=\\boxed{\\frac{8}{2}}",
        "domain": "math",
        "source": "numina",
        "test_cases": None,
        "starter_code": None,
    }
    rows = list(
        sources.openthoughts(
            write(
                tmp_path / "t.jsonl",
                math,
                math | {"domain": "code"},
                math | {"ground_truth_solution": "4"},
            )
        )
    )
    assert len(rows) == 2
    assert rows[0]["response"] == "<think>\nadd\n</think>\n\nIt is \\boxed{4}."
    assert rows[0]["answer"] == "\\frac{8}{2}" and verdict(rows[0]) == "correct"
    assert rows[1].reason == "ground_truth_solution holds no \\boxed answer"
    assert capsys.readouterr().out == "skipped 1 rows: code, not math (openthoughts)\n"


def test_stratos_is_taken_at_its_makers_word_only_when_asked(tmp_path, capsys):
    def talk(said):
        return {
            "system": "Your role ...",
            "conversations": [
                {
                    "from": "user",
                    "value": "Return your final response within \\boxed{}. What is 2+2?",
                },
                {"from": "assistant", "value": said},
            ],
        }

    said = (
        "<|begin_of_thought|>\n\nadd\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\nIt is \\boxed{4}.\n\n<|end_of_solution|>"
    )
    code = said.replace("\\boxed{4}", "a program")
    alone = {"system": "", "conversations": talk(said)["conversations"][:1]}
    path = write(tmp_path / "s.jsonl", talk(said), talk(code), talk("no marks"), alone)
    row, bad, unanswered = sources.bespoke_stratos(path, trust=True)
    assert "skipped 1 rows: no box" in capsys.readouterr().out
    assert unanswered.reason == "the conversation has no answer"
    assert (row["problem"], row["given_verdict"]) == ("What is 2+2?", "correct")
    assert row["response"] == "<think>\nadd\n</think>\n\nIt is \\boxed{4}."
    assert verdict(row) == "correct" and isinstance(bad, Reject)
    refused, *_ = sources.bespoke_stratos(path)
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
        row | {"said": "I think A or B.", "right": None},
    )
    found = list(
        sources.jsonl(path, "q", "a", "said", reasoning="why", options="options", correct="right")
    )
    assert found[0]["problem"] == "Which is even?\n\nA. 3\nB. 4"
    assert found[0]["response"].endswith("The answer is \\boxed{B}.")
    assert [verdict(r) for r in found] == ["correct", "incorrect", "incorrect"]
    assert [r["given_verdict"] for r in found] == ["correct", "incorrect", None]


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("So 4.\n\nThe answer is (B).", "So 4.\n\nThe answer is \\boxed{B}."),
        (
            "Four is even. Thus, the correct option is: B",
            "Four is even. Thus, the correct option is: \\boxed{B}.",
        ),
        ("The answer is B.\n\nThe answer is (B)", "The answer is B.\n\nThe answer is \\boxed{B}."),
        ("I doubt that the answer is (B).", None),  # not a sentence of its own
        ("The answer is A. No. The answer is B.", None),
        ("The answer is (D).", None),  # there is no D
        ("The answer is a.", None),
        ("\\boxed{A} fits. The answer is B.", None),
        ("The answer is B, or is it?", None),
    ],
)
def test_a_letter_is_boxed_only_where_it_is_plainly_stated(text, boxed):
    assert sources.box_letter(text, ["A", "B", "C"]) == (boxed or text)


def test_ids_and_labels_come_from_columns(tmp_path):
    row = {
        "problem": "1+1?",
        "answer": 2,
        "response": "\\boxed{2}",
        "unit": "u",
        "try": 0,
        "level": 3,
        "subject": "Algebra",
    }
    path = write(tmp_path / "x.jsonl", row, row | {"unit": None}, row | {"answer": None})
    first, second, bad = sources.jsonl(
        path, id=["unit", "try"], domain="subject", difficulty="level"
    )
    assert (first["id"], second["id"]) == ("u-0", "jsonl-1")
    assert (first["domain"], first["difficulty"], first["answer"]) == ("Algebra", "3", "2")
    assert bad.reason == "column 'answer' is missing or empty"


def test_rows_that_parquet_cannot_hold_are_rejects(tmp_path):
    good = {"problem": "1+1?", "answer": "2", "response": "\\boxed{2}"}
    bad = [{"response": "\ud800"}, {"num_tokens": "12"}, {"response": 2}, {"finish_reason": "?"}]
    found = list(
        sources.jsonl(write(tmp_path / "x.jsonl", good, *[good | change for change in bad]))
    )
    assert [isinstance(r, Reject) for r in found] == [False, True, True, True, True]
    write_rows(tmp_path / "x.parquet", found[:1])


def test_a_response_gets_back_the_thought_that_its_prompt_opened(tmp_path):
    texts = ["a</think>\\boxed{2}", "<think>a</think>b", "\\boxed{2}", "So \\boxed{2}? Wait,"]
    rows = [{"problem": "1+1?", "answer": "2", "response": text} for text in texts]
    path = write(tmp_path / "x.jsonl", *rows)
    assert [r["response"] for r in sources.jsonl(path)] == [f"<think>\n{texts[0]}", *texts[1:]]
    opened = [r["response"] for r in sources.jsonl(path, reasoning_open=True)]
    assert opened == [t if t.startswith("<think>") else f"<think>\n{t}" for t in texts]
    stored = [rollout_row(**row, id=str(i), source="s") for i, row in enumerate(rows)]
    write_rows(tmp_path / "x.parquet", stored)
    again = sources.rollouts(str(tmp_path / "x.parquet"), reasoning_open=True)
    assert [r["response"] for r in again] == opened
    [empty] = sources.jsonl(
        write(tmp_path / "y.jsonl", rows[0] | {"response": " "}), reasoning_open=True
    )
    assert isinstance(empty, Reject)


def shards(folder, count=3):
    for i in range(count):
        row = rollout_row(id=str(i), source="s", problem="p", answer="1", response="\\boxed{1}")
        write_rows(folder / f"{i}.parquet", [row])
    broken = folder / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    return broken


def test_a_shard_that_cannot_be_read_on_is_named_and_the_others_are_read(tmp_path):
    broken = shards(tmp_path / "rollouts")
    first, lost, last = sources.rollouts(str(tmp_path))
    assert (first["id"], last["id"]) == ("0", "2")
    assert lost.whole_file and lost.where == str(broken)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(sources.rollouts(str(broken)))


def test_a_folder_of_files_is_one_source(tmp_path):
    broken = shards(tmp_path)
    (tmp_path / "3.jsonl").write_text(
        json.dumps({"id": "3", "problem": "p", "answer": "1", "response": "r"})
        + '\n{"id": "4", "pro'
    )
    first, lost, second, third, cut = sources.jsonl(str(tmp_path))
    assert [r["id"] for r in (first, second, third)] == ["0", "2", "3"]
    assert lost.whole_file and lost.where == str(broken)
    assert not cut.whole_file and cut.where == f"{tmp_path / '3.jsonl'}, line 2"
    for name in ("0", "2"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    (tmp_path / "3.jsonl").write_text("")
    with pytest.raises(
        UserError, match=r"0\.parquet cannot be read .*3 other files cannot be read"
    ):
        list(sources.jsonl(str(tmp_path)))


def test_files_named_after_a_split_are_taken_apart(tmp_path):
    row = {"problem": "p", "answer": "1", "response": "r"}
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / f"{name}.jsonl", row | {"id": name})
    for split in ("train", "test"):
        [found] = sources.jsonl(str(tmp_path), split=split)
        assert found["id"].startswith(split)


def test_a_file_damaged_in_its_middle_keeps_the_rows_before(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [
        {"id": str(i), "problem": "p", "answer": "1", "response": f"{i} " * 500}
        for i in range(4000)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000, compression="zstd")
    data = bytearray(path.read_bytes())
    at = pq.read_metadata(path).row_group(2).column(3).data_page_offset
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    *good, lost = sources.jsonl(str(path))
    assert [r["id"] for r in good] == [str(i) for i in range(len(good))] and 0 < len(good) < 4000
    assert lost.whole_file and lost.where == str(path)


def test_last_box():
    assert sources.last_box("\\boxed{1}, so \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert sources.last_box("\\boxed{1") is None and sources.last_box("none") is None


def test_real_labels_agree(data_dir):
    """Check NeMo's 150 labelled rollouts, and R1's traces on multiple-choice questions."""
    nemo = list(
        sources.jsonl(
            str(data_dir / "rollouts" / "math_train_nemo_3x50.jsonl"),
            "question",
            "gold",
            "response",
            correct="is_correct",
            id=["problem_id", "rollout"],
        )
    )
    assert len({r["id"] for r in nemo}) == 150
    agree = [verdict(r) == r["given_verdict"] for r in nemo]
    assert sum(agree) == 147  # the other three labels are wrong (docs/VERIFIER.md)
    traces = list(
        sources.jsonl(
            str(data_dir / "traces" / "pcmb_r1_traces_413.jsonl"),
            "question",
            "answer_letter",
            "answer_text",
            reasoning="reasoning",
            options="options",
            domain="subject",
        )
    )
    assert len(traces) == 413
    assert all(verdict(r) == "correct" for r in traces)
    assert all(re.search(r"\\boxed\{[A-J]\}", r["response"]) for r in traces)
