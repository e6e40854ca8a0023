import inspect

import pytest
import torch
from torchtune.modules.peft import get_merged_lora_ckpt

from custom_components.config import UserError, check_component
from custom_components.models.attention import Documents
from custom_components.models.lora import (
    LoRA,
    adapter_scale,
    adapters_off,
    add_adapters,
    cast_weights,
    initial_adapters,
    is_adapter,
    merge_adapters,
)
from custom_components.models.phi4_mini import phi4_mini_tiny

TINY = "custom_components.models.phi4_mini.phi4_mini_tiny"
TOKENS = torch.randint(0, 88, (1, 40), generator=torch.Generator().manual_seed(0))


def adapted(**arguments):
    """Build a model whose adapters are not zero."""
    torch.manual_seed(0)
    model = phi4_mini_tiny(lora_rank=4, lora_alpha=12.0, **arguments)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_only_the_adapters_are_trained():
    model = phi4_mini_tiny(lora_rank=4)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(is_adapter(n) for n in trained)
    assert len(trained) == 4 * 7 * 2  # layers x linear layers x (A, B)
    some = phi4_mini_tiny(lora_rank=4, lora_modules=("q_proj", "v_proj"))
    assert sum(p.requires_grad for p in some.parameters()) == 4 * 2 * 2
    with pytest.raises(ValueError, match="unknown \\['qproj'\\]"):
        phi4_mini_tiny(lora_rank=4, lora_modules=("qproj",))


def test_adapters_are_added_to_a_built_model_and_keep_its_weights():
    torch.manual_seed(0)
    plain = phi4_mini_tiny()
    torch.manual_seed(0)
    model = phi4_mini_tiny()
    add_adapters(model, LoRA(2, modules=("q_proj", "down_proj")))
    weights = {k: v for k, v in model.state_dict().items() if not is_adapter(k)}
    assert all(torch.equal(v, weights[k]) for k, v in plain.state_dict().items())
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(".attn.q_proj.lora_" in n or ".mlp.w2.lora_" in n for n in names)
    biased = phi4_mini_tiny()
    biased.layers[0].attn.q_proj = torch.nn.Linear(192, 192)
    expected = biased(TOKENS)
    add_adapters(biased, LoRA(2))
    with adapters_off(biased):
        assert torch.equal(biased(TOKENS), expected)


def test_a_builder_shows_its_own_arguments_and_those_of_the_adapters():
    parameters = inspect.signature(phi4_mini_tiny).parameters
    assert list(parameters)[-3:] == ["lora_rank", "lora_alpha", "lora_modules"]
    assert list(parameters)[:2] == ["vocab_size", "rope_factor"]
    check_component({"_component_": TINY, "lora_rank": 2, "rope_factor": "short"}, "model")
    with pytest.raises(UserError, match="no argument 'lora_rnk'; did you mean 'lora_rank'"):
        check_component({"_component_": TINY, "lora_rnk": 2}, "model")


def test_merged_weights_compute_what_the_adapters_do():
    model = adapted()
    assert adapter_scale(model) == 3.0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    merged = merge_adapters(model.state_dict(), adapter_scale(model))
    plain = phi4_mini_tiny()
    plain.load_state_dict(merged, strict=True)
    with torch.no_grad():
        assert (plain(TOKENS) - model(TOKENS)).abs().max() < 1e-4
        assert (plain(TOKENS) - phi4_mini_tiny()(TOKENS)).abs().max() > 0.1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # not in place
    theirs = get_merged_lora_ckpt(before, rank=4, alpha=12.0)
    assert merged.keys() == theirs.keys()
    assert all(torch.allclose(merged[k], theirs[k], atol=1e-6) for k in theirs)


def test_a_plain_model_is_merged_as_it_is():
    weights = phi4_mini_tiny().state_dict()
    assert merge_adapters(weights, adapter_scale(phi4_mini_tiny())) is weights


def test_without_its_adapters_a_model_is_its_start():
    model, plain = adapted(), phi4_mini_tiny()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not is_adapter(k)})
    with torch.no_grad():
        with adapters_off(model):
            assert torch.equal(model(TOKENS), plain(TOKENS))
        assert not torch.equal(model(TOKENS), plain(TOKENS))


def test_initial_adapters_change_nothing_and_follow_from_the_seed():
    with torch.device("meta"):
        empty = phi4_mini_tiny(lora_rank=4)
    start = initial_adapters(empty, seed=1)
    assert all(torch.equal(v, initial_adapters(empty, seed=1)[k]) for k, v in start.items())
    model = phi4_mini_tiny(lora_rank=4)
    model.load_state_dict(start, strict=False)
    with torch.no_grad(), adapters_off(model):
        expected = model(TOKENS)
    with torch.no_grad():
        assert torch.equal(model(TOKENS), expected)
    a = start["layers.0.attn.q_proj.lora_a.weight"]
    assert a.abs().max() <= 1 / 192**0.5 and a.std() > 0.5 / 3**0.5 / 192**0.5
    assert not torch.equal(a, initial_adapters(empty, seed=2)["layers.0.attn.q_proj.lora_a.weight"])


def test_gradients_reach_the_adapters_alone_with_a_bf16_base():
    model = adapted()
    cast_weights(model, torch.bfloat16, torch.float32)
    assert model.tok_embeddings.weight.dtype == torch.bfloat16
    targets = TOKENS.roll(-1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs = model(TOKENS, mask=Documents((40,)), targets=targets)
    (-logprobs.mean()).backward()
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            assert parameter.dtype == torch.float32
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
        else:
            assert parameter.grad is None
