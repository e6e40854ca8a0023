"""Start models come from folders of every layout, or are refused in one line that names them."""

import json

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES

from custom_components.config import UserError
from custom_components.models.hf import HFCheckpointer, build_from_folder
from custom_components.models.start import check_source, pretrained

PRETRAINED = "custom_components.models.start.pretrained"


@pytest.fixture
def folder(tmp_path):
    """Return an empty folder to fill."""
    (tmp_path / "start").mkdir()
    return tmp_path / "start"


def change_config(source, **changes):
    path = source / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def logits(model):
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        result = model(ids)
    return getattr(result, "logits", result)


def test_a_tied_config_with_another_head_in_the_weights_is_refused(tmp_path, folder):
    source = tmp_path / "source"
    FAMILIES["llama3_1"].save(source)
    change_config(source, tie_word_embeddings=True)
    with pytest.raises(UserError, match="weights hold another lm_head.weight") as refused:
        pretrained(folder, str(source))
    assert str(source) in str(refused.value)
    with pytest.raises(UserError, match="weights hold another lm_head.weight"):
        HFCheckpointer(source).load_checkpoint()
    with pytest.raises(UserError, match="weights hold another lm_head.weight"):
        check_source({"_component_": PRETRAINED, "path": str(source)})


def test_a_tied_config_whose_weights_repeat_the_embedding_is_right(tmp_path, folder):
    theirs = FAMILIES["llama3_2"].save(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    pretrained(folder, str(tmp_path / "source"))
    assert (logits(build_from_folder(folder)) - logits(theirs)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["r1_distill_qwen", "smollm3"])
def test_a_config_without_the_field_means_what_transformers_takes(tmp_path, folder, name):
    theirs = FAMILIES[name].save(tmp_path / "source")
    change_config(tmp_path / "source", tie_word_embeddings=...)
    pretrained(folder, str(tmp_path / "source"))
    assert (logits(build_from_folder(folder)) - logits(theirs)).abs().max() < 1e-5


def test_half_precision_shards_are_right(tmp_path, folder):
    model = FAMILIES["qwen3"].save(tmp_path / "other")
    model.half().save_pretrained(tmp_path / "source", max_shard_size="100KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    theirs = type(model).from_pretrained(tmp_path / "source", dtype=torch.float32)
    pretrained(folder, str(tmp_path / "source"))
    assert (logits(build_from_folder(folder)) - logits(theirs)).abs().max() < 1e-5


def test_pickles_are_refused(tmp_path, folder):
    FAMILIES["qwen3"].save(tmp_path / "source")
    weights = tmp_path / "source" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "source" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="weights are pickles .* let transformers write") as refused:
        pretrained(folder, str(tmp_path / "source"))
    assert str(tmp_path / "source") in str(refused.value)
    assert not list(folder.iterdir())


def test_of_a_hub_model_that_is_refused_only_its_config_is_downloaded(
    tmp_path, folder, monkeypatch
):
    FAMILIES["qwen3"].save(tmp_path / "cache")
    change_config(tmp_path / "cache", architectures=["Qwen3_5ForCausalLM"])
    requests = []

    def download(repo, file, revision=None):
        requests.append((repo, file, revision))
        return str(tmp_path / "cache" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(UserError, match="Qwen/Qwen3.5-0.8B: architectures is Qwen3_5ForCausalLM"):
        pretrained(folder, "Qwen/Qwen3.5-0.8B", revision="main")
    assert requests == [("Qwen/Qwen3.5-0.8B", "config.json", "main")]


def test_weights_that_are_not_the_models_are_named(tmp_path):
    FAMILIES["qwen2_5"].save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for change, message in [
        ({"model.layers.0.self_attn.q_proj.bias": None}, "attn.q_proj.bias is .* and missing in"),
        (
            {"model.layers.0.router.weight": torch.ones(1)},
            "unexpected weight model.layers.0.router",
        ),
        ({"model.norm.weight": torch.ones(3)}, r"norm.scale is \(128,\) .* and \(3,\) in"),
    ]:
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        save_file(changed, file)
        with pytest.raises(UserError, match=message) as refused:
            HFCheckpointer(tmp_path).load_checkpoint()
        assert str(tmp_path) in str(refused.value)
