import math

import pytest
import torch

from custom_components.models.longrope import LongRoPE


def rope(**changes):
    arguments = {
        "head_dim": 8,
        "rotary_dim": 4,
        "max_seq_len": 64,
        "original_max_seq_len": 16,
        "short_factor": (1.0, 1.0),
        "long_factor": (2.0, 4.0),
        "rope_factor": "long",
    } | changes
    return LongRoPE(**arguments)


def test_against_hand_computed_values():
    x = torch.zeros(1, 1, 1, 8)
    x[..., 0] = 1.0  # pair (0, 2) of the 4 rotary dimensions
    x[..., 6] = 5.0  # does not rotate
    scale = math.sqrt(1 + math.log(4) / math.log(16))
    out = rope()(x, input_pos=torch.tensor([[3]]))[0, 0, 0]
    angle = 3 / 2.0  # base ** 0 = 1, long factor 2
    assert out[0].item() == pytest.approx(scale * math.cos(angle), abs=1e-6)
    assert out[2].item() == pytest.approx(scale * math.sin(angle), abs=1e-6)
    assert out[6].item() == 5.0


def test_by_length_switches_where_transformers_does():
    by_length, short, long = (rope(rope_factor=f) for f in ("by_length", "short", "long"))
    for length, same in ((16, short), (17, long)):
        x = torch.randn(1, length, 2, 8)
        assert torch.equal(by_length(x), same(x))


def test_factors_stay_float32():
    exact = rope()
    cast = rope().to(torch.bfloat16)
    assert cast.long.inv_freq.dtype == torch.float32
    assert torch.equal(cast.long.inv_freq, exact.long.inv_freq)
    torch.set_default_dtype(torch.bfloat16)
    try:
        built = rope()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(built.long.inv_freq, exact.long.inv_freq)


def test_materialising_from_meta():
    with torch.device("meta"):
        module = rope()
    module = module.to_empty(device="cpu")
    for embedding in (module.short, module.long):
        embedding.rope_init()
    assert torch.equal(module.long.inv_freq, rope().long.inv_freq)


def test_wrong_factors_are_refused():
    with pytest.raises(ValueError, match="short_factor has 3"):
        rope(short_factor=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="rope_factor"):
        rope(rope_factor="medium")
