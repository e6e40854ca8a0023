"""Shared fixtures: the real `tune run`, and one small chain that the recipe tests look at."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# two workers run side by side: more threads than cores make everything slower
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REASONTUNE_DATA", ROOT.parent / "shared" / "data"))
TUNE = str(Path(sys.executable).with_name("tune"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not (DATA / "gsm8k" / "train.jsonl").is_file():
        pytest.skip("no folder of real data (REASONTUNE_DATA)")
    return DATA


def tune(*args: str, launch: tuple[str, ...] = (), check: bool = True, **kwargs):
    """Run `tune run [launch] args` from the checkout's root."""
    done = subprocess.run(
        [TUNE, "run", *launch, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        **kwargs,
    )
    if check and done.returncode:
        raise AssertionError(
            f"status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done


def recipe(name: str, *overrides: str, track: str = "tiny", **kwargs):
    """Run one recipe with a track's config."""
    config = f"configs/{track}/{name}.yaml"
    return tune(f"recipes/{name}.py", "--config", config, *overrides, **kwargs)


def kill_in_step(
    command: list[str], metrics: Path, step: int, rank: bool = False, **kwargs
) -> None:
    """Start a recipe and SIGKILL it, or one of its ranks, in the step after `step` logged ones."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **kwargs
    )
    while process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") >= step:
            time.sleep(random.random() / 10)
            killed = process.pid
            if rank:
                children = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True)
                killed = int(random.choice(children.split()))
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == (1 if rank else -signal.SIGKILL)


def kill_in_chunk(command: list[str], folder: Path, files: int) -> None:
    """Start a recipe and SIGKILL it once it has written so many Parquet files to `folder`."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while process.poll() is None and len(list(folder.glob("*.parquet"))) < files:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def reopen(folder: Path) -> None:
    """Make a complete run one that was cut off after its last checkpoint."""
    path = folder / "manifest.json"
    state = json.loads(path.read_text()) | {"status": "running", "outputs": {}}
    path.write_text(json.dumps(state))


# the tiny chain, cut down to seconds
SMALL = {
    "start": [],
    "rollout": ["problems.counts={1: 10, 2: 60, 3: 60, 4: 0}", "problems_per_shard=50"],
    "curate": ["splits.sft_problems=40"],
    "midtrain": ["max_steps=4", "batch_size=4", "checkpoint_every=2"],
    "sft": ["max_steps=4", "batch_size=8", "checkpoint_every=2"],
    "dpo": ["max_steps=4", "batch_size=8", "checkpoint_every=2", "optimizer.lr=1e-3"],
}
# too little trained to earn a reward: tests/recipes/test_grpo.py has a model that does
SMALL_GRPO = [
    "max_steps=3",
    "batch_size=4",
    "group_size=4",
    "max_new_tokens=24",
    "checkpoint_every=1",
    "problems.counts={3: 10, 4: 10}",
    "selection.rounds=0",
]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A run folder with the stages of SMALL done through `tune run`."""
    run_dir = tmp_path_factory.mktemp("small")
    for name, overrides in SMALL.items():
        recipe(name, f"run_dir={run_dir}", *overrides)
    return run_dir


def metrics(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The rows of a run's log."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def manifest(folder: Path) -> dict:
    """A run's manifest."""
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="session")
def coin(small_run, tmp_path_factory):
    """Overrides for grpo or ppo: a model that answers a+1 with a+1 or a, about evenly, and its problems."""
    from custom_components.data.curation import MESSAGES_SCHEMA
    from custom_components.data.rows import write_rows

    folder = tmp_path_factory.mktemp("coin")
    rows = [
        {
            "id": f"{a}-{b}",
            "source": "coin",
            "answer": str(a + 1),
            "messages": [
                {"role": "user", "content": f"{a}+1=?"},
                {"role": "assistant", "content": f"\\boxed{{{a + b}}}"},
            ],
        }
        for a in range(1, 9)
        for b in (0, 1)
    ]
    write_rows(folder / "coin.parquet", rows, MESSAGES_SCHEMA)
    (folder / "problems.jsonl").write_text(
        "".join(
            json.dumps({"problem": f"{a}+1=?", "answer": str(a + 1)}) + "\n" for a in range(1, 9)
        )
    )
    recipe(
        "sft",
        f"data={folder}/coin.parquet",
        f"output_dir={folder}/sft",
        "batch_size=16",
        f"checkpointer.checkpoint_dir={small_run}/start/model",
        f"tokenizer.path={small_run}/start/model",
        "max_steps=120",
        "optimizer.lr=2e-3",
        "max_seq_len=64",
    )
    problems = "{_component_: custom_components.data.problems.table, path: %s/problems.jsonl}"
    return [
        f"checkpointer.checkpoint_dir={folder}/sft/model",
        f"tokenizer.path={folder}/sft/model",
        f"problems={problems % folder}",
        "max_steps=8",
        "batch_size=4",
        "group_size=8",
        "max_new_tokens=8",
        "max_seq_len=64",
        "checkpoint_every=2",
        "optimizer.lr=3e-4",
        "rebalance.max_accuracy=0.9",
        "selection={rounds: 2, samples: 4, threshold: 10.0, max_accuracy: 1.0}",
    ]
