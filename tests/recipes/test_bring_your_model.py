"""The track `any`: one key names the model and one the problems. And the tracks beside published runs."""

import json
import random

import pytest
import yaml
from conftest import ROOT, manifest, tune
from tiny_models import FAMILIES

from custom_components.chain.chain_config import ChainConfig
from custom_components.chain.plan import check_chain, chosen_steps
from custom_components.config import load
from recipes.doctor import examine_chain

HELD_OUT = 200


@pytest.fixture
def model(tmp_path):
    """A tiny random model of Qwen3's shape."""
    FAMILIES["qwen3"].save_with_tokenizer(tmp_path / "qwen3")
    return tmp_path / "qwen3"


@pytest.fixture
def problems(tmp_path):
    """A file of 300 additions."""
    draws = random.Random(0)
    rows = [(draws.randrange(10, 100), draws.randrange(10, 100)) for _ in range(400)]
    rows = [{"problem": f"{a}+{b}=?", "answer": str(a + b)} for a, b in dict.fromkeys(rows)][:300]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def keys(track, model, problems):
    """Return the overrides that put a local model, and a file of problems, into a track's chain."""
    if track == "any":
        return [f"model={model}", f"problems={problems}"]
    return [f'stages.0.overrides=["source.path={model}"]']


TRACKS = ["any", "qwen2_5_0_5b", "r1_distill_qwen_1_5b"]


@pytest.mark.parametrize("track", TRACKS)
def test_the_plan_and_the_doctor_find_nothing_wrong(tmp_path, model, problems, monkeypatch, track):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = f"configs/{track}/chain.yaml"
    overrides = [*keys(track, model, problems), f"run_dir={tmp_path}/run"]
    cfg = load(ChainConfig, config, overrides)
    steps = chosen_steps(cfg)
    check_chain(cfg, steps)
    assert str(model) in steps[0].overrides[-1]
    _, findings = examine_chain(config, overrides)
    hub = [f for f in findings if "could not be loaded from the hub" in f.what]
    assert [f for f in findings if f.level == "error" and f not in hub] == []
    if track == "any":
        assert findings == []
        names = {step.name: step.cfg for step in steps}
        assert names["rollout"].problems["path"] == str(problems)
        assert names["eval/grpo"].problems == {
            "_component_": "custom_components.data.problems.table",
            "path": str(problems),
            "limit": HELD_OUT,
        }
        # Without the first rows in `sets`, the doctor says what to add.
        short = 'stages.2.overrides=["near_duplicates=null"]'
        _, [finding] = examine_chain(config, [*overrides, short])
        assert finding.name == "decontamination"
        assert (
            f'decontamination.sets=["data/problems.jsonl[:200]","{problems}[:200]"]'
            in finding.change
        )


SMALL_DTYPE = ["device=cpu", "dtype=fp32", "save_dtype=fp32"]
TORCH = "{_component_: custom_components.engines.torch_engine.TorchEngine, batch_size: 128"
TINY = {
    "start": [],
    "rollout": [
        "device=cpu",
        "samples_per_problem=4",
        "engine={_component_: custom_components.engines.teacher.AdditionTeacher, guess: 0.15,"
        " guess_slip: 0.15}",
        "sampling.max_new_tokens=128",
    ],
    "curate": ["near_duplicates=null"],
    "midtrain": [*SMALL_DTYPE, "max_seq_len=512", "max_steps=3", "batch_size=2"],
    "sft": [*SMALL_DTYPE, "max_seq_len=512", "max_steps=3", "batch_size=8"],
    "dpo": [*SMALL_DTYPE, "max_seq_len=512", "max_steps=2", "batch_size=8"],
    "grpo": [
        *SMALL_DTYPE,
        f"engine={TORCH}, model: '${{run_dir}}/dpo/model', progress: false}}",
        "max_steps=2",
        "batch_size=4",
        "group_size=4",
        "selection.rounds=0",
        "max_new_tokens=24",
        "max_seq_len=256",
    ],
}


@pytest.mark.slow
def test_any_model_through_all_stages(tmp_path, model, problems):
    """The whole chain of a tiny model on a CPU, with a teacher that is a program."""
    chain = yaml.safe_load((ROOT / "configs/any/chain.yaml").read_text())
    for stage in chain["stages"]:
        stage["overrides"] = [*stage.get("overrides", []), *TINY[stage["name"]]]
    chain["evaluation_overrides"] += [f"engine={TORCH}}}", "sampling.max_gen_toks=24", "limit=20"]
    chain["doctor"] = {"forecast_prompts": 2}
    config = tmp_path / "chain.yaml"
    config.write_text(yaml.safe_dump(chain))
    run = tmp_path / "run"
    arguments = [f"model={model}", f"problems={problems}", f"run_dir={run}"]
    done = tune("recipes/chain.py", "--config", str(config), *arguments)
    assert "+ RL" in done.stdout
    for stage in ("midtrain", "sft", "dpo", "grpo"):
        assert manifest(run / stage)["status"] == "complete"
        saved = json.loads((run / stage / "model" / "config.json").read_text())
        assert saved["architectures"] == ["Qwen3ForCausalLM"]
        form = json.loads((run / stage / "model" / "reasontune.json").read_text())
        assert form["instruction"].endswith("final answer within \\boxed{}.")
    inputs = manifest(run / "curate")["inputs"]
    assert str(problems) in inputs
    report = json.loads((run / "report.json").read_text())
    assert len(report["stages"]) == 5
    again = tune("recipes/chain.py", "--config", str(config), *arguments, "dry_run=true")
    assert again.stdout.count("skip: complete") == 12
