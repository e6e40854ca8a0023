"""Check the command line: rows in, verdicts out, in order, atomically."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from custom_components.verifier.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"id": 1, "gold": "5", "response": r"so $\boxed{5}$"},
    {"id": 2, "gold": "5", "response": "the answer is 5"},
    {"id": 3, "gold": r"\frac{1}{2}", "prediction": "0.5"},
    {"id": 4, "gold": 42, "prediction": 41, "nested": {"kept": [1, None, "ü"]}},
    {"id": 5, "gold": "", "response": r"\boxed{5}"},
    {"id": 6, "gold": "C", "response": r"\boxed{\text{B or C}}", "choices": "ABCD"},
    {"id": 7, "gold": "5", "response": r"\boxed{5}", "reasoning_open": True, "truncated": None},
    {"id": 8, "gold": "5", "response": "\ud800 \\boxed{5}"},
]
OUTCOMES = [
    ("correct", "same_text", "5"),
    ("incorrect", "no_answer", None),
    ("correct", "same_number", "0.5"),
    ("incorrect", "not_equal", 41),
    ("undecided", "gold_empty", None),
    ("incorrect", "no_choice", r"\text{B or C}"),
    ("incorrect", "reasoning_open", None),
    ("correct", "same_text", "5"),
]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_module_from_a_shell(tmp_path):
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "new" / "out.jsonl"
    command = [sys.executable, "-m", "custom_components.verifier"]
    command += ["--input", str(source), "--output", str(target), "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = read(target)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    got = [(row["verdict"], row["reason"], row["prediction"]) for row in rows]
    assert got == OUTCOMES
    assert rows[3]["nested"] == ROWS[3]["nested"]
    assert "8 rows" in done.stdout
    assert "correct           3 (37.5 %)" in done.stdout
    assert "gold_empty" in done.stdout
    assert done.stderr == ""
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


def test_options_for_all_rows(tmp_path):
    rows = [
        {"gold": "C", "response": "</think> The answer is (C)."},
        {"gold": "C", "response": "The answer is (C)."},
    ]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    argv = ["--input", str(source), "--output", str(target), "--workers", "1"]
    assert main([*argv, "--allow-fallback", "--choices", "ABCD", "--reasoning-open"]) == 0
    assert [row["reason"] for row in read(target)] == ["same_choice", "reasoning_open"]


@pytest.mark.parametrize(
    "line, named",
    [
        (b'{"response": "x"}', "row 2: key 'gold' is missing"),
        (b'{"gold": "1"}', "row 2: key 'response' (or 'prediction') is missing"),
        (b'{"gold": "1", "response": 3}', "row 2: key 'response' must be a string, not 3"),
        (
            b'{"gold": null, "response": "x"}',
            "row 2: key 'gold' must be a string or a number, not null",
        ),
        (b'{"gold": "1", "prediction": [1]}', "row 2: key 'prediction'"),
        (
            b'{"gold": "1", "response": "x", "truncated": 1}',
            "row 2: key 'truncated' must be true or false, not 1",
        ),
        (b'{"gold": NaN, "response": "x"}', "row 2: key 'gold' is nan, not a number"),
        (b"[1, 2]", "row 2: not a JSON object"),
        (b'{"gold": ', "row 2: not JSON"),
        (b'{"gold": "\xff", "response": "x"}', "row 2: not UTF-8"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path, capsys, line, named):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"gold": "1", "response": "x"}\n' + line + b"\n")
    assert main(["--input", str(source), "--output", str(target)]) == 2
    err = capsys.readouterr().err
    assert f"{source}: {named}" in err
    assert "1 bad rows" in err
    assert not target.exists()


def test_a_byte_order_mark_is_read_and_an_array_named(tmp_path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"gold": "1", "prediction": "1"}\r\n')
    assert main(["--input", str(source), "--output", str(target)]) == 0
    assert [row["verdict"] for row in read(target)] == ["correct"]
    source.write_bytes(b'[\n  {"gold": "1", "prediction": "1"}\n]')
    assert main(["--input", str(source), "--output", str(target)]) == 2
    assert f"{source}: row 1: a JSON array" in capsys.readouterr().err


def test_bad_rows_are_counted(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [{"gold": "1"}] * 50)
    assert main(["--input", str(source), "--output", str(tmp_path / "out.jsonl")]) == 2
    err = capsys.readouterr().err
    assert "50 bad rows" in err
    assert len(err.splitlines()) == 21


def test_a_missing_file_is_named(tmp_path, capsys):
    argv = ["--input", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(argv) == 2
    assert (
        capsys.readouterr().err.strip() == f"{tmp_path / 'none.jsonl'}: No such file or directory"
    )


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS[:1])
    (tmp_path / "file").touch()
    assert main(["--input", str(source), "--output", str(tmp_path / "file" / "out.jsonl")]) == 2
    assert str(tmp_path / "file" / "out.jsonl") in capsys.readouterr().err


def test_a_folder_is_not_replaced_by_the_output(tmp_path, capsys):
    source, target = write(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "folder"
    (target / "kept").mkdir(parents=True)
    assert main(["--input", str(source), "--output", str(target)]) == 2
    assert f"{target}: is a folder" in capsys.readouterr().err
    assert (target / "kept").is_dir()


def test_an_empty_file(tmp_path, capsys):
    source, target = write(tmp_path / "in.jsonl", []), tmp_path / "out.jsonl"
    assert main(["--input", str(source), "--output", str(target)]) == 0
    assert target.read_text() == ""
    assert "0 rows" in capsys.readouterr().out


def test_an_old_output_survives_a_failure(tmp_path):
    source, target = write(tmp_path / "in.jsonl", [{"gold": "1"}]), tmp_path / "out.jsonl"
    target.write_text("old")
    assert main(["--input", str(source), "--output", str(target)]) == 2
    assert target.read_text() == "old"
