"""Test evaluation by the real `tune run` and the real `lm_eval`."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TUNE, recipe

from eval.logs import read_logs
from eval.scoring import score

LM_EVAL = str(Path(sys.executable).with_name("lm_eval"))


@pytest.fixture(scope="module")
def overrides(small_run):
    return [
        f"models={{sft: {small_run}/sft/model}}",
        "only=[sft]",
        "limit=24",
        "repeats=2",
        "group=8",
        "engine.batch_size=8",
        "sampling={temperature: 0.6, top_p: 0.95, max_gen_toks: 24}",
    ]


@pytest.fixture(scope="module")
def whole(overrides, tmp_path_factory):
    """Run one uninterrupted evaluation."""
    folder = tmp_path_factory.mktemp("evaluate") / "whole"
    recipe("evaluate", *overrides, f"output_dir={folder}")
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "sft.samples.jsonl").read_text().splitlines()]


def test_what_a_result_says_of_itself(whole, small_run):
    result = json.loads((whole / "sft.json").read_text())
    of_task = result["results"]["reasoning_tiny_addition"]
    assert (of_task["n_problems"], of_task["n_samples"], of_task["repeats"]) == (24, 48, 2)
    assert of_task["pass_at_k"]["1"] == pytest.approx(of_task["accuracy"])
    assert of_task["num_tokens"] > 0
    provenance = result["provenance"]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert provenance["model_sha256"] == manifest["inputs"][f"{small_run}/sft/model"]
    assert provenance["dtype"] == "fp32" and provenance["engine_version"].startswith("torch 2")
    task = provenance["tasks"]["reasoning_tiny_addition"]
    assert task["sampling"] == {"temperature": 0.6, "top_p": 0.95, "max_gen_toks": 24}
    assert 0 < provenance["seconds"]["generation"] < provenance["seconds"]["all"]
    assert not list(whole.glob("*.responses.jsonl"))


def test_a_complete_evaluation_is_left_alone(overrides, whole):
    assert "already complete" in recipe("evaluate", *overrides, f"output_dir={whole}").stdout


def test_repeats_of_a_problem_differ(whole):
    assert any(len(set(row["responses"])) == 2 for row in rows(whole))


def test_killed_and_continued_equals_uninterrupted(overrides, whole, tmp_path):
    command = [
        TUNE,
        "run",
        "recipes/evaluate.py",
        "--config",
        "configs/tiny/evaluate.yaml",
        *overrides,
        f"output_dir={tmp_path}/run",
    ]
    spool = tmp_path / "run" / "sft.responses.jsonl"
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while process.poll() is None and not (spool.is_file() and spool.read_text().count("\n") >= 8):
        pass
    process.kill()
    process.wait()
    kept = spool.read_text()
    assert 8 <= kept.count("\n") < 48
    recipe("evaluate", *overrides, f"output_dir={tmp_path}/run")
    assert rows(tmp_path / "run") == rows(whole)


def test_two_ranks_answer_as_one_does_also_after_a_kill(overrides, whole, tmp_path):
    """Kill two ranks when both have kept replies, and go on with two, and with one."""
    base = [TUNE, "run", "--nproc_per_node", "2", "recipes/evaluate.py"]
    command = [*base, "--config", "configs/tiny/evaluate.yaml", *overrides]
    for ranks, folder in ((2, tmp_path / "two"), (1, tmp_path / "one")):
        process = subprocess.Popen(
            [*command, f"output_dir={folder}"], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        second = folder / "sft.responses.rank_1.jsonl"
        while process.poll() is None and not (second.is_file() and second.read_text()):
            time.sleep(0.01)
        process.kill()
        process.wait()
        launch = ("--nproc_per_node", "2") if ranks == 2 else ()
        recipe("evaluate", *overrides, f"output_dir={folder}", launch=launch)
        assert rows(folder) == rows(whole)
        assert not list(folder.glob("*.responses*"))
        result, expected = (json.loads((f / "sft.json").read_text()) for f in (folder, whole))
        assert result["results"] == expected["results"]


def test_lm_evals_own_command_scores_the_same(small_run, whole, tmp_path):
    """lm_eval runs our task with its hf model; its logs get the same scores again."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "eval.repeats",
            "2",
            "reasoning_tiny_addition",
            "--output",
            f"{tmp_path}/variants",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [
            LM_EVAL,
            "--include_path",
            f"{tmp_path}/variants",
            "--tasks",
            "reasoning_tiny_addition_x2",
            "--apply_chat_template",
            "--model",
            "hf",
            "--model_args",
            f"pretrained={small_run}/sft/model,dtype=float32",
            "--limit",
            "4",
            "--gen_kwargs",
            "max_gen_toks=24",
            "--log_samples",
            "--output_path",
            f"{tmp_path}/out",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|accuracy" in done.stdout and "|samples" in done.stdout
    [file] = (tmp_path / "out").rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(samples) == 4 and all(len(s["resps"][0]) == 2 for s in samples)
    for sample in samples:
        again = score(sample["doc"], [sample["resps"][0]])
        assert again == {key: sample[key] for key in again}
    [model] = read_logs(tmp_path / "out")
    of_file = model.tasks["reasoning_tiny_addition_x2"]
    ours = {row["id"]: row for row in rows(whole)}
    assert [r["problem"] for r in of_file] == [ours[r["id"]]["problem"] for r in of_file]
    rescored = subprocess.run(
        [sys.executable, "-m", "eval.rescore", f"{tmp_path}/out", "--output", f"{tmp_path}/new"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "0 of 8 verdicts changed" in rescored.stdout, rescored.stderr[-2000:]


def test_rescoring_a_run_changes_nothing_and_names_what_is_not_there(whole, tmp_path):
    command = [sys.executable, "-m", "eval.rescore"]
    subprocess.run([*command, str(whole), "--output", str(tmp_path)], cwd=ROOT, check=True)
    assert (tmp_path / "sft.samples.jsonl").read_text() == (whole / "sft.samples.jsonl").read_text()
    old, new = (json.loads((d / "sft.json").read_text())["results"] for d in (whole, tmp_path))
    assert old == new
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "holds neither"), (whole, "is the folder itself")):
        done = subprocess.run(
            [*command, str(folder), "--output", str(whole)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
