"""A run's adapters load in PEFT, and compute there what the trained model does."""

import json

import pytest
import torch
from tiny_models import FAMILIES, TIED, TinyModel

from custom_components.models.builders import build_on_meta, open_checkpointer
from custom_components.models.hf import HFCheckpointer, from_folder
from custom_components.models.lora import is_adapter
from custom_components.models.peft_adapter import save_adapter


def adapted(model, checkpointer):
    """Give a model the folder's weights, and adapters that change something."""
    model.load_state_dict(checkpointer.load_checkpoint()["model"], strict=False)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def check(model, checkpointer, base, output):
    """Save the adapters of a model, and compare it with PEFT on the base model."""
    peft = pytest.importorskip("peft")
    save_adapter(model.state_dict(), model, checkpointer, output, "some/base")
    theirs = peft.PeftModel.from_pretrained(base, output).eval()
    ids = torch.arange(3, 80)[None]
    with torch.no_grad():
        expected = model(ids)
        assert (theirs(ids).logits - expected).abs().max() < 1e-4
        with theirs.disable_adapter():
            assert (theirs(ids).logits - expected).abs().max() > 0.1
    return json.loads((output / "adapter_config.json").read_text())


@pytest.mark.parametrize("name", ["smollm2", "qwen2_5", "qwen3", "smollm3", "phi4_mini"])
@pytest.mark.parametrize("modules", ["all", "q_proj up_proj", "v_proj down_proj"])
def test_peft_computes_what_was_trained(tmp_path, name, modules):
    base = FAMILIES[name].save(tmp_path / "base")
    chosen = {} if modules == "all" else {"lora_modules": modules.split()}
    model = from_folder(tmp_path / "base", lora_rank=4, lora_alpha=6.0, **chosen)
    checkpointer = HFCheckpointer(tmp_path / "base")
    config = check(adapted(model, checkpointer), checkpointer, base, tmp_path / "adapter")
    assert config["base_model_name_or_path"] == "some/base"
    if name == "phi4_mini":
        names = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
        rank = 12 if modules == "all" else 4
    else:
        names = {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
        rank = 4
    assert set(config["target_modules"]) <= names
    assert (config["r"], config["lora_alpha"]) == (rank, 1.5 * rank)


def test_the_permutation_of_torchtunes_llama_is_undone(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    base = TinyModel("LlamaForCausalLM", TIED | {"rope_parameters": scaling}).save(
        tmp_path / "base"
    )
    checkpointer = open_checkpointer(
        {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(tmp_path / "base"),
            "checkpoint_files": ["model.safetensors"],
            "model_type": "LLAMA3_2",
            "output_dir": str(tmp_path / "out"),
        }
    )
    model = build_on_meta(
        {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2",
            "vocab_size": 101,
            "num_layers": 4,
            "num_heads": 4,
            "num_kv_heads": 2,
            "embed_dim": 128,
            "intermediate_dim": 160,
            "max_seq_len": 1024,
            "norm_eps": 1e-5,
            "lora_attn_modules": ["q_proj", "k_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "lora_rank": 4,
            "lora_alpha": 6.0,
        }
    )
    model.to_empty(device="cpu")
    model.rope.rope_init()
    check(adapted(model, checkpointer), checkpointer, base, tmp_path / "adapter")
