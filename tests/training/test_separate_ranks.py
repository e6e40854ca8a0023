"""Ranks without a process group, each with one GPU; a process group of one process."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from custom_components import see_one_gpu

RANK = """
import json, os, sys, time
from custom_components.training.separate_ranks import separate_ranks
import torch.distributed as dist
with separate_ranks("cpu") as ranks:
    taken = []
    ranks.barrier()  # both have started
    while (number := ranks.take("work")) < 20:
        taken.append(number)
        time.sleep(0.05)
    ranks.barrier()
    if ranks.rank:
        time.sleep(1)  # rank 0 must not leave before the others
    ranks.barrier()
    print(json.dumps({"taken": taken, "rank": ranks.rank, "group": dist.is_initialized(),
                      "gpu": os.environ["CUDA_VISIBLE_DEVICES"], "local": os.environ["LOCAL_RANK"],
                      "described": ranks.describe()}))
"""


@pytest.mark.parametrize("store", ["agent", "rank 0"])
def test_ranks_take_turns_and_wait_without_a_process_group(tmp_path, store):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launch = ["--standalone", "--nproc_per_node=2", "--redirects=3", f"--log-dir={tmp_path}/logs"]
    unshared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if store == "rank 0" else {}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, str(script)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=600,
        env=os.environ | unshared,
    )
    logs = sorted(tmp_path.glob("logs/*/*/*/stdout.log"))
    first, second = (json.loads(log.read_text().splitlines()[-1]) for log in logs)
    assert sorted(first["taken"] + second["taken"]) == list(range(20))
    assert first["taken"] and second["taken"]
    assert [r["gpu"] for r in (first, second)] == ["0", "1"]
    for rank in (first, second):
        assert rank["local"] == "0" and not rank["group"] and rank["described"] == "2 x cpu"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, (None, None)),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (None, "0")),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "3"}, ("3", "0")),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,6"}, ("6", "0")),
        # torchrun --virtual-local-rank, and a process that a rank starts
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "6"}, ("6", "0")),
        # more ranks than GPUs: `rank_device` says so
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "4,6"}, ("4,6", "2")),
    ],
)
def test_a_rank_sees_its_own_gpu(monkeypatch, before, after):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # a second call changes nothing
        see_one_gpu()
        assert (os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("LOCAL_RANK")) == after


CHECKPOINT = """
import sys, torch
from custom_components.training.checkpoint import StepCheckpoints
from custom_components.training.distributed import World, lone_process_group
from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend "fake"
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(4)).sum().backward()
optimizer.step()
with lone_process_group(sys.argv[1]):
    checkpoints = StepCheckpoints(sys.argv[2], World(0, 1, torch.device("cpu")), background=True)
    checkpoints.save(1, model, optimizer)
    checkpoints.publish()
    print(checkpoints.steps())
"""


@pytest.mark.parametrize(
    ("backend", "words"), [("cpu:gloo,cuda:fake", "[1]"), ("cuda:fake", "AssertionError")]
)
def test_background_checkpoints_of_one_process_need_gloo(tmp_path, backend, words):
    """With nccl alone, which vLLM would take, they fail; `fake` stands for nccl here."""
    done = subprocess.run(
        [sys.executable, "-c", CHECKPOINT, backend, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert words in done.stdout + done.stderr, done.stderr[-2000:]
