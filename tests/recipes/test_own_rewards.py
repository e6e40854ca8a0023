"""Run GRPO and PPO with a user's reward function, a budget of tokens, and prompts that drop out."""

import math
import os
import random
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, TUNE, kill_in_step, manifest, metrics, recipe
from safetensors.torch import load_file

OWN = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'recipes'}"}
CREDIT = (
    "reward=[{_component_: custom_components.rl.rewards.verified}, "
    "{_component_: own_rewards.credit, weight: 0.5, target: 5}, "
    "{_component_: custom_components.rl.rewards.overlong_penalty, buffer: 4}]"
)
NEW = {
    "grpo": [
        CREDIT,
        "max_steps=null",
        "max_generated_tokens=2000",
        "no_resampling_above=0.7",
        "refill_rounds=1",
        "loss.name=gspo",
        "importance={level: sequence, beyond: mask, low: 0.5, high: 2.0}",
        "minibatches=2",
    ],
    "ppo": [CREDIT, "no_resampling_above=0.7", "minibatches=2", "max_steps=5"],
}


@pytest.fixture(scope="session")
def common(coin):
    """Return the overrides of the model that is right half of the time, for both recipes."""
    return [o for o in coin if not o.startswith("rebalance")]


@pytest.fixture(scope="session", params=["grpo", "ppo"])
def whole(request, common, tmp_path_factory):
    """Return the recipe and the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("own") / request.param
    recipe(request.param, *common, *NEW[request.param], f"output_dir={folder}", env=OWN)
    return request.param, folder


def test_each_function_is_logged_by_its_name(whole):
    _, folder = whole
    rows = metrics(folder)
    for row in rows:
        assert row["no_reward_verified"] == row["no_reward_overlong_penalty"] == 0
        assert -1 <= row["reward_overlong_penalty"] <= 0
        assert row["reward_credit"] != row["reward_verified"]
        assert row["lr"] > 0
    left_out = [row["no_reward_credit"] for row in rows]
    assert 0 < max(left_out) < 1
    samples = metrics(folder, "samples.jsonl")
    assert {type(sample["reward"]) for sample in samples} <= {float, type(None)}
    assert len({sample["reward"] for sample in samples}) > 2


def test_a_failing_function_is_named_in_an_alarm(whole):
    _, folder = whole
    alarms = [row["alarm"] for row in metrics(folder, "alarms.jsonl")]
    [alarm] = [a for a in alarms if a.startswith("reward function credit fails on ")][:1]
    assert "left out; credit: LookupError: no nine:" in alarm
    assert "(own_rewards.py, line 12)" in alarm


def test_prompts_drop_out_as_they_become_easy(whole):
    name, folder = whole
    dropped = [row["dropped_prompts"] for row in metrics(folder)]
    assert dropped == sorted(dropped) and dropped[-1] > 0


@pytest.mark.parametrize("whole", ["grpo"], indirect=True)  # ppo's run has a number of steps
def test_the_budget_ends_the_run_and_sets_the_learning_rate(whole):
    _, folder = whole
    rows = metrics(folder)
    selection = manifest(folder)["counts"]["selection_tokens"]
    generated = [row["generated_tokens"] for row in rows]
    assert selection + sum(generated) >= 2000 > selection + sum(generated[:-1])
    budget, spent, highest = 2000 - selection, 0, 3e-4
    for row, tokens in zip(rows, generated, strict=True):
        before, after = spent / budget, (spent + tokens) / budget
        if before >= 0.1:  # The warm-up is over.
            expected = highest * (1 + math.cos(math.pi * (before - 0.1) / 0.9)) / 2
            assert row["lr"] == pytest.approx(expected)
        else:
            assert row["lr"] == pytest.approx(highest * min(1, after / 0.1))
        # The temperature falls over half of the run.
        assert row["temperature"] == pytest.approx(max(0.6, 1.0 - 0.8 * before))
        spent += tokens


def test_killed_and_continued_equals_uninterrupted(whole, common, tmp_path):
    name, folder = whole
    overrides = [*common, *NEW[name], f"output_dir={tmp_path}/run"]
    command = [
        TUNE,
        "run",
        f"recipes/{name}.py",
        "--config",
        f"configs/tiny/{name}.yaml",
        *overrides,
    ]
    kill_in_step(command, tmp_path / "run" / "metrics.jsonl", random.randint(3, 4), env=OWN)
    assert "continuing from step" in recipe(name, *overrides, env=OWN).stdout
    learned = ("loss", "reward", "reward_credit", "no_reward_credit", "dropped_prompts", "lr")
    learned += ("grad_norm", "temperature", "generated_tokens", "entropy")
    assert [[row.get(k) for k in learned] for row in metrics(tmp_path / "run")] == [
        [row.get(k) for k in learned] for row in metrics(folder)
    ]
    assert metrics(tmp_path / "run", "samples.jsonl") == metrics(folder, "samples.jsonl")
    assert metrics(tmp_path / "run", "alarms.jsonl") == metrics(folder, "alarms.jsonl")
    a, b = (load_file(d / "model" / "model.safetensors") for d in (tmp_path / "run", folder))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_learns_from_the_rewards_that_it_had(coin, tmp_path):
    """With a reward function that never returns the same value twice."""
    overrides = [
        *coin,
        "reward={_component_: own_rewards.noisy}",
        f"output_dir={tmp_path}/run",
        # No checkpoint covers the steps, so that all of them are repeated.
        "checkpoint_every=100",
        "max_steps=3",
        "selection.rounds=0",
    ]
    command = [TUNE, "run", "recipes/grpo.py", "--config", "configs/tiny/grpo.yaml", *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, env=OWN, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while process.poll() is None and not list((tmp_path / "run").glob("rollouts/step_2.*")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = metrics(tmp_path / "run"), metrics(tmp_path / "run", "samples.jsonl")
    recipe("grpo", *overrides, env=OWN)
    after = metrics(tmp_path / "run"), metrics(tmp_path / "run", "samples.jsonl")
    keys = ("loss", "reward", "reward_noisy", "grad_norm")
    assert len(before[0]) == 2
    assert [[row.get(k) for k in keys] for row in after[0][:2]] == [
        [row.get(k) for k in keys] for row in before[0]
    ]
    assert after[1][: len(before[1])] == before[1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reward={_component_: own_rewards.credits}", "did you mean 'credit'?"),
        ("max_generated_tokens=10", "of max_generated_tokens=10; raise it"),
    ],
)
def test_mistakes_end_the_run_in_one_line(coin, tmp_path, override, words):
    done = recipe("grpo", *coin, override, f"output_dir={tmp_path}/x", check=False, env=OWN)
    assert done.returncode == 2 and words in done.stderr
    assert "Traceback" not in done.stderr
