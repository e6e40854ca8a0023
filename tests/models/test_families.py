"""Compare the decoder with transformers on a tiny model of every family."""

import json

import pytest
import torch
import transformers
from tiny_models import FAMILIES

from custom_components.config import UserError
from custom_components.engines.engine import Sampling
from custom_components.engines.torch_engine import TorchEngine
from custom_components.models import families
from custom_components.models.attention import Documents
from custom_components.models.config_json import model_config, read_model_config
from custom_components.models.hf import HFCheckpointer, build_from_folder, from_folder
from custom_components.models.lora import adapter_scale, is_adapter, merge_adapters
from custom_components.training.flops import model_size, training_flops

every_family = pytest.mark.parametrize("name", FAMILIES)
every_architecture = pytest.mark.parametrize("architecture", families.FAMILIES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that gives a family's folder and transformers' model of it."""
    models = {}

    def save(name):
        if name not in models:
            folder = tmp_path_factory.mktemp(name)
            models[name] = folder, FAMILIES[name].save(folder)
        return models[name]

    return save


def random_tokens(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 101, (1, n), generator=generator) for n in lengths]


@every_family
def test_logits_equal_those_of_transformers_alone_and_packed(saved, name, record_property):
    folder, theirs = saved(name)
    ours = build_from_folder(folder)
    # Beyond 32 tokens transformers takes LongRoPE's long branch, as ours does.
    lengths = (120, 40, 300)
    documents = random_tokens(*lengths)
    packed = Documents(lengths)
    with torch.no_grad():
        expected = [theirs(d).logits[0] for d in documents]
        alone = [ours(d)[0] for d in documents]
        row = ours(torch.cat(documents, 1), mask=packed, input_pos=packed.positions())[0]
    assert all(reference.std() > 0.1 for reference in expected)
    for label, logits in ("alone", torch.cat(alone)), ("packed", row):
        gap = (logits - torch.cat(expected)).abs().max().item()
        record_property(label, gap)
        assert gap < 1e-5


@every_family
def test_export_and_reload_are_bit_identical(saved, tmp_path, name):
    folder, theirs = saved(name)
    checkpointer = HFCheckpointer(folder)
    weights = checkpointer.load_checkpoint()["model"]
    checkpointer.save_model(weights, tmp_path / "model", torch.float32)
    again = type(theirs).from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in theirs.state_dict().items())
    reloaded = HFCheckpointer(tmp_path / "model").load_checkpoint()["model"]
    assert weights.keys() == reloaded.keys()
    assert all(torch.equal(v, reloaded[k]) for k, v in weights.items())


class Ids:
    """Stand in for a tokenizer where prompts are ids."""

    pad_id, stop_ids = 0, [2]


@every_family
def test_the_torch_engine_decodes_greedily_as_transformers_does(saved, name):
    folder, theirs = saved(name)
    engine = TorchEngine(str(folder), Ids(), progress=False)
    prompts = [ids[0].tolist() for ids in random_tokens(40, 33, 57)]
    completions = engine.generate(prompts, 1, Sampling(temperature=0, max_new_tokens=24))
    for prompt, [completion] in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        assert completion.token_ids == expected[0, len(prompt) :].tolist()


@every_family
def test_merged_adapters_compute_what_the_adapted_model_does(saved, name):
    folder, _ = saved(name)
    weights = HFCheckpointer(folder).load_checkpoint()["model"]
    adapted, merged = from_folder(folder, lora_rank=4, lora_alpha=12.0), from_folder(folder)
    adapted.load_state_dict(weights, strict=False)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 4 * 7 * 2 and all(map(is_adapter, trained))
    torch.manual_seed(0)
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.05)
    merged.load_state_dict(merge_adapters(adapted.state_dict(), adapter_scale(adapted)))
    [ids] = random_tokens(50)
    with torch.no_grad():
        assert (merged(ids) - adapted(ids)).abs().max() < 1e-4
        assert (merged(ids) - build_from_folder(folder)(ids)).abs().max() > 0.1


@every_architecture
def test_a_field_left_out_means_what_it_means_to_transformers(architecture):
    theirs = getattr(transformers, architecture).config_class()
    family = families.FAMILIES[architecture]
    for field, default in family.defaults.items():
        if field == "rope_theta":
            parameters = theirs.rope_parameters
            assert parameters.get("full_attention", parameters)["rope_theta"] == default
        elif field == "rope_local_base_freq":
            assert theirs.rope_parameters["sliding_attention"]["rope_theta"] == default
        elif field == "sliding_window_pattern":
            assert theirs._sliding_window_pattern == default
        elif field in ("head_dim", "num_key_value_heads", "layer_types", "no_rope_layers"):
            # transformers' config fills these in where its default is None.
            assert type(theirs).__dataclass_fields__[field].default == default
        elif field == "sliding_window":
            assert type(theirs).__dataclass_fields__[field].default == default
        else:
            assert getattr(theirs, field) == default, field


COMMON = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters",
}  # fmt: skip
NOT_COMPUTED = {
    "initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
}  # fmt: skip


@every_architecture
def test_every_field_of_transformers_config_is_read_fixed_or_computes_nothing(architecture):
    """A field that a newer transformers adds to a family must not be ignored."""
    theirs = getattr(transformers, architecture).config_class
    family = families.FAMILIES[architecture]
    own = set(theirs.__dataclass_fields__) - set(transformers.PreTrainedConfig.__dataclass_fields__)
    known = COMMON | NOT_COMPUTED | set(family.defaults) | set(families.FIXED) | set(family.fixed)
    assert own <= known, own - known


REFUSED = {
    "architectures is Qwen3_5ForCausalLM; supported: LlamaForCausalLM": (
        "qwen3",
        {"architectures": ["Qwen3_5ForCausalLM"]},
    ),
    "hidden_act='gelu' is not supported": ("llama3_1", {"hidden_act": "gelu"}),
    "mlp_bias=True is not supported": ("llama3_1", {"mlp_bias": True}),
    "attention_bias=True is not supported for MistralForCausalLM": (
        "mistral",
        {"attention_bias": True},
    ),
    "rope type 'dynamic' is not supported for LlamaForCausalLM": (
        "llama3_1",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "lacks the field 'factor'": (
        "llama3_1",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}},
    ),
    "partial_rotary_factor=0.5 is not supported": ("qwen3", {"partial_rotary_factor": 0.5}),
    "hidden_size=126 is not a multiple of 4 heads": ("qwen2_5", {"hidden_size": 126}),
    "lacks the field 'rms_norm_eps'": ("smollm3", {"rms_norm_eps": ...}),
    "attention_factor of LongRoPE scales by 2": (
        "phi4_mini",
        {"rope_parameters": {"attention_factor": 2.0}},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_decoder_does_not_compute_is_refused_by_name(saved, message):
    name, changes = REFUSED[message]
    folder, _ = saved(name)
    config = json.loads((folder / "config.json").read_text())
    if "attention_factor" in message:
        changes = {"rope_parameters": config["rope_parameters"] | changes["rope_parameters"]}
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    if "partial_rotary_factor" in changes:
        config["rope_parameters"].pop("partial_rotary_factor", None)
    with pytest.raises(UserError, match="some/model: ") as refused:
        model_config(config, "some/model")
    assert message in str(refused.value)


def test_a_window_is_that_of_the_layers_which_transformers_gives_one(saved):
    for name, changes, windows in [
        ("qwen2_5", {"sliding_window": 16, "use_sliding_window": False}, [None] * 4),
        (
            "qwen3",
            {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3},
            [None, None, None, 16],
        ),
        ("mistral", {"sliding_window": 4096}, [4096] * 4),
        (
            "smollm3",
            {"sliding_window": 16, "use_sliding_window": True, "no_rope_layer_interval": 2},
            [None, 16, None, 16],
        ),
        ("gemma3", {"sliding_window_pattern": 4}, [24, 24, 24, None]),
    ]:
        config = json.loads((saved(name)[0] / "config.json").read_text()) | changes
        config = {k: v for k, v in config.items() if k not in ("layer_types", "no_rope_layers")}
        assert list(model_config(config, name).windows) == windows
        theirs = getattr(transformers, FAMILIES[name].architecture).config_class(**config)
        types = getattr(theirs, "layer_types", ["sliding_attention"] * 4)
        if name != "mistral":
            assert [w is not None for w in windows] == [t == "sliding_attention" for t in types]


def test_the_flops_of_an_untied_embedding_are_not_counted(saved):
    tied, untied = (from_folder(saved(name)[0]) for name in ("qwen2_5", "r1_distill_qwen"))
    assert model_size(untied) == model_size(tied) + 101 * 128
    assert training_flops(untied, 10, 50) == training_flops(tied, 10, 50)
    assert read_model_config(saved("qwen2_5")[0]).variant.tied
