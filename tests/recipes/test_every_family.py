"""Every recipe trains every family, and what it leaves is transformers' own model."""

import json

import pytest
import torch
import transformers
from conftest import ROOT, metrics
from tiny_models import FAMILIES, TIED, TinyModel

from custom_components.config import load, schema_of
from custom_components.data.curation import MESSAGES_SCHEMA, PAIRS_SCHEMA
from custom_components.data.rows import write_rows
from custom_components.models.hf import build_from_folder

FROM_FOLDER = "custom_components.models.hf.from_folder"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with problems a+1, answers that are right or wrong by turns, and pairs."""
    folder = tmp_path_factory.mktemp("data")
    rows, pairs = [], []
    for a in range(1, 9):
        names = {"id": f"{a}", "source": "coin"}
        prompt = [{"role": "user", "content": f"{a}+1=?"}]
        right, wrong = f"\\boxed{{{a + 1}}}", f"\\boxed{{{a}}}"
        for text in (right, wrong):
            answer = [{"role": "assistant", "content": text}]
            rows.append(names | {"answer": str(a + 1), "messages": prompt + answer})
        pair = {"prompt": prompt, "chosen": right, "rejected": wrong, "rejected_finished": True}
        pairs.append(names | pair)
    write_rows(folder / "messages.parquet", rows, MESSAGES_SCHEMA)
    write_rows(folder / "pairs.parquet", pairs, PAIRS_SCHEMA)
    lines = [{"problem": f"{a}+1=?", "answer": str(a + 1)} for a in range(1, 9)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Return a function that runs a recipe in this process, and returns its run folder."""
    monkeypatch.chdir(ROOT)
    problems = (
        f"{{_component_: custom_components.data.problems.table, path: {data}/problems.jsonl}}"
    )
    rl = [
        f"problems={problems}",
        "group_size=8",
        "batch_size=8",
        "max_new_tokens=8",
        "max_seq_len=64",
        "engine.progress=false",
        "optimizer.lr=1e-4",
    ]
    grpo = ["selection.rounds=0", "rebalance.enabled=false", "verifier.workers=1"]
    own = {
        "midtrain": [f"data={data}/messages.parquet", "batch_size=2", "max_seq_len=128"],
        "sft": [f"data={data}/messages.parquet", "batch_size=16", "max_seq_len=64"],
        "dpo": [f"data={data}/pairs.parquet", "batch_size=8", "max_seq_len=64"],
        "grpo": [*rl, *grpo],
        "ppo": [*rl, "verifier.workers=1"],
    }

    def run(name, start, label, *overrides):
        folder = tmp_path / label
        cfg = load(
            schema_of(name),
            f"configs/tiny/{name}.yaml",
            [
                f"output_dir={folder}",
                f"checkpointer.checkpoint_dir={start}",
                f"tokenizer.path={start}",
                f"model={{_component_: {FROM_FOLDER}, path: {start}}}",
                "max_steps=2",
                "checkpoint_every=100",
                *own[name],
                *overrides,
            ],
        )
        __import__(f"recipes.{name}", fromlist=["main"]).main.run(cfg)
        return folder

    return run


def check_model(folder, start):
    """Check that a run's model loads in transformers, computes the same, and has been trained.

    Returns:
        Largest difference of its logits from transformers'.
    """
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        expected = theirs(ids).logits
        gap = (build_from_folder(folder / "model")(ids) - expected).abs().max().item()
        assert gap < 1e-5
        assert (build_from_folder(start)(ids) - expected).abs().max() > 1e-4
    return gap


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["qwen2_5", "mistral_window", "gemma3", "phi4_mini"])
def test_each_recipe_in_bf16_on_a_gpu(run, tmp_path, name):
    start = tmp_path / "start"
    FAMILIES[name].save_with_tokenizer(start)
    gpu = ["device=cuda", "dtype=bf16"]
    taught = run("sft", start, "taught", "max_steps=150", "optimizer.lr=2e-3", *gpu)
    losses = [row["loss"] for row in metrics(taught)]
    assert losses[-1] < 0.35 < losses[0]
    model = taught / "model"
    check_model(taught, start)
    for recipe, label, overrides in [
        ("midtrain", "midtrain", ["compile=true"]),
        ("sft", "sft", ["activation_checkpointing=true", "recompute_every=2"]),
        ("sft", "saved", ["checkpoint_every=1", "async_checkpoints=true"]),
        ("sft", "lora", ["model.lora_rank=4", "optimizer.lr=1e-2"]),
        ("dpo", "dpo", ["optimizer.lr=1e-3"]),
        ("grpo", "grpo", ["engine.device=cuda"]),
        ("ppo", "ppo", ["engine.device=cuda"]),
    ]:
        folder = run(recipe, model, label, *gpu, *overrides)
        check_model(folder, model)
        if recipe in ("grpo", "ppo"):
            assert all(row["logprob_gap"] < 0.05 for row in metrics(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_of_each_recipe(run, tmp_path, name, record_property):
    start = tmp_path / "start"
    FAMILIES[name].save_with_tokenizer(start)
    # Enough steps for answers that are right about as often as wrong.
    taught = run("sft", start, "taught", "max_steps=150", "optimizer.lr=2e-3")
    losses = [row["loss"] for row in metrics(taught)]
    assert losses[-1] < 0.3 < losses[0]
    check_model(taught, start)
    model = taught / "model"
    for recipe, label, overrides in [
        ("midtrain", "midtrain", []),
        ("sft", "sft", ["activation_checkpointing=true"]),
        ("sft", "lora", ["model.lora_rank=4", "optimizer.lr=1e-2"]),
        ("dpo", "dpo", ["optimizer.lr=1e-3"]),
        ("grpo", "grpo", []),
        ("ppo", "ppo", []),
    ]:
        folder = run(recipe, model, label, *overrides)
        record_property(label, check_model(folder, model))
        assert (folder / "adapter" / "adapter_config.json").is_file() == (label == "lora")
        if recipe in ("grpo", "ppo"):
            rows = metrics(folder)
            record_property(f"{label}_accuracy", min(row["accuracy"] for row in rows))
            assert all(0.1 < row["accuracy"] < 0.9 for row in rows), rows
            # The engine samples with the weights that are trained.
            assert all(row["logprob_gap"] < 1e-4 for row in rows), rows


SHAPE = (
    "vocab_size: 88, num_layers: 4, num_heads: 4, num_kv_heads: 2, embed_dim: 128, "
    "intermediate_dim: 160, max_seq_len: 1024, norm_eps: 1e-5"
)
LORA = "lora_attn_modules: [q_proj, v_proj], lora_rank: 4, lora_alpha: 8.0"
QWEN2 = TinyModel(
    "Qwen2ForCausalLM", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
)
LLAMA3_2 = TinyModel(
    "LlamaForCausalLM",
    TIED
    | {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    },
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "builder", "kind"),
    [(QWEN2, "qwen2.qwen2", "QWEN2"), (LLAMA3_2, "llama3_2.llama3_2", "LLAMA3_2")],
    ids=["qwen2", "llama3_2"],
)
def test_torchtunes_builder_and_checkpointer_in_each_recipe(
    run, tmp_path, family, builder, kind, record_property
):
    start = tmp_path / "start"
    family.save_with_tokenizer(start)
    taught = run("sft", start, "taught", "max_steps=150", "optimizer.lr=2e-3")
    model = taught / "model"

    def theirs(label, component=builder, more=""):
        package, function = component.split(".")
        return [
            f"model={{_component_: torchtune.models.{package}.{function}, {SHAPE}{more}}}",
            "checkpointer={_component_: torchtune.training.FullModelHFCheckpointer, "
            f"checkpoint_dir: {model}, checkpoint_files: [model.safetensors], "
            f"model_type: {kind}, output_dir: {tmp_path / label}}}",
        ]

    package, function = builder.split(".")
    runs = [
        (recipe, recipe, theirs(recipe)) for recipe in ("midtrain", "sft", "dpo", "grpo", "ppo")
    ]
    lora = theirs("lora", f"{package}.lora_{function}", f", {LORA}")
    runs.append(("grpo", "lora", [*lora, "optimizer.lr=1e-2"]))
    for recipe, label, overrides in runs:
        if recipe == "dpo":
            overrides = [*overrides, "optimizer.lr=1e-3"]
        folder = run(recipe, model, label, *overrides)
        record_property(label, check_model(folder, model))
        assert (folder / "adapter" / "adapter_config.json").is_file() == (label == "lora")
        if recipe in ("grpo", "ppo"):
            assert all(row["logprob_gap"] < 1e-4 for row in metrics(folder))
