"""Our decoders against transformers, on random models of several shapes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from custom_components.config import UserError
from custom_components.models.hf import HFCheckpointer, build_from_folder, builder_arguments
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
        vocab_size=101, hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=256,
        original_max_position_embeddings=32, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, partial_rotary_factor=partial,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": partial,
            "short_factor": [1.0 + 0.01 * i for i in range(rotary)],
            "long_factor": [1.0 + 0.7 * i for i in range(rotary)],
            "original_max_position_embeddings": 32, "factor": 8.0,
        },
    )  # fmt: skip
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


@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
def test_smollm2_equals_transformers(tmp_path, heads):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101, hidden_size=24 * heads[0], intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=heads[0], num_key_value_heads=heads[1], max_position_embeddings=128,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, 101, (2, 50))
    with torch.no_grad():
        assert (build_from_folder(tmp_path)(tokens) - theirs(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_identical(tmp_path, dtype):
    phi3_folder(tmp_path / "a", *SHAPES[0]).to(dtype).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    checkpointer = HFCheckpointer(tmp_path / "a")
    weights = checkpointer.load_checkpoint()["model"]
    checkpointer.save_model(weights, tmp_path / "b", dtype)
    before = load_file(tmp_path / "a" / "model.safetensors")
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert before.keys() == after.keys()
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
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 16}, "sliding_window"),
        ({"rope_parameters": good["rope_parameters"] | {"short_factor": [1.0]}}, "short_factor"),
        ({"rope_parameters": good["rope_parameters"] | {"rope_type": "yarn"}}, "yarn"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=word):
            builder_arguments(tmp_path)


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


def test_a_builder_that_is_not_the_checkpoint_is_refused(tmp_path):
    phi3_folder(tmp_path, *SHAPES[0])
    with pytest.raises(UserError, match="model and checkpoint differ"):
        HFCheckpointer(tmp_path).check_model(phi4_mini_tiny())
