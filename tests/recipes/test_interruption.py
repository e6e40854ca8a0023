"""Stop runs by SIGTERM and Ctrl-C: they save, say so, and resume to the same end."""

import os
import signal
import subprocess
import time

import pytest
from conftest import ROOT, TUNE, manifest, metrics, recipe


@pytest.fixture(scope="module")
def overrides(small_run):
    return [f"run_dir={small_run}", "max_steps=24", "batch_size=4", "checkpoint_every=100"]


@pytest.fixture(scope="module")
def whole(overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "x"
    recipe("midtrain", *overrides, f"output_dir={folder}")
    return folder


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_saves_and_the_same_command_continues(overrides, whole, tmp_path, number, status):
    overrides = [*overrides, f"output_dir={tmp_path}/x"]
    process = subprocess.Popen(
        [TUNE, "run", "recipes/midtrain.py", "--config", "configs/tiny/midtrain.yaml", *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = tmp_path / "x" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 3):
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate()[0]
    assert process.returncode == status, said[-2000:]
    done = len(metrics(tmp_path / "x"))
    assert f"stopped after step {done} of 24; the same command continues" in said
    assert "Traceback" not in said
    assert (tmp_path / "x" / "checkpoints" / f"step_{done}").is_dir()
    assert manifest(tmp_path / "x")["status"] == "running"
    assert f"continuing from step {done} of 24" in recipe("midtrain", *overrides).stdout
    a, b = ([r["loss"] for r in metrics(d)] for d in (tmp_path / "x", whole))
    assert a == b


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_ranks_stop_at_the_same_step(overrides, tmp_path, number):
    """Signal every process, as a terminal or Slurm does; torchrun repeats the signal."""
    overrides = [*overrides, f"output_dir={tmp_path}/x"]
    process = subprocess.Popen(
        [
            TUNE,
            "run",
            "--nproc_per_node",
            "2",
            "recipes/midtrain.py",
            "--config",
            "configs/tiny/midtrain.yaml",
            *overrides,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "x" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 3):
        time.sleep(0.005)
    # the launcher's group; torchrun gives each rank a session of its own
    ranks = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    for pid in [process.pid, *map(int, ranks)]:
        os.kill(pid, number)
    said = process.communicate()[0]
    assert process.returncode != 0
    done = len(metrics(tmp_path / "x"))
    assert f"stopped after step {done} of 24" in said, said[-3000:]
    assert (tmp_path / "x" / "checkpoints" / f"step_{done}").is_dir()
