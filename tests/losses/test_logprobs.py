import math

import pytest
import torch

from custom_components.losses.logprobs import token_logprobs
from custom_components.training.estimate import PeakBytes


def test_hand_computed():
    # logits are (ln 1, ln 2, ln 5): probabilities 1/8, 2/8, 5/8
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]])
    hidden = torch.ones(1, 2, 1)
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([[2, -100]]), entropy=True)
    assert logprobs[0].tolist() == pytest.approx([math.log(5 / 8), 0.0], abs=1e-6)
    expected = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert entropy[0].tolist() == pytest.approx([expected, 0.0], abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_equal_the_full_softmax(chunk, temperature):
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, 5, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(11, 5, requires_grad=True)
    targets = torch.randint(0, 11, (2, 7))
    targets[0, :3] = -100
    mask = targets != -100
    full = (hidden @ weight.T / temperature).log_softmax(-1)
    expected = full.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * mask
    got = token_logprobs(hidden, weight, targets, temperature, chunk)
    assert torch.allclose(got, expected, atol=1e-6)
    ours = torch.autograd.grad((got * torch.arange(14).view(2, 7)).sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * torch.arange(14).view(2, 7)).sum(), (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_bf16_inputs_stay_within_a_hundredth_of_float64():
    torch.manual_seed(0)
    hidden = torch.randn(1, 64, 128).to(torch.bfloat16)
    weight = (torch.randn(500, 128) / 4).to(torch.bfloat16)
    targets = torch.randint(0, 500, (1, 64))
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, targets[..., None])
    with torch.autocast("cpu", torch.bfloat16):
        got = token_logprobs(hidden, weight, targets, chunk_size=16)
    assert got.dtype == torch.float32
    assert (got - exact[..., 0]).abs().max() < 1e-2


def test_memory_holds_the_logits_of_one_chunk():
    """Whatever the length, with entropies or without."""
    peaks = {}
    weight = torch.randn(5000, 8, requires_grad=True)
    for length in (64, 512):
        for entropy in (False, True):
            hidden = torch.randn(1, length, 8, requires_grad=True)
            targets = torch.randint(0, 5000, (1, length))
            with PeakBytes() as count:
                out = token_logprobs(hidden, weight, targets, chunk_size=32, entropy=entropy)
                (out[0] if entropy else out).sum().backward()
            peaks[length, entropy] = count.peak
            weight.grad = None
    chunk = 32 * 5000 * 4
    assert all(peak < 6 * chunk for peak in peaks.values()), peaks
    assert peaks[512, True] < 1.2 * peaks[64, False] + 0.5 * chunk
