"""Several ranks, each with an engine in its process: vLLM's, or a slow one."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT, manifest, metrics, reopen, tune

from benchmarks.gpu_rl import config_of, write_model

TWO = ("--nproc_per_node", "2")


def test_a_rank_may_sample_for_longer_than_a_collective_may_take(coin, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    overrides = [*coin, f"output_dir={tmp_path}/x", "max_steps=2", "selection.rounds=0"]
    command = [*launch, "tests/recipes/slow_rank.py", "--config", "configs/tiny/grpo.yaml"]
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = metrics(tmp_path / "x")
    assert len(rows) == 2 and rows[1]["seconds_rollout"] > 6  # the mean of 12 s and next to none


needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_qwen")
    (folder / "model").mkdir()
    write_model(folder / "model", "cpu")
    return folder


def run(name, model, output, *overrides):
    config = output.with_suffix(".yaml")
    config.write_text(json.dumps(config_of(name, "cpu", model, output)))
    return tune(f"recipes/{name}.py", "--config", str(config), *overrides, launch=TWO)


@pytest.mark.slow
@needs_vllm
def test_two_ranks_of_rollout_with_vllm(model, tmp_path):
    """One shard for two ranks; then a resume in which one rank has nothing to do."""
    run("rollout", model, tmp_path / "one", "problems_per_shard=100")
    assert manifest(tmp_path / "one")["counts"]["rollouts"] == 32
    run("rollout", model, tmp_path / "two", "problems_per_shard=4")
    assert manifest(tmp_path / "two")["counts"]["rollouts"] == 32
    (tmp_path / "two" / "rollouts" / "00001.parquet").unlink()
    reopen(tmp_path / "two")
    run("rollout", model, tmp_path / "two", "problems_per_shard=4")
    assert manifest(tmp_path / "two")["counts"]["rollouts"] == 32


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_two_ranks_of_rl_with_vllm(model, tmp_path, name):
    config = config_of("grpo", "cpu", model, tmp_path / "x")
    if name == "ppo":
        del config["rebalance"]
    (tmp_path / "x.yaml").write_text(json.dumps(config | {"max_steps": 2}))
    tune(f"recipes/{name}.py", "--config", f"{tmp_path}/x.yaml", launch=TWO)
    assert manifest(tmp_path / "x")["status"] == "complete"
    last = metrics(tmp_path / "x")[-1]
    assert last["step"] == 2 and last["logprob_gap"] < 1e-3
