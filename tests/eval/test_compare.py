"""Comparisons through the command line: numbers by hand, published tables, mistakes."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from custom_components.io import write_json, write_jsonl
from custom_components.report.chain_report import build_report, write_report
from eval.compare import compare, holm, published_tables
from eval.logs import Logged
from eval.results import summary
from eval.scoring import problem_metrics


def row(name, verdicts, task="reasoning_math500"):
    samples = [
        {"verdict": v, "reason": "", "prediction": "1", "finish_reason": "stop", "truncated": False, "length": 9,
         "num_tokens": 4, "label": 0 if v == "correct" else 1}
        for v in verdicts
    ]  # fmt: skip
    doc = {"task": task, "id": name, "problem": "?", "answer": "1", "difficulty": None}
    return {**doc, **problem_metrics(samples), "responses": ["\\boxed{1}"] * len(samples)}


def rows(right, total, start=0):
    return [
        row(f"p{i}", ["correct" if i - start < right else "incorrect"])
        for i in range(start, start + total)
    ]


def write(folder, name, problems, version=1):
    provenance = {"tasks": {"reasoning_math500": {"version": version, "repeats": 1}}}
    write_jsonl(folder / f"{name}.samples.jsonl", problems)
    results = {"reasoning_math500": summary(problems)}
    write_json(folder / f"{name}.json",
               {"model": name, "provenance": provenance, "results": results})  # fmt: skip


def run(*args):
    return subprocess.run([sys.executable, "-m", "eval.compare", *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip


def test_a_pair_by_hand(tmp_path):
    """b wins 8 problems and loses 1: the exact two-sided p is 2 (1 + 9) / 2^9."""
    write(tmp_path, "a", rows(21, 40))
    write(tmp_path, "b", rows(29, 40))
    # b is right on 1..29, a on 0..20: b loses p0 and wins 8
    write(tmp_path, "b", [row("p0", ["incorrect"]), *rows(28, 39, start=1)])
    done = run(tmp_path, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md",
               "--list-problems")  # fmt: skip
    assert done.returncode == 0, done.stderr
    [pair] = json.loads((tmp_path / "out.json").read_text())["reasoning_math500"]["pairs"]
    assert (pair["a"], pair["b"], pair["problems"]) == ("a", "b", 40)
    assert (pair["won"], pair["lost"], pair["tied"]) == (8, 1, 31)
    assert pair["difference"] == pytest.approx(7 / 40)
    assert pair["p"] == pytest.approx(20 / 512)
    assert pair["lost_ids"] == ["p0"] and pair["won_ids"] == [f"p{i}" for i in range(21, 29)]
    text = (tmp_path / "out.md").read_text()
    assert "| b - a | 40 | +17.5 [" in text and "| 0.039 | 8 | 1 |" in text
    assert "no significant difference" not in text
    assert "b lost against a: p0" in done.stdout


def test_equals_are_said_to_be(tmp_path):
    for name in "ab":
        write(tmp_path, name, rows(20, 40))
    done = run(f"x={tmp_path}/a.json", f"y={tmp_path}/b.json")
    assert "y - x" in done.stdout and "no significant difference" in done.stdout


def test_several_comparisons_are_adjusted():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    models = [Logged(n, {"t": rows(k, 40)}, {}) for n, k in zip("abcde", (10, 12, 14, 16, 30),
                                                                  strict=True)]  # fmt: skip
    pairs = compare(models)["t"]["pairs"]
    assert [(p["a"], p["b"]) for p in pairs] == [
        ("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("a", "e"),
    ]  # fmt: skip
    assert [p["p_holm"] for p in pairs] == pytest.approx(holm([p["p"] for p in pairs]))
    assert [(p["a"], p["b"]) for p in compare(models, [("b", "e")])["t"]["pairs"]] == [("b", "e")]


def test_what_differs_is_said(tmp_path):
    write(tmp_path, "a", rows(20, 40))
    write(tmp_path, "b", rows(20, 30, start=20), version=2)
    done = run(tmp_path)
    assert "warning: reasoning_math500: a and b differ in version: 1 and 2" in done.stdout
    assert "30 problems only one has" in done.stdout  # 20 of a's, 10 of b's


def test_published_tables():
    ours = {"start": {"reasoning_math500": summary(rows(36, 50))},
            "grpo": {"reasoning_aime24": summary(rows(2, 30))}}  # fmt: skip
    ablation, main = published_tables(ours)
    assert ablation["columns"] == ["", "AIME 2024", "AIME 2024, ours", "MATH-500",
                                   "MATH-500, ours", "GPQA-D"]  # fmt: skip
    assert ablation["rows"][0][3] == "71.8" and ablation["rows"][0][4].startswith("72.0 [")
    assert "outside" not in ablation["rows"][0][4]
    assert ablation["rows"][-1][1] == "57.5" and ablation["rows"][-1][2].endswith(
        ", published outside"
    )
    assert len(main["rows"]) == 11
    assert ["31.8" in r for r in main["rows"]].count(True) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{}/empty"], "holds neither"),
        (["{}", "{}"], "two models are called a; give names"),
        (["x={}"], "holds a, b; name one: x="),
        (["{}", "--pair", "a:c"], "--pair: no model 'c' among a, b"),
        (["{}", "--pair", "ab"], "--pair takes A:B, not 'ab'"),
        (["{}", "--task", "gsm8k"], "nobody has 'gsm8k'; there are reasoning_math500"),
        (["{}/a.json", "{}/other/c.json"], "a and c have no problem in common"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in "ab":
        write(tmp_path, name, rows(20, 40))
    write(tmp_path / "other", "c", rows(1, 2, start=90))
    done = run(*(a.format(tmp_path) for a in args))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_chains_report_shows_the_papers_table(tmp_path):
    stages = [{"name": n, "label": n, "evaluate": True} for n in ("start", "grpo")]
    for name, right in (("start", 30), ("grpo", 38)):
        (tmp_path / "eval" / name).mkdir(parents=True)
        write(tmp_path / "eval" / name, name, rows(right, 40))
    report = build_report(tmp_path, "reasoning_math500", stages)
    assert [t["title"] for t in report["published"]] == [
        "Ablation: published, ours", "Main table: published, ours",
    ]  # fmt: skip
    page = write_report(tmp_path, report, stages).read_text()
    assert "<td>95.0 [83.1, 99.4]</td>" in page and "<td>94.6</td>" in page
    assert report["paired"][0]["won"] == 8
