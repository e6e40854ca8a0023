"""Every recipe through the real `tune run`, on the tiny track cut down to seconds."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, SMALL, SMALL_GRPO, TUNE, kill_in_step, recipe, reopen
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM, AutoTokenizer

from custom_components.data.column_addition import PROBLEM
from custom_components.data.rows import read_rows


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def test_every_stage_left_a_complete_run_folder(small_run):
    for name in SMALL:
        found = manifest(small_run / name)
        assert found["status"] == "complete"
        assert found["recipe"] == name
        for output in found["outputs"]:
            assert (small_run / name / output).is_file()


@pytest.mark.parametrize("name", ["midtrain", "sft", "dpo"])
def test_every_update_has_a_learning_rate(small_run, name):
    """The first one of a run, and the last."""
    rows = [json.loads(x) for x in (small_run / name / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows]
    assert len(rates) == 4 and all(rates)
    assert rates[0] == max(rates)  # A tenth of four steps is less than one.


def test_rollouts_have_the_teachers_mistakes_and_curation_sorts_them(small_run):
    rows = list(read_rows(small_run / "curate" / "verified"))
    assert len(rows) == 4 * 130
    for row in rows:
        a, b = map(int, PROBLEM.search(row["problem"]).groups())
        right = row["response"].endswith("\\boxed{" + str(a + b) + "}")
        assert (row["verdict"] == "correct") == (right and row["finish_reason"] == "stop")
    counts = manifest(small_run / "curate")["counts"]
    assert counts["incorrect"] > 20
    assert counts["correct"] + counts["incorrect"] + counts["undecided"] == counts["rollouts"]


def test_splits_share_no_problem(small_run):
    problems = {
        name: {
            r["messages"][0]["content"] for r in read_rows(small_run / "curate" / f"{name}.parquet")
        }
        for name in ("midtrain", "sft")
    }
    assert problems["midtrain"] and len(problems["sft"]) == 40
    assert not problems["midtrain"] & problems["sft"]


def test_the_model_is_an_ordinary_hugging_face_folder(small_run):
    folder = small_run / "sft" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+2=?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    out = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids.shape[1]
    assert model.generation_config.eos_token_id == [0, 2]
    assert (folder / "README.md").read_text().startswith("---")


def test_a_complete_run_is_left_alone_and_a_different_one_refused(small_run):
    before = (small_run / "sft" / "manifest.json").stat().st_mtime_ns
    done = recipe("sft", f"run_dir={small_run}", *SMALL["sft"])
    assert "already complete" in done.stdout
    assert (small_run / "sft" / "manifest.json").stat().st_mtime_ns == before
    refused = recipe("sft", f"run_dir={small_run}", "max_steps=5", "batch_size=8", check=False)
    assert refused.returncode == 2
    assert "holds another run (differs in: max_steps" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "name", ["midtrain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "dpo"))]
)
def test_killed_and_continued_equals_uninterrupted(small_run, tmp_path, name):
    run_killed_and_whole(name, small_run, tmp_path, ())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    a, b = (load_file(tmp_path / d / "model" / "model.safetensors") for d in ("run", "whole"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_split_is_prepared_without_training(small_run, tmp_path):
    """Prepare packs as a job without GPUs does; the run then takes them as they are."""
    overrides = [f"run_dir={small_run}", f"output_dir={tmp_path}/x", *SMALL["midtrain"]]
    recipe("midtrain", *overrides, "prepare_only=true")
    packs = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "x" / "packs").rglob("*.arrow")}
    assert packs and manifest(tmp_path / "x")["status"] == "running"
    assert not (tmp_path / "x" / "metrics.jsonl").exists()
    recipe("midtrain", *overrides)
    assert {
        p.name: p.stat().st_mtime_ns for p in (tmp_path / "x" / "packs").rglob("*.arrow")
    } == packs
    assert manifest(tmp_path / "x")["counts"]["steps"] == 4


@pytest.mark.parametrize("name", ["midtrain", pytest.param("dpo", marks=pytest.mark.slow)])
def test_two_ranks_killed_and_continued(small_run, tmp_path, name):
    """A rank dies at any moment, and takes the other with it."""
    run_killed_and_whole(name, small_run, tmp_path, ("--nproc_per_node", "2"))
    a, b = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert a.keys() == b.keys() and max(abs(a[s] - b[s]) for s in b) < 1e-6


def run_killed_and_whole(name, small_run, folder, launch):
    """Twelve steps at one go in <folder>/whole, and with a SIGKILL in between in <folder>/run."""
    more = [*SMALL[name], "max_steps=12"]
    recipe(name, f"run_dir={small_run}", f"output_dir={folder / 'whole'}", *more, launch=launch)
    steps = [f"run_dir={small_run}", f"output_dir={folder / 'run'}", *more]
    command = [TUNE, "run", *launch, f"recipes/{name}.py", "--config", f"configs/tiny/{name}.yaml"]
    kill_in_step(
        [*command, *steps],
        folder / "run" / "metrics.jsonl",
        random.randint(3, 9),
        rank=bool(launch),
    )
    assert manifest(folder / "run")["status"] == "running"
    done = recipe(name, *steps, launch=launch)
    assert "continuing from step" in done.stdout


def test_midtraining_ends_when_the_validation_loss_saturates(small_run, tmp_path):
    """A fall must exceed min_delta: only the first does, so the third validation ends the run."""
    recipe(
        "midtrain",
        f"run_dir={small_run}",
        f"output_dir={tmp_path}",
        *SMALL["midtrain"],
        "max_steps=12",
        "async_checkpoints=true",
        "validation={share: 0.2, every: 2, patience: 2, min_delta: 9.0}",
    )
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert ["val_loss" in r for r in rows] == [False, True] * 3
    assert all(r["val_loss"] == pytest.approx(r["val_loss_arithmetic"]) for r in rows[1::2])
    counts = manifest(tmp_path)["counts"]
    assert counts["best_step"] == 2 and counts["best"] == rows[1]["val_loss"]
    # what is exported is the model of step 2
    dcp_to_torch_save(tmp_path / "checkpoints" / "step_2", tmp_path / "step_2.pt")
    kept = torch.load(tmp_path / "step_2.pt", weights_only=True)["model"]["tok_embeddings.weight"]
    exported = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(kept, exported)
    packs = manifest(tmp_path)["prepared"]["packs"]
    assert packs["validation_packs"]["arithmetic"] >= 1
    # one pack for two ranks, of a batch of three: each of them needs a part
    recipe(
        "midtrain",
        f"run_dir={small_run}",
        f"output_dir={tmp_path}/two",
        *SMALL["midtrain"],
        "max_steps=2",
        "batch_size=3",
        "validation={share: 0.2, every: 2, max_packs: 1}",
        launch=("--nproc_per_node", "2"),
    )
    assert manifest(tmp_path / "two")["counts"]["best_step"] == 2


@pytest.mark.parametrize(
    "name", ["midtrain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "dpo"))]
)
def test_two_ranks_agree_with_one(small_run, tmp_path, name):
    """Losses to 1e-5 on the same global batches; the gradients are in tests/training."""
    recipe(
        name,
        f"run_dir={small_run}",
        f"output_dir={tmp_path}",
        *SMALL[name],
        launch=("--nproc_per_node", "2"),
    )
    one, two = losses(small_run / name), losses(tmp_path)
    assert one.keys() == two.keys()
    assert max(abs(one[s] - two[s]) for s in one) < 1e-5
    # continued from step 2 on two ranks, then again on one: no row twice, none left out
    for launch, bound in (("--nproc_per_node", "2"), 1e-6), ((), 1e-5):
        reopen(tmp_path)
        done = recipe(
            name,
            f"run_dir={small_run}",
            f"output_dir={tmp_path}",
            *SMALL[name],
            "async_checkpoints=true",
            launch=launch,
        )
        assert "continuing from step 2" in done.stdout
        again = losses(tmp_path)
        assert again.keys() == two.keys()
        assert max(abs(again[s] - two[s]) for s in two) < bound


def test_rollout_on_two_ranks_writes_the_same_rows(small_run, tmp_path):
    recipe(
        "rollout",
        f"run_dir={small_run}",
        f"output_dir={tmp_path}",
        *SMALL["rollout"],
        launch=("--nproc_per_node", "2"),
    )
    for shard in sorted((small_run / "rollout" / "rollouts").glob("*.parquet")):
        assert list(read_rows(shard)) == list(read_rows(tmp_path / "rollouts" / shard.name))


def test_a_killed_rollout_keeps_its_shards(small_run, tmp_path):
    shutil.copytree(small_run / "rollout", tmp_path / "rollout")
    last = sorted((tmp_path / "rollout" / "rollouts").glob("*.parquet"))[-1]
    last.unlink()
    state = manifest(tmp_path / "rollout") | {"status": "running", "outputs": {}}
    state["config"]["output_dir"] = str(tmp_path / "rollout")
    (tmp_path / "rollout" / "manifest.json").write_text(json.dumps(state))
    recipe(
        "rollout", f"run_dir={small_run}", f"output_dir={tmp_path / 'rollout'}", *SMALL["rollout"]
    )
    assert manifest(tmp_path / "rollout")["counts"] == manifest(small_run / "rollout")["counts"]


def write_chain(folder, run_dir, evaluated):
    """A chain of all stages, cut down; returns its command."""
    stages = "".join(
        f"  - {{name: {name}, config: configs/tiny/{name}.yaml, evaluate: {str(name in evaluated).lower()},"
        f" overrides: {json.dumps(overrides)}}}\n"
        for name, overrides in (SMALL | {"grpo": SMALL_GRPO}).items()
    )
    (folder / "evaluate.yaml").write_text(
        (ROOT / "configs/tiny/evaluate.yaml").read_text()
        + "\nlimit: 20\nsampling: {max_gen_toks: 24}\n"
    )
    config = folder / "chain.yaml"
    config.write_text(
        f"run_dir: {run_dir}\nevaluation: {folder}/evaluate.yaml\n"
        f"task: reasoning_tiny_addition\nstages:\n{stages}"
        # RL's responses are cut off on purpose, to be done in seconds
        "doctor: {allow: [max_new_tokens], forecast_prompts: 4}\n"
    )
    return [TUNE, "run", "recipes/chain.py", "--config", str(config)]


def run_chain(command):
    """Run the chain to its end; returns what it printed."""
    done = subprocess.run(
        command, cwd=ROOT, text=True, timeout=1800, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def stop_when(command, file, number=signal.SIGKILL):
    """Start the chain, and stop it as soon as `file` is written.

    SIGKILL takes its children with it; SIGTERM is for the chain alone, which passes it on; Ctrl-C
    reaches the whole group, as from a terminal. Returns its status.
    """
    started = time.time()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and time.time() < started + 1800:
        if file.is_file() and file.stat().st_mtime > started:
            time.sleep(random.random())
            break
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    elif process.poll() is None:
        process.send_signal(number)
    process.wait()
    time.sleep(1)
    return process.returncode


def test_the_plan_of_some_stages(tmp_path):
    command = write_chain(tmp_path, tmp_path / "run", evaluated=["sft", "grpo"])
    out = run_chain([*command, "dry_run=true", "start_at=sft", "only=[midtrain,sft,grpo]"])
    planned = [line.split()[0] for line in out.splitlines() if line.endswith("  run")]
    assert planned == ["sft", "eval/sft", "grpo", "eval/grpo"]
    assert not (tmp_path / "run").exists()
    done = subprocess.run([*command, "only=[stf]"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2 and "only: no stage 'stf'; did you mean 'sft'?" in done.stderr


def test_a_chain_stopped_in_its_first_stage(tmp_path):
    command = write_chain(tmp_path, tmp_path / "run", evaluated=["sft"])
    assert stop_when(command, tmp_path / "run" / "report.html", signal.SIGTERM) == 143


def test_the_chain_runs_skips_and_continues(tmp_path):
    """SIGKILL in a stage, on to the end, then nothing left to do."""
    command = write_chain(tmp_path, tmp_path / "run", evaluated=["grpo"])
    stop_when(command, tmp_path / "run" / "midtrain" / "metrics.jsonl")
    assert manifest(tmp_path / "run" / "midtrain")["status"] == "running"  # its process died too
    out = run_chain(command)
    assert "== curate: skip: complete" in out, out[-5000:]
    assert "== midtrain: continue" in out, out[-5000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    [row] = report["stages"]
    assert (row["name"], row["n_problems"]) == ("grpo", 20)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in page
    for outside in ('src="http', 'href="http', "url(http", "purl.org"):
        assert outside not in page
    assert run_chain(command).count(": skip: complete") == 8
    # one option of dpo: it and what follows is planned, and nothing else
    config = tmp_path / "chain.yaml"
    config.write_text(config.read_text().replace("optimizer.lr=1e-3", "optimizer.lr=2e-3"))
    plan = dict(
        line.split(maxsplit=1)
        for line in run_chain([*command, "dry_run=true"]).splitlines()
        if "Skipping" not in line and line
    )
    assert plan.pop("dpo") == "run again: changed optimizer.lr"
    assert plan.pop("grpo") == "run again: dpo will run"
    assert plan.pop("eval/grpo") == "run again: grpo will run"
    assert set(plan.values()) == {"skip: complete"} and len(plan) == 5
    again = run_chain(command)
    assert again.count(": skip: complete") == 5 and "== grpo: run again: changed" in again


def test_the_doctor_stops_a_chain_before_its_first_stage(tmp_path):
    command = write_chain(tmp_path, tmp_path / "run", evaluated=["grpo"])
    config = tmp_path / "chain.yaml"
    config.write_text(
        config.read_text().replace('"max_steps=4"', '"max_steps=4", "max_seq_len=2048"')
    )
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "error: the doctor found context; fix that, or continue with "
        "doctor.allow=[context,max_new_tokens]" in done.stderr
    )
    assert "max_seq_len=2048 exceeds the model's 1024" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stopping_the_chain_in_each_stage_changes_nothing(tmp_path):
    """SIGKILL, SIGTERM and Ctrl-C, one after the other, in each stage and evaluation."""
    evaluated = ["midtrain", "sft", "dpo", "grpo"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    run_chain(write_chain(tmp_path / "whole", tmp_path / "whole" / "run", evaluated))
    run = tmp_path / "stopped" / "run"
    command = write_chain(tmp_path / "stopped", run, evaluated)
    statuses = []
    for stage in [*SMALL, "grpo"]:
        for folder in [stage, *([f"eval/{stage}"] * (stage in evaluated))]:
            log = run / "logs" / f"{folder.replace('/', '-')}.log"
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
                path = run / folder / "manifest.json"
                if not path.is_file() or manifest(run / folder)["status"] != "complete":
                    statuses.append(stop_when(command, log, number))
    assert {-signal.SIGKILL, 143, 130} == set(statuses)
    run_chain(command)
    reports = [
        json.loads((d / "report.json").read_text()) for d in (tmp_path / "whole" / "run", run)
    ]
    for key in ("stages", "paired"):
        assert reports[0][key] == reports[1][key]
    for stage in evaluated:
        a, b = (
            (tmp_path / d / "run" / "eval" / stage / f"{stage}.samples.jsonl").read_text()
            for d in ("whole", "stopped")
        )
        assert a == b
        a, b = (
            load_file(tmp_path / d / "run" / stage / "model" / "model.safetensors")
            for d in ("whole", "stopped")
        )
        assert all(torch.equal(a[k], b[k]) for k in a)
