"""Run PPO through the real `tune run`, from the model that is right half of the time."""

import random

import pytest
import torch
from conftest import TUNE, kill_in_step, metrics, recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def overrides(coin):
    return [*(o for o in coin if not o.startswith("rebalance")), "minibatches=1", "critic.lr=1e-2"]


@pytest.fixture(scope="session")
def whole(overrides, tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("ppo") / "whole"
    recipe("ppo", *overrides, f"output_dir={folder}")
    return folder


def test_the_reward_rises_and_the_critic_learns(whole):
    rows = metrics(whole)
    assert 0.2 < rows[0]["accuracy"] < 0.8
    assert rows[-1]["accuracy"] > rows[0]["accuracy"] + 0.15
    assert rows[0]["value"] == 0  # The critic expects nothing at first.
    assert rows[0]["value_loss"] == pytest.approx(0.5)  # The returns are +1 or -1.
    assert rows[-1]["value_loss"] < rows[0]["value_loss"]
    for row in rows:
        assert row["largest_logprob_gap"] < 1e-3
        assert row["ratio"] == pytest.approx(1, abs=1e-6)
        assert row["kept"] == row["kept_prompts"] == 1  # All responses are learned from.


def test_the_gradient_of_the_critic_does_not_scale_that_of_the_policy(overrides, tmp_path):
    """A critic whose gradient is a thousand times as large leaves the policy's step as it is."""
    for coefficient in (0.1, 100.0):
        recipe(
            "ppo",
            *overrides,
            f"output_dir={tmp_path}/{coefficient}",
            "optimizer={_component_: torch.optim.SGD, lr: 0.01}",
            f"critic.coefficient={coefficient}",
            "selection.rounds=0",
            "max_steps=1",
        )
    small, large = (
        load_file(tmp_path / c / "model" / "model.safetensors") for c in ("0.1", "100.0")
    )
    assert all(torch.equal(small[k], large[k]) for k in small)
    [row], [other] = (metrics(tmp_path / c) for c in ("0.1", "100.0"))
    assert row["grad_norm"] == other["grad_norm"]
    assert other["value_grad_norm"] == pytest.approx(1000 * row["value_grad_norm"])
    assert other["value_grad_norm"] > 1  # Above the clip.


def test_the_model_is_exported_without_its_critic(whole):
    weights = load_file(whole / "model" / "model.safetensors")
    assert not any("value" in name for name in weights)
    AutoModelForCausalLM.from_pretrained(whole / "model")


def test_killed_and_continued_equals_uninterrupted(overrides, whole, tmp_path):
    command = [
        TUNE,
        "run",
        "recipes/ppo.py",
        "--config",
        "configs/tiny/ppo.yaml",
        *overrides,
        f"output_dir={tmp_path}/run",
    ]
    kill_in_step(command, tmp_path / "run" / "metrics.jsonl", random.randint(3, 6))
    assert "continuing from step" in recipe("ppo", *overrides, f"output_dir={tmp_path}/run").stdout
    kept = ("loss", "reward", "value", "value_loss", "explained_variance", "grad_norm")
    assert [[r[k] for k in kept] for r in metrics(tmp_path / "run")] == [
        [r[k] for k in kept] for r in metrics(whole)
    ]
    a, b = (load_file(d / "model" / "model.safetensors") for d in (tmp_path / "run", whole))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_two_ranks_and_several_updates(overrides, tmp_path):
    recipe(
        "ppo",
        *overrides,
        f"output_dir={tmp_path}/x",
        "max_steps=3",
        "minibatches=2",
        "update_epochs=2",
        "critic.lam=0.95",
        "critic.shapes_trunk=true",
        launch=("--nproc_per_node", "2"),
    )
    rows = metrics(tmp_path / "x")
    assert len(rows) == 3 and all(r["updates"] == 4 for r in rows)
    assert all(r["largest_logprob_gap"] < 1e-3 for r in rows)
