"""What only a GPU does: varlen attention, the head in bf16, no waiting, mixed precision by FSDP."""

import pytest
import torch

from custom_components.data.batching import collate
from custom_components.losses.logprobs import token_logprobs
from custom_components.models.attention import Documents, document_attention
from custom_components.models.phi4_mini import phi4_mini_tiny
from custom_components.training.distributed import full_state_dict, setup_world
from custom_components.training.model import materialise, prepare_layers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("lengths", [(37, 1, 200, 64), (300, 2100, 40, 50, 2048, 3001)])
def test_attention_in_bf16_equals_float32(window, kv_heads, lengths):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, sum(lengths), 64, device=CUDA) for h in (8, kv_heads, kv_heads))
    upstream = torch.randn_like(q)
    results = []
    for dtype, documents in (
        (BF16, Documents(lengths).to(CUDA)),
        (torch.float32, Documents(lengths)),
    ):
        inputs = [t.to(BF16).to(dtype).requires_grad_() for t in (q, k, v)]
        out = document_attention(*inputs, documents, window)
        results.append([out, *torch.autograd.grad(out, inputs, upstream.to(dtype))])
    for half, exact in zip(*results, strict=True):
        assert half.dtype == BF16 and exact.dtype == torch.float32
        assert (half.float() - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_head_in_bf16_equals_float64_on_the_same_inputs(temperature):
    torch.manual_seed(0)
    hidden = torch.randn(1, 300, 256, device=CUDA, dtype=BF16, requires_grad=True)
    weight = (torch.randn(5000, 256, device=CUDA) / 8).bfloat16().float().requires_grad_()
    targets = torch.randint(0, 5000, (1, 300), device=CUDA)
    targets[0, ::7] = -100
    logprobs, entropies = token_logprobs(hidden, weight, targets, temperature, 64, entropy=True)
    exact_inputs = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    logits = (exact_inputs[0] @ exact_inputs[1].T / temperature).log_softmax(-1)
    mask = targets != -100
    exact = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * mask
    assert (logprobs - exact).abs().max() < 1e-2
    assert (entropies - -(logits.exp() * logits).sum(-1) * mask).abs().max() < 1e-2
    scale = torch.randn_like(logprobs)
    ours = torch.autograd.grad((logprobs * scale).sum(), (hidden, weight))
    theirs = torch.autograd.grad((exact * scale).sum(), exact_inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).norm() < 1e-2 * b.norm()


def batch_of(lengths):
    torch.manual_seed(1)
    rows = []
    for n in lengths:
        ids = torch.randint(3, 80, (n,)).tolist()
        rows.append({"input_ids": ids, "labels": ids, "lengths": [n]})
    return collate(rows)


def built(world, dtype="bf16", compiled=False, recompute=None):
    with torch.device("meta"):
        model = phi4_mini_tiny(rope_factor="long")
    prepare_layers(model, compiled, recompute)
    materialise(model, world, dtype, "fp32")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        start = torch.randn(local.shape, generator=generator) * 0.05
        local.data.copy_(start if local.dim() > 1 else start + 1)
    return model


def scored(model, batch, device=CUDA):
    batch = batch.to(device)
    inputs = {"mask": batch.documents, "input_pos": batch.positions, "chunk_size": 64}
    return model(batch.tokens, targets=batch.targets, scored=batch.scored, **inputs)


def gradients(model):
    whole = {n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
             for n, p in model.named_parameters()}  # fmt: skip
    return torch.cat([whole[n].flatten().float().cpu() for n in sorted(whole)])


@pytest.fixture(scope="module")
def world():
    with setup_world("cuda", alone=True) as one:
        yield one


@pytest.mark.parametrize(
    ("compiled", "recompute"), [(False, None), (False, 1), (False, 2), (True, 2)]
)
def test_a_bf16_step_is_near_the_float32_step_of_a_cpu(world, compiled, recompute):
    batch = batch_of((30, 50, 200))
    with setup_world("cpu") as cpu:
        reference = built(cpu, "fp32")
        exact = scored(reference, batch, cpu.device)
        exact.mean().backward()
    model = built(world, "bf16", compiled, recompute)
    logprobs = scored(model, batch)
    assert logprobs.dtype == torch.float32
    assert (logprobs.cpu() - exact).abs().max() < 0.1
    logprobs.mean().backward()
    a, b = gradients(model), gradients(reference)
    assert (a - b).norm() < 0.05 * b.norm()
    assert len(full_state_dict(model)) == len(reference.state_dict())


def test_packed_equals_separate_and_a_second_pass_the_first(world):
    model = built(world)
    lengths = (30, 50, 200)
    batch = batch_of(lengths)
    with torch.no_grad():
        packed, again = scored(model, batch), scored(model, batch)
        assert torch.equal(packed, again)  # the ratio of an update on policy is exactly 1
        torch.manual_seed(1)
        parts = []
        for n in lengths:
            ids = torch.randint(3, 80, (n,)).tolist()
            row = {"input_ids": ids, "labels": ids, "lengths": [n]}
            parts.append(scored(model, collate([row])))
    assert (packed - torch.cat(parts, dim=1)).abs().max() < 2e-2


def test_nothing_waits_for_the_device_between_batch_and_gradients(world):
    model = built(world)
    batch = batch_of((30, 50, 200))
    for mode in ("default", "error"):  # the first pass sets FSDP up
        torch.cuda.set_sync_debug_mode(mode)
        try:
            scored(model, batch).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
