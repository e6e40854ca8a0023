"""Compare our decoders with transformers on random models of several shapes."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from custom_components.config import UserError
from custom_components.models import hf
from custom_components.models.attention import Documents
from custom_components.models.config_json import read_model_config, served_rope_factors
from custom_components.models.hf import HFCheckpointer, build_from_folder
from custom_components.models.longrope import rope_factor_of
from custom_components.models.phi4_mini import phi4_mini_3_8b, phi4_mini_tiny
from custom_components.models.smollm2 import smollm2_135m

SHAPES = [  # hidden, heads, kv heads, layers, intermediate, partial rotary
    (64, 4, 2, 2, 96, 0.75),
    (96, 3, 1, 3, 128, 0.5),
    (128, 4, 4, 2, 160, 1.0),
]


def phi3_folder(path, hidden, heads, kv, layers, inter, partial, seed=0):
    torch.manual_seed(seed)
    rotary = int(hidden // heads * partial) // 2
    config = Phi3Config(
        vocab_size=101,
        hidden_size=hidden,
        intermediate_size=inter,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=256,
        original_max_position_embeddings=32,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        partial_rotary_factor=partial,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": partial,
            "short_factor": [1.0 + 0.01 * i for i in range(rotary)],
            "long_factor": [1.0 + 0.7 * i for i in range(rotary)],
            "original_max_position_embeddings": 32,
            "factor": 8.0,
        },
    )
    model = Phi3ForCausalLM(config).eval()
    for parameter in model.parameters():  # norms that are all ones would hide a missing norm
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [20, 32, 33, 100])
def test_phi4_mini_equals_transformers(tmp_path, shape, length):
    theirs = phi3_folder(tmp_path, *shape)
    tokens = torch.randint(0, 101, (2, length), generator=torch.Generator().manual_seed(1))
    branch = "long" if length > 32 else "short"
    with torch.no_grad():
        expected = theirs(tokens).logits
        for rope_factor in ("by_length", branch):
            ours = build_from_folder(tmp_path, rope_factor)(tokens)
            assert (ours - expected).abs().max() < 1e-5
        other = build_from_folder(tmp_path, {"long": "short", "short": "long"}[branch])(tokens)
    assert (other - expected).abs().max() > 1e-3  # the branch matters


@pytest.mark.parametrize(
    ("rope_factor", "lengths"),
    [
        ("short", (7, 32, 20)),
        ("long", (40, 33, 90)),
        ("by_length", (12, 30)),
        ("by_length", (50, 34)),
    ],
)
def test_packed_documents_equal_transformers_on_each(tmp_path, rope_factor, lengths):
    """Documents in a row or in a padded batch get what transformers computes for each alone."""
    theirs = phi3_folder(tmp_path, *SHAPES[0])
    ours = build_from_folder(tmp_path, rope_factor)
    generator = torch.Generator().manual_seed(2)
    documents = [torch.randint(0, 101, (1, n), generator=generator) for n in lengths]
    longest = max(lengths)
    with torch.no_grad():
        expected = [theirs(d).logits[0] for d in documents]
        packed = Documents(lengths)
        row = ours(torch.cat(documents, 1), mask=packed, input_pos=packed.positions())[0]
        for part, logits in zip(row.split(lengths), expected, strict=True):
            assert (part - logits).abs().max() < 1e-5
        # Engines pad on the left; a padded position attends to itself alone.
        pad = torch.tensor([longest - n for n in lengths])
        batch = torch.cat(
            [torch.nn.functional.pad(d, (longest - d.shape[1], 0)) for d in documents]
        )
        columns = torch.arange(longest)
        mask = (columns[None, None] <= columns[None, :, None]) & (columns >= pad[:, None])[:, None]
        mask |= torch.eye(longest, dtype=torch.bool)
        positions = (columns[None] - pad[:, None]).clamp(min=0)
        padded = ours(batch, mask=mask, input_pos=positions)
        for row, n, logits in zip(padded, lengths, expected, strict=True):
            assert (row[longest - n :] - logits).abs().max() < 1e-5


def test_smollm2_with_its_real_weights_equals_transformers():
    """Needs `REASONTUNE_SMOLLM2`: a folder with SmolLM2-135M, as recipes/start.py writes it."""
    folder = os.environ.get("REASONTUNE_SMOLLM2")
    if not folder:
        pytest.skip("no folder with SmolLM2's weights (REASONTUNE_SMOLLM2)")
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = build_from_folder(folder)
    tokens = torch.randint(0, 49_152, (2, 300), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert (ours(tokens) - theirs(tokens).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
def test_smollm2_equals_transformers(tmp_path, heads):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=24 * heads[0],
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, 101, (2, 50))
    with torch.no_grad():
        assert (build_from_folder(tmp_path)(tokens) - theirs(tokens).logits).abs().max() < 1e-5


def all_tensors(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_round_trip_is_bit_identical(tmp_path, monkeypatch, dtype, shards):
    """Both sides may be sharded; the files beside the weights are kept."""
    model = phi3_folder(tmp_path / "a", *SHAPES[0]).to(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if shards > 1:
        (tmp_path / "a" / "model.safetensors").unlink()
        monkeypatch.setattr(hf, "SHARD_BYTES", size // 2)
    model.save_pretrained(tmp_path / "a", max_shard_size=size if shards == 1 else size // 2)
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((tmp_path / "a" / "config.json").read_text()) | {"a_field_of_theirs": [1]}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    checkpointer = HFCheckpointer(tmp_path / "a")
    weights = checkpointer.load_checkpoint()["model"]
    checkpointer.save_model(weights, tmp_path / "b", dtype)
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards > 1)
    before, after = all_tensors(tmp_path / "a"), all_tensors(tmp_path / "b")
    assert before.keys() == after.keys()
    kept = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {k: v for k, v in kept.items() if k != "dtype"} == {
        k: v for k, v in config.items() if k != "dtype"
    }
    again = Phi3ForCausalLM.from_pretrained(tmp_path / "b", dtype=dtype).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(before[k], after[k]) and after[k].dtype == dtype for k in before)
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_long_trained_export_is_one_function_at_every_length(tmp_path):
    phi3_folder(tmp_path / "a", *SHAPES[0])
    checkpointer = HFCheckpointer(tmp_path / "a")
    weights = checkpointer.load_checkpoint()["model"]
    checkpointer.save_model(weights, tmp_path / "b", torch.float32, rope_factor="long")
    rope = json.loads((tmp_path / "b" / "config.json").read_text())["rope_parameters"]
    assert rope["short_factor"] == rope["long_factor"]
    theirs = Phi3ForCausalLM.from_pretrained(tmp_path / "b").eval()
    ours = build_from_folder(tmp_path / "a", "long")
    for length in (10, 32, 80):
        tokens = torch.randint(0, 101, (1, length))
        with torch.no_grad():
            assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5


def test_parameter_counts():
    with torch.device("meta"):
        models = phi4_mini_3_8b(), smollm2_135m(), phi4_mini_tiny()
    counts = [sum(p.numel() for p in m.parameters()) for m in models]
    assert counts[:2] == [3_836_021_760, 134_515_008]
    assert 1_500_000 < counts[2] < 2_500_000


def test_what_cannot_be_represented_is_refused(tmp_path):
    phi3_folder(tmp_path, *SHAPES[0])
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for change, word in [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": good["rope_parameters"] | {"short_factor": [1.0]}}, "short_factor"),
        ({"rope_parameters": good["rope_parameters"] | {"rope_type": "yarn"}}, "yarn"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=word):
            read_model_config(tmp_path)


def test_damaged_and_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        HFCheckpointer(tmp_path)
    phi3_folder(tmp_path, *SHAPES[0])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        HFCheckpointer(tmp_path).load_checkpoint()
    weights.unlink()
    with pytest.raises(UserError, match="model.safetensors is missing"):
        HFCheckpointer(tmp_path).load_checkpoint()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="model-00001-of-00002.safetensors is missing"):
        HFCheckpointer(tmp_path).load_checkpoint()


def test_a_redundant_head_is_dropped(tmp_path):
    model = phi3_folder(tmp_path, *SHAPES[0])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = model.lm_head.weight.detach().clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    build_from_folder(tmp_path)  # loads strictly


def test_older_configs_say_rope_scaling(tmp_path):
    phi3_folder(tmp_path, *SHAPES[0])
    new = read_model_config(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {
            "type": "longrope",
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        },
    }
    path.write_text(json.dumps(config))
    assert read_model_config(tmp_path) == new


def test_vllm_serves_the_branch_that_its_context_decides(tmp_path):
    phi3_folder(tmp_path, *SHAPES[0])
    factors = read_model_config(tmp_path).rotary.factors
    assert served_rope_factors(tmp_path, 32) == factors["short"]
    assert served_rope_factors(tmp_path, 33) == factors["long"]


def test_a_builder_that_is_not_the_checkpoint_is_refused(tmp_path):
    phi3_folder(tmp_path, *SHAPES[0])
    with pytest.raises(UserError, match="model and checkpoint differ"):
        HFCheckpointer(tmp_path).check_model(phi4_mini_tiny())


def test_a_folder_says_which_model_it_is(tmp_path):
    phi3_folder(tmp_path, 64, 4, 2, 2, 96, 0.75)
    plain = hf.from_folder(tmp_path, "short")
    HFCheckpointer(tmp_path).check_model(plain)
    assert rope_factor_of(plain) == "short"
    adapted = hf.from_folder(tmp_path, lora_rank=2, lora_modules=["q_proj"])
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert names and all(".q_proj.lora_" in name for name in names)
