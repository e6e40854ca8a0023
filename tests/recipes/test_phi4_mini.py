"""configs/phi4_mini with only the model's size, the lengths and the data made small; and LoRA."""

import json

import pytest
import torch
from conftest import SMALL, recipe, reopen
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from custom_components.models.start import random_tiny

SIZE = ["device=cpu", "model._component_=custom_components.models.phi4_mini.phi4_mini_tiny"]
LENGTHS = ["max_seq_len=512", "max_tokens_per_micro_batch=1024", "batch_size=4", "max_steps=2"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def phi(small_run, tmp_path_factory):
    """A run folder of the phi4_mini track: its start stage, from a folder in place of the hub."""
    folder = tmp_path_factory.mktemp("phi")
    (folder / "source").mkdir()
    random_tiny(folder / "source")
    recipe("start", f"run_dir={folder}", f"source.path={folder}/source", track="phi4_mini")
    return folder


@pytest.mark.parametrize(
    ("stage", "split", "before"),
    [("midtrain", "midtrain", "start"), ("sft", "sft", "midtrain"), ("dpo", "pairs", "sft")],
)
def test_the_papers_training_configs_take_steps(small_run, phi, stage, split, before):
    """In order: each reads the model of the one before, with the fixed sentence in its template."""
    held_out = ["validation.share=0.1"] if stage == "midtrain" else []  # of 90 problems
    recipe(
        stage,
        f"run_dir={phi}",
        f"data={small_run}/curate/{split}.parquet",
        "tokenize_workers=1",
        *SIZE,
        *LENGTHS,
        *held_out,
        track="phi4_mini",
    )
    rows = metrics(phi / stage)
    assert len(rows) == 2 and all(r["loss"] > 0 and r["grad_norm"] > 0 for r in rows)
    model = AutoModelForCausalLM.from_pretrained(phi / stage / "model")
    assert model.dtype == torch.bfloat16
    text = AutoTokenizer.from_pretrained(phi / stage / "model").apply_chat_template(
        [{"role": "user", "content": "1+1?"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|system|>Your name is Phi, an AI math expert")
    rope = json.loads((phi / stage / "model" / "config.json").read_text())["rope_parameters"]
    assert rope["short_factor"] == rope["long_factor"] != [1.0] * 12


@pytest.mark.slow  # three starts of vLLM
def test_the_papers_configs_with_an_engine_take_steps(small_run, phi):
    """rollout, grpo and evaluate as they stand, with vLLM."""
    problems = (
        "problems={_component_: custom_components.data.problems.table, limit: 8, "
        f"path: {small_run}/curate/prompts.parquet}}"
    )
    common = [f"run_dir={phi}", problems, "engine.max_model_len=512"]
    model = f"{phi}/start/model"
    recipe(
        "rollout",
        *common,
        f"tokenizer.path={model}",
        "samples_per_problem=2",
        "device=cpu",
        "sampling.max_new_tokens=16",
        track="phi4_mini",
    )
    recipe(
        "curate",
        f"run_dir={phi}",
        "verifier.workers=1",
        "decontamination.sets=[]",
        track="phi4_mini",
    )
    recipe(
        "grpo",
        *common,
        *SIZE,
        *LENGTHS,
        "max_new_tokens=16",
        "group_size=2",
        "selection.samples=2",
        f"checkpointer.checkpoint_dir={model}",
        f"tokenizer.path={model}",
        "rebalance.max_samples=2",
        "selection.threshold=10",
        track="phi4_mini",
    )
    assert len(metrics(phi / "grpo")) == 2
    recipe(
        "evaluate",
        f"run_dir={phi}",
        "only=[start]",
        "tasks=[reasoning_tiny_addition]",
        "limit=4",
        "engine.max_model_len=512",
        "sampling={max_gen_toks: 16}",
        track="phi4_mini",
    )


LORA = ["model.lora_rank=4", "model.lora_alpha=8", "optimizer.lr=1e-2"]


@pytest.mark.parametrize("name", [pytest.param("midtrain", marks=pytest.mark.slow), "sft", "dpo"])
def test_lora_trains_on_one_rank_as_on_two_and_exports_a_plain_model(small_run, tmp_path, name):
    runs = {}
    for launch in ((), ("--nproc_per_node", "2")):
        out = tmp_path / f"{name}{len(launch)}"
        recipe(
            name, f"run_dir={small_run}", f"output_dir={out}", *SMALL[name], *LORA, launch=launch
        )
        runs[len(launch)] = [r["loss"] for r in metrics(out)]
    assert runs[0] == pytest.approx(runs[2], abs=1e-5)
    before = {"midtrain": "start", "sft": "midtrain", "dpo": "sft"}[name]
    a, b = (
        load_file(f / "model" / "model.safetensors")
        for f in (small_run / before, tmp_path / f"{name}0")
    )
    assert a.keys() == b.keys()
    changed = {k for k in a if not torch.equal(a[k], b[k])}
    assert changed == {
        k for k in a if "_proj" in k
    }  # merged into the linear layers, and nowhere else
    AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}0" / "model")
    if name == "sft":  # 4 steps, a checkpoint at 2: continued from it, the same to the last bit
        for path in (tmp_path / "sft0" / "model", tmp_path / "sft0" / "checkpoints" / "step_4"):
            assert path.exists() == (path.name == "model")
        kept = tmp_path / "sft0" / "checkpoints" / "step_2"
        assert sum(f.stat().st_size for f in kept.glob("*.distcp")) < 1.5e6  # adapters alone
        reopen(tmp_path / "sft0")
        done = recipe(
            name, f"run_dir={small_run}", f"output_dir={tmp_path / 'sft0'}", *SMALL[name], *LORA
        )
        assert "continuing from step 2" in done.stdout
        again = load_file(tmp_path / "sft0" / "model" / "model.safetensors")
        assert all(torch.equal(b[k], again[k]) for k in b)


def test_compiled_and_checkpointed_layers_compute_the_same(small_run, tmp_path):
    recipe(
        "midtrain",
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'x'}",
        *SMALL["midtrain"],
        "max_steps=2",
        "compile=true",
        "activation_checkpointing=true",
    )
    plain = [r["loss"] for r in metrics(small_run / "midtrain")][:2]
    # the schedule is another one (2 steps instead of 4), the first loss is not
    assert metrics(tmp_path / "x")[0]["loss"] == pytest.approx(plain[0], abs=1e-5)


def test_weights_in_bf16_train_on_two_ranks(small_run, tmp_path):
    recipe(
        "sft",
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'x'}",
        *SMALL["sft"],
        "max_steps=2",
        "dtype=bf16",
        "weights_dtype=bf16",
        "tokenize_workers=2",
        launch=("--nproc_per_node", "2"),
    )
    plain = metrics(small_run / "sft")[0]["loss"]
    assert metrics(tmp_path / "x")[0]["loss"] == pytest.approx(plain, rel=0.02)
