import json

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
