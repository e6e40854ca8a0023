"""Run benchmarks/gpu_rl.py, which is meant for a GPU, on a CPU."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_the_benchmark_prints_its_tables_and_the_last_words_of_a_failed_part(tmp_path):
    command = [sys.executable, "benchmarks/gpu_rl.py", "--device=cpu", f"--work={tmp_path}"]
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--parts", "grpo", "--limit=300"], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grpo: status 0" in done.stdout
    gaps = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| grpo | ")]
    steps = [row for row in gaps if len(row) == 9]
    assert [row[2].strip() for row in steps] == ["1", "2", "3"]
    # The engine has the weights of the step: its gap is far smaller than the change.
    assert float(steps[2][3]) < 0.1 * float(steps[2][5])
    failing = subprocess.run([*command, "--parts", "grpo_sleep", "--limit=300"], **options)
    assert failing.returncode == 1
    assert "engine.sleep_mode frees a GPU's memory" in failing.stdout
