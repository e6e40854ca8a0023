import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from custom_components.config import UserError
from custom_components.data import problems, rows, sources
from custom_components.data.rows import Reject
from custom_components.verifier import verify


def write(path, *lines):
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_gsm8k_becomes_reasoning_and_a_box(tmp_path):
    path = write(
        tmp_path / "g.jsonl",
        {"question": "q", "answer": "He has 48/2 = <<48/2=24>>24.\n#### 1,024"},
        {"question": "q", "answer": "no mark"},
        {"question": "q"},
        "not json",
    )
    good, *bad = list(sources.gsm8k(path))
    assert good["response"] == (
        "<think>\nHe has 48/2 = 24.\n</think>\n\nThe answer is \\boxed{1024}."
    )
    assert good["answer"] == "1024"
    assert [b.reason for b in bad] == [
        "answer has no '####' line",
        "column 'answer' is missing",
        "not a JSON object",
    ]
    assert bad[0].where.endswith("line 2")


def test_short_cot_is_normalised(tmp_path):
    prompt = "A conversation...\n\nUser: What is 2+2?\nAssistant: <think>"
    path = write(
        tmp_path / "s.jsonl",
        {"prompt": prompt, "response": " add </think> <answer> 4 </answer>", "ground_truth": "4"},
        {"prompt": prompt, "response": " and so on", "ground_truth": "4"},
        {"prompt": "What is 2+2?", "response": "", "ground_truth": "4"},
    )
    good, cut, bad = list(sources.short_cot(path))
    assert good["problem"] == "What is 2+2?"
    assert good["response"] == "<think>\nadd\n</think>\n\nThe answer is \\boxed{4}."
    assert (cut["finish_reason"], cut["response"]) == ("length", "<think> and so on")
    assert isinstance(bad, Reject)


def test_rows_by_a_column_map(tmp_path):
    path = write(
        tmp_path / "x.jsonl", {"q": "1+1", "a": 2, "r": "\\boxed{2}"}, {"q": "1+1", "a": 2}
    )
    good, bad = list(sources.jsonl(path, problem="q", answer="a", response="r"))
    assert (good["problem"], good["answer"], good["response"]) == ("1+1", "2", "\\boxed{2}")
    assert bad.reason == "column 'r' is missing"


def test_problems_from_a_table(tmp_path):
    path = write(tmp_path / "p.jsonl", {"problem": "a", "answer": 1}, {"problem": "b"}, {})
    good, *bad = list(problems.table(path))
    assert good["answer"] == "1"
    assert [b.reason for b in bad] == [
        "column 'answer' is missing or empty",
        "column 'problem' is missing or empty",
    ]


def test_missing_empty_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl does not exist"):
        list(sources.jsonl(str(tmp_path / "no.jsonl")))
    with pytest.raises(UserError, match=r"empty\.jsonl is empty"):
        list(sources.jsonl(write(tmp_path / "empty.jsonl")))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"bad\.parquet cannot be read as Parquet"):
        list(sources.jsonl(str(tmp_path / "bad.parquet")))
    with pytest.raises(UserError, match="run recipes/rollout.py first"):
        list(sources.rollouts(str(tmp_path)))


def test_parquet_round_trip(tmp_path):
    row = rows.rollout_row(id="1", source="s", problem="p", answer="a", response="r")
    rows.write_rows(tmp_path / "rollouts" / "00000.parquet", [row])
    assert list(sources.rollouts(str(tmp_path))) == [row]


def test_real_traces_verify(data_dir):
    path = str(data_dir / "traces" / "cs336_math_short_cot_1767.jsonl")
    kept = [r for r in sources.short_cot(path) if not isinstance(r, Reject)]
    assert len(kept) > 1700
    verdicts = [
        verify(r["answer"], r["response"], truncated=r["finish_reason"] == "length").verdict
        for r in kept[:200]
    ]
    assert verdicts.count("correct") > 180


def test_real_gsm8k_solutions_verify(data_dir):
    kept = list(sources.gsm8k(str(data_dir / "gsm8k" / "train.jsonl")))
    assert not [r for r in kept if isinstance(r, Reject)]
    assert all(verify(r["answer"], r["response"]).verdict == "correct" for r in kept[:200])


def test_reasoning_in_a_column_of_its_own_goes_before_the_response(tmp_path):
    path = write(
        tmp_path / "s.jsonl",
        {"q": "1+1?", "a": "2", "thought": " one and one ", "said": "It is \\boxed{2}."},
        {"q": "1+1?", "a": "2", "said": "2"},
        {"q": "1+1?", "a": "2", "thought": None, "said": "2"},
    )
    good, missing, empty = sources.jsonl(
        path, problem="q", answer="a", response="said", reasoning="thought"
    )
    assert good["response"] == "<think>\none and one\n</think>\n\nIt is \\boxed{2}."
    assert missing.reason == "column 'thought' is missing"
    assert isinstance(empty, Reject)


def reasons(rows):
    return [r.reason if isinstance(r, Reject) else r["answer"] for r in rows]


def test_answers_of_every_type_are_read_or_named(tmp_path):
    values = [0, 0.0, 33.300000000000004, " 7 ", False, float("nan"), float("inf"), None, "", [15]]
    values += [{"ground_truth": "15"}, [], {}, [[{"value": "3"}]]]
    path = write(tmp_path / "p.jsonl", *({"problem": "a", "answer": v} for v in values))
    not_finite = "column 'answer' is NaN or infinite"
    empty = "column 'answer' is missing or empty"
    expected = [
        "0",
        "0.0",
        "33.300000000000004",
        "7",
        "column 'answer' is true or false, not text or a number",
        not_finite,
        not_finite,
        empty,
        empty,
        "column 'answer' is a list; name the text in it: answer.0",
        "column 'answer' is an object; name the text in it: answer.ground_truth",
        "column 'answer' is a list; name the text in it: answer",
        "column 'answer' is an object; name the text in it: answer",
        "column 'answer' is a list; name the text in it: answer.0.0.value",
    ]
    assert reasons(problems.table(path)) == expected
    traces = [{"problem": "a", "answer": v, "response": "\\boxed{1}"} for v in values]
    assert reasons(sources.jsonl(write(tmp_path / "t.jsonl", *traces))) == expected


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_nested_columns_are_named_by_their_path(tmp_path, kind):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"}]
    row = {"prompt": chat, "reward_model": {"ground_truth": "2", "style": "rule"}, "r": "no"}
    path = str(tmp_path / f"p.{kind}")
    if kind == "jsonl":
        write(tmp_path / "p.jsonl", row)
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    [bad] = problems.table(path, "prompt", "reward_model.ground_truth")
    assert bad.reason == "column 'prompt' is a list; name the text in it: prompt.1.content"
    [good] = problems.table(path, "prompt.1.content", "reward_model.ground_truth")
    assert (good["problem"], good["answer"]) == ("1+1?", "2")
    [trace] = sources.jsonl(path, "prompt.1.content", "reward_model.ground_truth", "r")
    assert (trace["problem"], trace["answer"]) == ("1+1?", "2")
    [missing] = problems.table(path, "prompt.7.content", "reward_model.ground_truth")
    assert missing.reason == "column 'prompt.7.content' is missing or empty"


def test_a_difficulty_of_zero_is_a_label_and_nan_is_none(tmp_path):
    row = {"problem": "a", "answer": "1", "response": "r", "domain": float("nan"), "difficulty": 0}
    path = write(tmp_path / "p.jsonl", row)
    [problem] = problems.table(path, domain="domain", difficulty="difficulty")
    [trace] = sources.jsonl(path)
    for got in (problem, trace):
        assert (got["domain"], got["difficulty"]) == (None, "0")


def test_null_and_repeated_ids(tmp_path, capsys):
    names = [None, "a", "a", float("nan"), 7, "7", "a-2"]
    path = write(tmp_path / "p.jsonl", *({"problem": "p", "answer": "1", "id": n} for n in names))
    ids = [row["id"] for row in problems.table(path)]
    assert ids == ["problems-0", "a", "a-2", "problems-3", "7", "7-5", "a-2-6"]
    assert "3 rows repeat an earlier id" in capsys.readouterr().out
    # The ids of a part of the file are those of the whole.
    assert [row["id"] for row in problems.table(path, offset=2, limit=3)] == ids[2:5]


ROWS = [{"problem": f"p{i}\u00e9", "answer": str(i), "response": "r"} for i in range(3)]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff\n " + json.dumps(ROWS, ensure_ascii=False),
    ],
    ids=["byte order mark", "array", "array with a mark"],
)
def test_other_forms_of_json_are_read(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_bytes(content.encode())
    for rows_read in (problems.table(str(path)), sources.jsonl(str(path))):
        read = [(row["problem"], row["answer"]) for row in rows_read]
        assert read == [(row["problem"], row["answer"]) for row in ROWS]


def test_what_is_not_utf8_or_an_object_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes("\n".join([*lines, "[1]", "{"]).encode("latin-1"))
    bad = list(problems.table(str(path)))
    assert [r.reason for r in bad] == [rows.NOT_UTF8] * 3 + [rows.NOT_AN_OBJECT] * 2
    assert bad[1].where.endswith("line 2")
    (tmp_path / "a.json").write_text(json.dumps([ROWS[0], 3]))
    good, other = problems.table(str(tmp_path / "a.json"))
    assert good["answer"] == "0"
    assert (other.where, other.reason) == (f"{tmp_path / 'a.json'}, row 2", rows.NOT_AN_OBJECT)


def test_labels_in_words_and_numbers(tmp_path):
    given = [True, "True", "yes", 1, "correct", False, "no", 0.0, "FALSE", None, "", "maybe", 0.5]
    traces = [{"problem": "p", "answer": "1", "response": "r", "ok": label} for label in given]
    path = write(tmp_path / "t.jsonl", *traces)
    *labelled, maybe, half = sources.jsonl(path, correct="ok")
    verdicts = [row["given_verdict"] for row in labelled]
    assert verdicts == ["correct"] * 5 + ["incorrect"] * 4 + [None] * 2
    assert maybe.reason == "column 'ok' is 'maybe', not true or false"
    assert half.reason == "column 'ok' is '0.5', not true or false"
