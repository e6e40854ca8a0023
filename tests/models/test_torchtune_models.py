"""torchtune's builders and checkpointer compute what transformers does, or are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import SIZES, TIED, TinyModel

from custom_components.config import UserError
from custom_components.models.attention import Documents
from custom_components.models.builders import build_on_meta, open_checkpointer
from custom_components.models.lora import adapter_scale, is_adapter, merge_adapters

SHAPE = {
    "vocab_size": 101,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 128,
    "intermediate_dim": 160,
    "max_seq_len": 1024,
    "norm_eps": 1e-5,
}
LLAMA3_2 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
BUILDERS = {
    "qwen2": (
        TinyModel("Qwen2ForCausalLM", QWEN),
        {"_component_": "torchtune.models.qwen2.qwen2"},
        "QWEN2",
    ),
    "qwen2_tied": (
        TinyModel("Qwen2ForCausalLM", QWEN | TIED),
        {"_component_": "torchtune.models.qwen2.qwen2", "tie_word_embeddings": True},
        "QWEN2",
    ),
    "llama3_2": (
        TinyModel("LlamaForCausalLM", TIED | {"rope_parameters": LLAMA3_2}),
        {"_component_": "torchtune.models.llama3_2.llama3_2"},
        "LLAMA3_2",
    ),
    "mistral": (
        TinyModel("MistralForCausalLM", {"sliding_window": None}),
        {"_component_": "torchtune.models.mistral.mistral"},
        "MISTRAL",
    ),
    "phi3": (
        TinyModel("Phi3ForCausalLM"),
        {"_component_": "torchtune.models.phi3.phi3"},
        "PHI3_MINI",
    ),
}
LORA = {"lora_attn_modules": ["q_proj", "v_proj"], "lora_rank": 4, "lora_alpha": 8.0}


def nodes(name, folder, out, **changes):
    """Return the `model` and `checkpointer` nodes of a builder and a folder."""
    _, builder, kind = BUILDERS[name]
    checkpointer = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(folder),
        "checkpoint_files": ["model.safetensors"],
        "model_type": kind,
        "output_dir": str(out),
    }
    return SHAPE | builder, checkpointer | changes


def materialised(model):
    """Give a model that was built on meta memory, as the trainer does."""
    model.to_empty(device="cpu")
    for module in model.modules():
        if callable(initialise := getattr(module, "rope_init", None)):
            initialise()
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    models = {}

    def save(name):
        if name not in models:
            folder = tmp_path_factory.mktemp(name)
            models[name] = folder, BUILDERS[name][0].save(folder)
        return models[name]

    return save


@pytest.mark.parametrize("name", BUILDERS)
def test_builder_and_checkpointer_equal_transformers(saved, tmp_path, name):
    folder, theirs = saved(name)
    model_node, checkpointer_node = nodes(name, folder, tmp_path / "out")
    checkpointer = open_checkpointer(checkpointer_node)
    model = build_on_meta(model_node)
    checkpointer.check_model(model)
    weights = checkpointer.load_checkpoint()["model"]
    materialised(model).load_state_dict(weights, strict=True)
    generator = torch.Generator().manual_seed(0)
    lengths = (60, 100)
    documents = [torch.randint(0, 101, (1, n), generator=generator) for n in lengths]
    packed = Documents(lengths)
    with torch.no_grad():
        row = model(torch.cat(documents, 1), mask=packed, input_pos=packed.positions())[0]
        for part, document in zip(row.split(lengths), documents, strict=True):
            assert (part - theirs(document).logits[0]).abs().max() < 1e-5
    # What is written is what was read.
    checkpointer.save_model(weights, tmp_path / "model", torch.float32)
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert model.size.intermediate_dim == 160 and model.size.num_kv_heads == 2


def test_a_lora_builder_trains_its_adapters_alone_and_is_merged(saved, tmp_path):
    folder, _ = saved("qwen2")
    _, checkpointer_node = nodes("qwen2", folder, tmp_path / "out")
    node = SHAPE | LORA | {"_component_": "torchtune.models.qwen2.lora_qwen2"}
    model = build_on_meta(node | {"apply_lora_to_mlp": True})
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 4 * 5 * 2 and all(map(is_adapter, trained))
    checkpointer = open_checkpointer(checkpointer_node)
    checkpointer.check_model(model)
    weights = checkpointer.load_checkpoint()["model"]
    materialised(model).load_state_dict(weights, strict=False)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.05)
    plain = materialised(build_on_meta(nodes("qwen2", folder, tmp_path)[0]))
    plain.load_state_dict(merge_adapters(model.state_dict(), adapter_scale(model)))
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert (model(ids) - plain(ids)).abs().max() < 1e-4


OURS = "custom_components.models.hf.HFCheckpointer"


@pytest.mark.parametrize(
    ("name", "model_changes", "checkpointer", "message"),
    [
        (
            "llama3_2",
            {},
            {"_component_": OURS},
            "rotates neighbouring dimensions of a head .* use torchtune.training.FullModelHF",
        ),
        (
            "llama3_2",
            {"_component_": "custom_components.models.hf.from_folder"},
            {},
            "rotates the halves of a head against each other",
        ),
        ("llama3_2", {"scale_factor": 8}, {}, "differ in the rotary frequencies"),
        ("qwen2", {"rope_base": 5e5}, {}, "differ in the rotary frequencies"),
        ("qwen2", {"norm_eps": 1e-6}, {}, "differ in the norm's epsilon: 1e-06 built, 1e-05 in"),
        ("qwen2", {"tie_word_embeddings": True}, {}, "output.weight is missing in the built model"),
        ("qwen2", {"attn_dropout": 0.1}, {}, "attn_dropout=0.1 of torchtune's builder"),
        ("qwen2", {}, {"model_type": "QWEN5"}, "checkpointer: .*: KeyError: 'QWEN5'"),
        ("qwen2", {}, {"model_type": "GEMMA2"}, "GEMMA2 is not supported"),
        ("qwen2", {}, {"checkpoint_files": ["x.safetensors"]}, "x.safetensors"),
        ("qwen2", {}, {"resume_from_checkpoint": True}, "resumes from its own"),
        (
            "qwen2",
            {},
            {"_component_": "torchtune.training.FullModelMetaCheckpointer"},
            "FullModelMetaCheckpointer is not supported; name custom_components.models.hf",
        ),
    ],
)
def test_what_does_not_fit_is_refused(saved, tmp_path, name, model_changes, checkpointer, message):
    folder, _ = saved(name)
    model_node, checkpointer_node = nodes(name, folder, tmp_path / "out", **checkpointer)
    if checkpointer.get("_component_") == OURS:
        checkpointer_node = checkpointer | {"checkpoint_dir": str(folder)}
    model_node |= model_changes
    if "from_folder" in model_node["_component_"]:
        model_node = model_changes | {"path": str(folder)}
    with pytest.raises(UserError, match=message):
        open_checkpointer(checkpointer_node).check_model(build_on_meta(model_node))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_dropout": 0.1}, "lora_dropout of torchtune's builder is not supported"),
        ({"use_dora": True}, "use_dora of torchtune's builder is not supported"),
        ({"quantize_base": True}, "model.quantize_base is not supported"),
        ({"apply_lora_to_output": True}, "apply_lora_to_output of torchtune's builder"),
        ({"_component_": "torchtune.models.gemma2.gemma2"}, "Gemma2Attention of torchtune's"),
        ({"_component_": "torch.nn.Linear"}, "builds a Linear, which is not a decoder"),
    ],
)
def test_what_of_a_builder_is_not_supported_is_named(changes, message):
    node = SHAPE | LORA | {"_component_": "torchtune.models.qwen2.lora_qwen2"} | changes
    if "gemma2" in node["_component_"]:
        node = SHAPE | changes | {"head_dim": 32}
    if "Linear" in node["_component_"]:
        node = changes | {"in_features": 2, "out_features": 2}
    with pytest.raises(UserError, match=message):
        build_on_meta(node)


def test_a_config_without_a_field_that_torchtune_needs_is_one_line(saved, tmp_path):
    folder, _ = saved("qwen2")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, node = nodes("qwen2", tmp_path, tmp_path.parent / "out")
    with pytest.raises(UserError, match="tie_word_embeddings"):
        open_checkpointer(node).load_checkpoint()
    assert SIZES["tie_word_embeddings"] is False
