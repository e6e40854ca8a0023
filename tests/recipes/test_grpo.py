"""Run GRPO through the real `tune run`, from a model that is right half of the time."""

import os
import random
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, TUNE, kill_in_step, manifest, metrics, recipe
from safetensors.torch import load_file

from custom_components.losses.policy_gradient import SETTINGS

# With this path recipes find the faulty engines and the code of this checkout.
FAULTY = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engines'}"}


@pytest.fixture(scope="session")
def whole(coin, tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("grpo") / "whole"
    recipe("grpo", *coin, f"output_dir={folder}")
    return folder


def test_the_reward_rises(whole):
    rows = metrics(whole)
    assert [r["step"] for r in rows] == list(range(1, 9))
    assert 0.2 < rows[0]["accuracy"] < 0.8
    assert rows[-1]["accuracy"] > rows[0]["accuracy"] + 0.15
    counts = manifest(whole)["counts"]
    assert (counts["steps"], counts["prompts"]) == (8, 8)
    assert 64 <= counts["selection_tokens"] <= 64 * 8  # 8 prompts, 2 rounds of 4 responses.


def test_what_is_logged_adds_up(whole):
    rows = metrics(whole)
    for row in rows:
        assert row["reward"] == pytest.approx(2 * row["accuracy"] - 1)  # Nothing is undecided here.
        assert (row["reward_verified"], row["no_reward_verified"]) == (row["reward"], 0)
        assert row["lr"] > 0  # No step samples for nothing, neither the first nor the last.
        assert row["responses"] >= 32
        assert row["updates"] in (0, 1)
        shares = [row[k] for k in ("all_wrong", "hard", "medium", "easy", "all_right")]
        assert sum(shares) == pytest.approx(1)
        outcomes = [row[k] for k in ("kept_prompts", "too_easy", "all_wrong", "all_right")]
        assert sum(outcomes) == pytest.approx(1)
    temperatures = [r["temperature"] for r in rows]
    assert temperatures == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6])
    samples = metrics(whole, "samples.jsonl")
    assert len(samples) == 8 * 4
    assert {s["verdict"] for s in samples} == {"correct", "incorrect"}
    # Each step samples with the weights of the step before.
    assert all(s["weights"] == s["step"] - 1 for s in samples)


def test_the_engine_and_the_trainer_agree_at_every_temperature(whole):
    for row in metrics(whole):
        if row["updates"]:
            assert row["largest_logprob_gap"] < 1e-3
            assert row["ratio"] == pytest.approx(1, abs=1e-6)  # One update per step is on policy.


def test_several_updates_per_step_leave_the_policy(coin, tmp_path):
    recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "minibatches=2",
        "update_epochs=2",
        "max_steps=2",
        "optimizer.lr=1e-3",
        "warmup_ratio=0.0",
    )
    last = metrics(tmp_path / "x")[-1]
    assert last["updates"] == 4
    assert last["largest_logprob_gap"] < 1e-3  # Against the policy before the updates.
    assert last["ratio"] != pytest.approx(1, abs=1e-4)


def test_a_large_kl_coefficient_holds_the_policy_to_the_start(coin, tmp_path, whole):
    recipe("grpo", *coin, f"output_dir={tmp_path}/x", "loss.kl_coefficient=100.0")
    rows = [r for r in metrics(tmp_path / "x") if r["updates"]]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # The policy is the reference at first.
    assert all(r["kl"] >= 0 for r in rows)
    assert metrics(tmp_path / "x")[-1]["accuracy"] < metrics(whole)[-1]["accuracy"]


def test_dapo_adds_prompts_for_those_with_equal_rewards(coin, tmp_path):
    """With groups of two, about half of the prompts have equal rewards at first."""
    recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "loss.name=dapo",
        "rebalance.enabled=false",
        "group_size=2",
        "refill_rounds=2",
        "overlong_filter=true",
        "max_steps=2",
    )
    first = metrics(tmp_path / "x")[0]
    assert first["responses"] > 2 * 4
    assert first["updates"] == 1


def test_prompts_that_are_too_easy_are_replaced(coin, tmp_path):
    """Here every prompt with a correct response is, so that as many others are sampled."""
    recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "rebalance={enabled: true, max_accuracy: 0.01, max_samples: 8}",
        "selection.rounds=0",
        "refill_rounds=1",
        "max_steps=1",
    )
    [row] = metrics(tmp_path / "x")
    assert row["kept_prompts"] == 0 and row["too_easy"] > 0
    assert row["prompts"] == 2 * 4


LEARNED = ("loss", "reward", "entropy", "grad_norm")


def same_as_uninterrupted(run, whole):
    """Assert that log, samples and weights of a resumed run are those of the whole one, bit for bit."""
    assert [[r[k] for k in LEARNED if k in r] for r in metrics(run)] == [
        [r[k] for k in LEARNED if k in r] for r in metrics(whole)
    ]
    assert metrics(run, "samples.jsonl") == metrics(whole, "samples.jsonl")
    a, b = (load_file(d / "model" / "model.safetensors") for d in (run, whole))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not (run / "rollouts").exists()


def test_killed_and_continued_equals_uninterrupted(coin, whole, tmp_path):
    command = [
        TUNE,
        "run",
        "recipes/grpo.py",
        "--config",
        "configs/tiny/grpo.yaml",
        *coin,
        f"output_dir={tmp_path}/run",
    ]
    kill_in_step(command, tmp_path / "run" / "metrics.jsonl", random.randint(3, 6))
    assert "continuing from step" in recipe("grpo", *coin, f"output_dir={tmp_path}/run").stdout
    same_as_uninterrupted(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *(f"loss.name={name}" for name in SETTINGS),
        "loss.aggregation=prompt_token_mean",
        "importance={level: token, beyond: mask, low: 0.5}",
        "importance={level: sequence, beyond: truncate, low: 0.5}",
        "importance={level: geometric, beyond: mask, low: 0.99, high: 1.01}",
        "rebalance={enabled: true, equal: false, max_accuracy: 0.8, max_samples: 16}",
    ],
)
def test_every_setting_resumes(coin, tmp_path, changes):
    overrides = [*coin, changes, "loss.kl_coefficient=0.01", "minibatches=2", "max_steps=5"]
    recipe("grpo", *overrides, f"output_dir={tmp_path}/whole")
    overrides.append(f"output_dir={tmp_path}/run")
    command = [TUNE, "run", "recipes/grpo.py", "--config", "configs/tiny/grpo.yaml", *overrides]
    kill_in_step(command, tmp_path / "run" / "metrics.jsonl", random.randint(2, 3))
    assert "continuing from step" in recipe("grpo", *overrides).stdout
    same_as_uninterrupted(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("after", [False, True], ids=["rollout", "reward"])
def test_killed_while_it_samples_or_verifies(coin, whole, tmp_path, after):
    engine = (
        f"engine={{_component_: faulty_engine.Dies, model: {coin[0].partition('=')[2]}, "
        f"marker: {tmp_path}/died, after: {after}}}"
    )
    overrides = [*coin, engine, f"output_dir={tmp_path}/run"]
    killed = recipe("grpo", *overrides, check=False, env=FAULTY)
    assert killed.returncode == -signal.SIGKILL and len(metrics(tmp_path / "run")) == 3
    assert not list((tmp_path / "run" / "rollouts").glob("step_3.*"))
    recipe("grpo", *overrides, env=FAULTY)
    same_as_uninterrupted(tmp_path / "run", whole)


def test_killed_while_it_trains_it_learns_from_the_same_responses(coin, tmp_path):
    """With an engine that never samples the same twice."""
    engine = f"engine={{_component_: faulty_engine.Forgetful, model: {coin[0].partition('=')[2]}}}"
    # No checkpoint covers the earlier steps, so all of them are repeated.
    overrides = [*coin, engine, f"output_dir={tmp_path}/run", "checkpoint_every=100", "max_steps=4"]
    command = [TUNE, "run", "recipes/grpo.py", "--config", "configs/tiny/grpo.yaml", *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, env=FAULTY, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while process.poll() is None and not list((tmp_path / "run").glob("rollouts/step_3.*")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = metrics(tmp_path / "run"), metrics(tmp_path / "run", "samples.jsonl")
    assert len(before[0]) == 3
    continued = recipe("grpo", *overrides, env=FAULTY)
    for step in range(1, 5):
        assert f"step {step}: responses from before the interruption" in continued.stdout
    after = metrics(tmp_path / "run"), metrics(tmp_path / "run", "samples.jsonl")
    assert [[r[k] for k in LEARNED if k in r] for r in after[0][:3]] == [
        [r[k] for k in LEARNED if k in r] for r in before[0]
    ]
    assert after[1][: len(before[1])] == before[1]


def test_the_best_model_on_held_out_problems_is_kept(coin, tmp_path):
    """A learning rate far too high ruins the model after it has learned; the best one is exported."""
    held_out = f"held_out={{every: 1, samples: 4, {coin[2].replace('=', ': ', 1)}}}"
    recipe(
        "grpo",
        *coin,
        held_out,
        f"output_dir={tmp_path}/x",
        "optimizer.lr=3e-3",
        "warmup_ratio=0.0",
        "keep_checkpoints=1",
        "checkpoint_every=1",
    )
    rows, counts = metrics(tmp_path / "x"), manifest(tmp_path / "x")["counts"]
    accuracies = [r["held_out_accuracy"] for r in rows]
    assert counts["held_out_best"] == max(accuracies)
    assert counts["held_out_best_step"] == 1 + accuracies.index(max(accuracies))
    # The last step has a checkpoint only if it is the best.
    assert (tmp_path / "x" / "checkpoints" / f"step_{counts['held_out_best_step']}").is_dir()


def test_two_ranks_each_with_an_engine(coin, tmp_path):
    recipe(
        "grpo", *coin, f"output_dir={tmp_path}/x", "max_steps=3", launch=("--nproc_per_node", "2")
    )
    rows = metrics(tmp_path / "x")
    assert len(rows) == 3 and all(r["responses"] >= 32 for r in rows)
    assert any(r["updates"] for r in rows)
    assert all(r["largest_logprob_gap"] < 1e-3 for r in rows if r["updates"])


@pytest.mark.parametrize(
    ("engine", "status", "words"),
    [
        ("Stalls", 75, "the engine (generate 8 x 4 responses) made no progress for 10 s"),
        ("Crashes", 2, "the engine failed (generate 8 x 4 responses): RuntimeError: went away"),
        ("NeverStarts", 75, "the engine (start) made no progress"),
    ],
)
def test_an_engine_that_fails_ends_the_run_with_a_message(coin, tmp_path, engine, status, words):
    checkpoint = coin[0].partition("=")[2]
    done = recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "checkpoint_every=1",
        "engine_timeout=10",
        "selection.rounds=0",
        "warmup_ratio=0.0",
        "rebalance.max_accuracy=1.0",
        f"engine={{_component_: faulty_engine.{engine}, model: {checkpoint}}}",
        check=False,
        env=FAULTY,
    )
    assert done.returncode == status, done.stderr[-2000:]
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert ("the engine is closed" in done.stdout) == (engine == "Crashes")
    assert manifest(tmp_path / "x")["status"] == "running"


def test_lora_learns_with_its_start_as_the_reference(coin, tmp_path):
    """The engine gets merged weights each step; the reference is the model with its adapters off."""
    recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "model.lora_rank=8",
        "model.lora_alpha=16",
        "optimizer.lr=1e-2",
        "loss.kl_coefficient=0.01",
        "max_steps=4",
    )
    rows = [r for r in metrics(tmp_path / "x") if r["updates"]]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 1e-4
    assert all(r["largest_logprob_gap"] < 1e-3 for r in rows)  # A stale engine would show.


def test_an_engine_on_another_longrope_branch_is_refused(coin, small_run, tmp_path):
    start = f"{small_run}/start/model"  # A trained model's branches are equal; this one's are not.
    done = recipe(
        "grpo",
        *coin,
        f"output_dir={tmp_path}/x",
        "engine.rope_factor=short",
        f"checkpointer.checkpoint_dir={start}",
        f"tokenizer.path={start}",
        "selection.rounds=0",
        check=False,
    )
    assert done.returncode == 2
    assert (
        "the rollout engine computes another LongRoPE branch than model.rope_factor=long"
        in done.stderr
    )
