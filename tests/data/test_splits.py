"""Test columns, selection and parts of verified rollouts against results row by row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from custom_components.config import UserError
from custom_components.data.curation import length_statistics, pass_rate
from custom_components.data.labels import difficulty_of, guess_domain
from custom_components.data.rows import read_rows, rollout_row
from custom_components.data.splits import (
    STATISTICS,
    Selection,
    SplitsConfig,
    join_parts,
    select,
    statistics_of,
    write_parts,
)
from custom_components.data.verified import VERIFIED_SCHEMA, Records, problem_key, rows_at, text_key
from custom_components.data.yields import yield_table


def verified(problem, verdict, response, **more):
    row = rollout_row(
        id=f"{problem}/{response}", source="s", problem=problem, answer="1", response=response
    )
    return (
        row
        | {
            "domain": "algebra",
            "verdict": verdict,
            "length": len(response),
            "repetitive": False,
            "problem_key": problem_key(problem),
            "response_key": text_key(response),
        }
        | more
    )


ROWS = [
    verified("Two", "correct", "aaaa"),
    verified("one", "incorrect", "b"),
    verified("two ", "incorrect", "cc"),
    verified("Two", "correct", "aaaa"),
    verified("three", "correct", "dddddd", source="t", difficulty="hard"),
    verified("one", "correct", "eee", finish_reason="length"),
    verified("one", "correct", "ffffffff"),
    verified("two", "undecided", "g"),
    verified("one", "incorrect", "hh"),
]


@pytest.fixture
def folder(tmp_path):
    """Write the rows in chunks of four, so that a problem's rollouts are in several."""
    for i in range(0, len(ROWS), 4):
        table = pa.Table.from_pylist(ROWS[i : i + 4], VERIFIED_SCHEMA)
        pq.write_table(table, tmp_path / f"{i // 4:05d}.parquet")
    return tmp_path


def test_records_group_rollouts_by_problem_across_chunks(folder):
    records = Records(folder)
    assert {p: [r.row for r in group] for p, group in records.items()} == {
        0: [0, 2, 3, 7],
        1: [1, 5, 6, 8],
        2: [4],
    }
    assert records.pass_rates().tolist() == [0.5, 0.5, 1.0]
    assert records[2][0].source == "t" and records[2][0].difficulty == "hard"
    assert records[0][0].difficulty == ""
    assert not records.in_tokens
    for problem, group in records.items():
        by_hand = {"pass_rate": pass_rate(group), "samples": len(group)}
        by_hand |= length_statistics([r.length for r in group])
        row = dict(zip(STATISTICS, statistics_of(records)[problem].tolist(), strict=True))
        assert row == pytest.approx(by_hand)
    assert [i for i, _ in rows_at(folder, [8, 0, 5, 5])] == [0, 5, 8]


def everything(folder, tmp_path, splits=None, kept=(True, True, True), ranks=1):
    records = Records(folder, (splits or SplitsConfig()).max_length)
    select(records, np.array(kept), splits or SplitsConfig(), seed=0).save(tmp_path / "selection")
    selection = Selection.open(tmp_path / "selection")
    for rank in range(ranks):
        list(write_parts(folder, tmp_path / "parts", selection, rank, ranks))
    found = {}
    for name in ("midtrain", "sft", "pairs", "prompts"):
        join_parts(tmp_path / "parts", name, tmp_path / f"{name}.parquet")
        found[name] = list(read_rows(tmp_path / f"{name}.parquet"))
    return records, selection, found


def test_the_splits(folder, tmp_path):
    splits = SplitsConfig(pairs_max_length_ratio=8.0)
    records, selection, found = everything(folder, tmp_path, splits)
    said = {
        name: [r["messages"][1]["content"] for r in found[name]] for name in ("midtrain", "sft")
    }
    # Exact repeats and cut-off responses are left out; rows keep the order of the input.
    assert said["midtrain"] == ["aaaa", "dddddd", "ffffffff"]
    assert said["sft"] == ["aaaa", "dddddd", "ffffffff"]
    pairs = [(p["chosen"], p["rejected"]) for p in found["pairs"]]
    assert sorted(pairs) == [("aaaa", "cc"), ("ffffffff", "b"), ("ffffffff", "hh")]
    assert [p["problem"] for p in found["prompts"]] == ["Two", "one", "three"]
    assert [p["difficulty"] for p in found["prompts"]] == ["medium", "medium", "hard"]
    assert found["prompts"][0]["samples"] == 4
    table = {
        row["name"]: row
        for row in yield_table(records, np.ones(3, bool), np.array([], int), selection)
    }
    assert table["rollouts"] == {"name": "rollouts", "rollouts": 9, "problems": 3, "length": 31}
    assert table["correct, cut off"]["rollouts"] == 1
    assert table["pairs"] == {"name": "pairs", "rollouts": 3, "problems": 2, "length": 25}


def test_two_ranks_write_the_same_splits(folder, tmp_path):
    one = everything(folder, tmp_path / "one")[2]
    assert everything(folder, tmp_path / "two", ranks=2)[2] == one


def test_what_is_taken_out_is_in_no_split(folder, tmp_path):
    found = everything(folder, tmp_path, kept=(True, False, True))[2]
    assert all("one" not in str(row) for rows in found.values() for row in rows)
    assert len(found["prompts"]) == 2


def test_rules_for_length_and_difficulty(folder, tmp_path):
    short = everything(folder, tmp_path / "a", SplitsConfig(max_length=5))[2]
    assert [r["messages"][1]["content"] for r in short["midtrain"]] == ["aaaa"]
    hard = SplitsConfig(pairs_difficulties=["hard", "unsolved"], pairs_max_length_ratio=8.0)
    assert everything(folder, tmp_path / "b", hard)[2]["pairs"] == []
    rare = SplitsConfig(pairs_max_pass_rate=0.4, pairs_max_length_ratio=8.0)
    assert everything(folder, tmp_path / "c", rare)[2]["pairs"] == []
    with pytest.raises(UserError, match=r"no rows of source \['x'\]; there are \['s', 't'\]"):
        everything(folder, tmp_path / "d", SplitsConfig(sft_sources=["x"]))


def test_labels_by_heuristic():
    assert guess_domain("Find the area of a triangle with sides 3, 4, 5.") == "geometry"
    assert guess_domain("What is the remainder when 7^100 is divided by 5?") == "number theory"
    assert guess_domain("What is 2+2?") == "arithmetic"
    assert [difficulty_of(x) for x in (1.0, 0.75, 0.5, 0.1, 0.0)] == [
        "easy",
        "easy",
        "medium",
        "hard",
        "unsolved",
    ]
