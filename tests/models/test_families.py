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
from custom_components.models.config_json import model_config, read_model_config
from custom_components.models.decoder import Documents
from custom_components.models.hf import HFCheckpointer, build_from_folder, from_folder
from custom_components.models.lora import adapter_scale, initial_adapters, merge_adapters

every_family = pytest.mark.parametrize("name", FAMILIES)


def tokens(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 101, (1, n), generator=generator) for n in lengths]


@every_family
def test_logits_equal_those_of_transformers_alone_and_packed(tmp_path, name):
    theirs = FAMILIES[name].save(tmp_path)
    ours = build_from_folder(tmp_path)
    # Beyond 32 tokens transformers takes LongRoPE's long branch, as ours does.
    lengths = (120, 40, 300)
    documents = tokens(*lengths)
    packed = Documents(lengths)
    with torch.no_grad():
        expected = [theirs(d).logits[0] for d in documents]
        alone = [ours(d)[0] for d in documents]
        row = ours(torch.cat(documents, 1), mask=packed, input_pos=packed.positions())[0]
    for logits, part, reference in zip(alone, row.split(lengths), expected, strict=True):
        assert (logits - reference).abs().max() < 1e-5
        assert (part - reference).abs().max() < 1e-5
    print(name, max((part - r).abs().max().item() for part, r in zip(alone, expected)))


@every_family
def test_a_field_left_out_means_what_it_means_to_transformers(tmp_path, name):
    """config.json may lack every field that has a default, tie_word_embeddings among them."""
    architecture = FAMILIES[name].architecture
    config = json.loads((FAMILIES[name].save(tmp_path) and tmp_path / "config.json").read_text())
    builder = getattr(transformers, architecture)
    for field, default in families.FAMILIES[architecture].defaults.items():
        if field not in ("rope_theta", "head_dim"):
            assert getattr(builder.config_class(), field) in (default, 32), field


@every_family
def test_export_and_reload_are_bit_identical(tmp_path, name):
    theirs = FAMILIES[name].save(tmp_path / "a")
    checkpointer = HFCheckpointer(tmp_path / "a")
    weights = checkpointer.load_checkpoint()["model"]
    checkpointer.save_model(weights, tmp_path / "b", torch.float32)
    again = type(theirs).from_pretrained(tmp_path / "b", dtype=torch.float32).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in theirs.state_dict().items())
    reloaded = HFCheckpointer(tmp_path / "b").load_checkpoint()["model"]
    assert weights.keys() == reloaded.keys()
    assert all(torch.equal(v, reloaded[k]) for k, v in weights.items())
    given = checkpointer.to_hf(weights)
    names = set(theirs.state_dict()) - ({"lm_head.weight"} if "tok" in name else set())
    tied = checkpointer.model_config.variant.tied
    assert set(given) == names - ({"lm_head.weight"} if tied else set())
