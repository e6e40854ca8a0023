"""Plan the paper's stages for GPUs that this machine does not have."""

import re

import pytest
from conftest import ROOT, tune

from custom_components.chain.chain_config import ChainConfig
from custom_components.chain.examine import stages_of
from custom_components.config import load
from custom_components.doctor.planning import estimate

TRAINING = ["midtrain", "sft", "dpo", "grpo"]


def estimates(chain, *overrides):
    """Return {stage: estimate} of a chain of the phi4_mini track."""
    cfg = load(ChainConfig, f"configs/phi4_mini/{chain}.yaml", list(overrides))
    needs = {name: estimate(stage, cfg.doctor) for name, stage in stages_of(cfg).items()}
    return {name: value for name, value in needs.items() if value is not None}


@pytest.mark.parametrize(
    ("chain", "device", "ranks"),
    [("chain", "H100", 8), ("chain", "H200", 1), ("chain_lora", "RTX 4090", 1)],
)
def test_the_papers_stages_fit_their_hardware(monkeypatch, chain, device, ranks):
    monkeypatch.chdir(ROOT)
    needs = estimates(chain, f"doctor.device={device}", f"doctor.ranks={ranks}")
    assert list(needs) == TRAINING
    for stage in needs.values():
        assert (stage.target.name, stage.ranks) == (device, ranks)
        assert stage.memory.trainer > 0
        assert stage.need_gib < stage.target.memory_gib
    assert needs["grpo"].kv_tokens > 10_000 and needs["sft"].kv_tokens is None


def test_time_follows_from_tokens(monkeypatch):
    """Take tokens from the config or from `max_steps`; twice the share of the peak halves the time."""
    monkeypatch.chdir(ROOT)
    h100 = ["doctor.device=H100", "doctor.ranks=8"]
    needs = estimates("chain", *h100)
    assert needs["midtrain"].tokens == 30e9  # named in chain.yaml: the data decides
    assert needs["grpo"].tokens == 200 * 128 * 16 * 26624 / 2
    fast = estimates("chain", *h100, "doctor.mfu=0.7", "doctor.million_tokens={sft: 1}")
    assert fast["grpo"].seconds == pytest.approx(needs["grpo"].seconds / 2)
    assert fast["sft"].tokens == 1e6


def test_the_table_of_a_stage_that_does_not_fit(tmp_path):
    done = tune(
        "recipes/doctor.py",
        "--config",
        "configs/phi4_mini/grpo.yaml",
        f"run_dir={tmp_path}",
        "doctor.device=H100",
        "doctor.forecast_prompts=0",
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.search("the doctor found [a-z,]*memory", done.stderr)
    [row] = [line for line in done.stdout.splitlines() if "1 x H100" in line and "│" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[:2] == ["grpo", "1 x H100"] and cells[10] == "79" and float(cells[9]) > 79
    assert "hours at 35% MFU" in done.stdout
