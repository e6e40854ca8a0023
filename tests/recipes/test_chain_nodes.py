"""Start a stage on several nodes: by srun in an allocation, else by hand with a printed line."""

import json
import os
import stat
import subprocess

import pytest
from conftest import ROOT, TUNE

from custom_components.config import UserError
from custom_components.runs.processes import launch


def test_without_an_allocation_it_says_what_to_run(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    arguments = ["recipes/sft.py", "--config", "configs/tiny/sft.yaml", "run_dir=a b"]
    with pytest.raises(UserError) as e:
        launch("sft", arguments, processes=4, nodes=2)
    assert (
        "tune run --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint '<head node>:29500' "
        "recipes/sft.py --config configs/tiny/sft.yaml 'run_dir=a b'"
    ) in str(e.value)


def test_within_an_allocation_srun_starts_it_on_every_node(tmp_path):
    """Use a stand-in for srun, which writes its arguments down and fails: there is no Slurm here."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "error: no node"\nexit 3\n')
    srun.chmod(srun.stat().st_mode | stat.S_IEXEC)
    config = tmp_path / "chain.yaml"
    stages = [
        {"name": "start", "config": "configs/tiny/start.yaml", "nnodes": 2, "nproc_per_node": 4}
    ]
    config.write_text(
        f"run_dir: {tmp_path}/run\nevaluation: configs/tiny/evaluate.yaml\n"
        f"task: reasoning_tiny_addition\nstages: {json.dumps(stages)}\n"
    )
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
    }
    done = subprocess.run(
        [TUNE, "run", "recipes/chain.py", "--config", str(config)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    given = (tmp_path / "run" / "logs" / "start.log").read_text().split("\n")
    assert given[:3] == ["--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    assert given[3] == "--cpus-per-task=64"  # srun does not take it over from the job
    assert given[5:10] == ["run", "--nnodes", "2", "--nproc_per_node", "4"]
    assert given[11] == "c10d" and given[13].endswith(":29500") and given[14] == "recipes/start.py"
    assert "stage start failed with status 3" in done.stderr and "no node" in done.stderr
