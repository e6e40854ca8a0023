"""Run what a reader types, in order: the README's stages and the tutorial, with fewer steps."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, SMALL_GRPO, manifest
from documents import blocks, lines_of, parsed

BIN = Path(sys.executable).parent


def run(command, folder, **env):
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        text=True,
        timeout=1800,
        capture_output=True,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | env,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_readmes_stages_in_order(tmp_path):
    """Run every stage in a run folder of this test."""
    run_dir = tmp_path / "run"
    evaluation = tmp_path / "evaluate.yaml"
    shorter = "\nlimit: 8\nsampling: {max_gen_toks: 24}\n"
    evaluation.write_text((ROOT / "configs/tiny/evaluate.yaml").read_text() + shorter)
    small = SMALL | {"grpo": SMALL_GRPO}
    stages = [
        {
            "name": name,
            "config": f"configs/tiny/{name}.yaml",
            "evaluate": True,
            "overrides": small[name],
        }
        for name in ("sft", "grpo")
    ]
    chain = [f"stages={json.dumps(stages)}", f"evaluation={evaluation}", "compare=[]"]
    overrides = small | {
        "evaluate": ["limit=8", "sampling={max_gen_toks: 24}"],
        "chain": chain,
        "report": chain,
        "ask": ["max_new_tokens=16"],
    }
    texts = [text for _, text in blocks(ROOT / "README.md")]
    [block] = [t for t in texts if t.startswith("tune run recipes/doctor") and "configs/tiny" in t]
    ran = set()
    for line in lines_of(block):
        command = line.partition(" #")[0].replace("runs/tiny", str(run_dir))
        words = parsed("README.md", line).words
        name = Path(words[2]).stem if words[0] == "tune" else words[2]
        if name in overrides:
            more = [f"run_dir={run_dir}", *overrides[name]]
            command += " " + " ".join(f"'{value}'" for value in more)
        printed = run(command, ROOT)
        ran.add(name)
        if name == "chain":
            assert "== sft: skip: complete" in printed and "== grpo: skip: complete" in printed
    assert ran >= set(overrides) | {"eval.compare", "doctor"}
    assert manifest(run_dir / "grpo")["status"] == "complete"


@pytest.mark.slow
def test_the_tutorial_in_order(tmp_path):
    """Run the tutorial's blocks in a copy of the checkout, with a few steps for each stage."""
    for name in ("recipes", "custom_components", "eval", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    typed = [text for language, text in blocks(ROOT / "docs" / "TUTORIAL.md") if language == "sh"]
    assert len(typed) >= 5
    for text in typed:
        printed = run(text, tmp_path, PYTHONPATH=str(tmp_path))
        if "cp -r configs/tutorial" in text:
            for file in (tmp_path / "configs" / "mine").glob("*.yaml"):
                shorter = re.sub(r"max_steps: \d+", "max_steps: 3", file.read_text())
                shorter = shorter.replace("batch_size: 32 ", "batch_size: 4 ")
                more = {"evaluate": "limit: 8\n", "grpo": "rebalance: {enabled: false}\n"}
                shorter = re.sub(r"^rebalance: .*\n", "", shorter, flags=re.MULTILINE)
                file.write_text(shorter + more.get(file.stem, ""))
        if "ask.yaml" in text:
            assert "[correct: " in printed or "[incorrect: " in printed
    for name in ("curate", "grpo", "eval/grpo", "sft_long", "eval/sft_long"):
        assert manifest(tmp_path / "runs" / "mine" / name)["status"] == "complete"
    report = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text())
    assert report["task"] == "reasoning_own" and len(report["stages"]) == 5
