"""Weights stream to the engine layer by layer; hard prompts are shared out over the ranks."""

import random
import threading
from types import SimpleNamespace

import pytest
import torch
from tiny_models import FAMILIES

from custom_components.config import UserError
from custom_components.engines.engine import Completion
from custom_components.models.hf import HFCheckpointer, from_folder
from custom_components.models.lora import adapter_scale, initial_adapters, merge_adapters
from custom_components.rl.handover import check_handover, stream_weights
from custom_components.rl.sampler import Sampler
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.estimate import PeakBytes


def trainer_of(folder, layers, rank=0):
    """Build what `stream_weights` needs of a trainer, with random adapters if any."""
    model = from_folder(folder, lora_rank=rank)
    checkpointer = HFCheckpointer(folder)
    weights = checkpointer.load_checkpoint()["model"] | initial_adapters(model, 0)
    torch.manual_seed(0)
    weights = {k: torch.randn_like(v) if ".lora_b." in k else v for k, v in weights.items()}
    model.load_state_dict(weights)
    return SimpleNamespace(
        model=model, checkpointer=checkpointer, adapter_scale=adapter_scale(model)
    )


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("family", ["qwen2_5", "phi4_mini"])
def test_the_streamed_weights_are_the_models(tmp_path, family, rank):
    FAMILIES[family].save(tmp_path)
    trainer = trainer_of(tmp_path, 4, rank)
    whole = trainer.checkpointer.to_hf(
        merge_adapters(trainer.model.state_dict(), trainer.adapter_scale)
    )
    for dtype, target in (
        (None, torch.float32),
        ("bf16", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
    ):
        streamed = dict(stream_weights(trainer, dtype))
        assert streamed.keys() == whole.keys()
        for name, tensor in streamed.items():
            assert tensor.dtype == target
            assert torch.equal(tensor, whole[name].to(target))


@pytest.mark.parametrize("rank", [0, 8])
def test_a_sync_holds_less_than_three_layers(tmp_path, rank):
    FAMILIES["phi4_mini"].save(tmp_path, num_hidden_layers=24, vocab_size=64)
    trainer = trainer_of(tmp_path, 24, rank)
    layer = sum(p.nbytes for p in trainer.model.layers[0].parameters())
    with PeakBytes() as count:
        count.ignore(trainer.model.parameters())
        for _, tensor in stream_weights(trainer, "bf16"):
            del tensor
    whole = sum(p.nbytes for p in trainer.model.parameters())
    print(f"peak {count.peak / layer:.2f} layers; the model is {whole / layer:.0f}")
    assert 0 < count.peak < 3 * layer < whole / 5


def completion(*tokens):
    ids, logprobs = zip(*tokens, strict=True)
    return Completion(list(ids), list(logprobs), "length")


def test_the_self_check_forgives_rounding_and_names_what_differs():
    before = completion((5, -1.0), (6, -0.70), (7, -3.0))
    check_handover(before, before)
    check_handover(
        before, completion((5, -1.01), (9, -0.69), (1, -9.0))
    )  # a tie, then another text
    with pytest.raises(UserError, match=r"token 2 is -0.700 .* and -2.000 after"):
        check_handover(before, completion((5, -1.0), (9, -2.0), (7, -3.0)))


class Ranks:
    """Stand for a rank in a thread: gather over all threads."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.shared = rank, size, shared

    def gather(self, items):
        parts, barrier = self.shared
        barrier.wait(60)
        parts[self.rank] = items
        barrier.wait(60)
        return [item for part in parts for item in part]


class Engine:
    """Answer every prompt wrongly, or rightly once it was asked often enough."""

    def __init__(self, solved_after):
        self.solved_after = solved_after
        self.calls = []

    def generate(self, prompts, n, sampling):
        self.calls.append((len(prompts) * n, sampling.seed))
        return [[Completion([ids[0]], [-1.0], "stop") for _ in range(n)] for ids in prompts]


@pytest.mark.parametrize("size", [1, 2])
def test_hard_prompts_are_shared_out_over_the_ranks(size):
    """All hard prompts are rank 0's: 3 of them, 4 responses a round, up to 12."""
    shared = ([None] * size, threading.Barrier(size))
    engines, outcomes = [Engine(0) for _ in range(size)], [None] * size
    cfg = SimpleNamespace(group_size=4, max_new_tokens=8)

    def run(rank):
        tokenizer = SimpleNamespace(
            encode_prompt=lambda text: [int(text)], decode_response=lambda ids: str(ids[0])
        )
        pool = SimpleNamespace(
            verify_all=lambda items: [
                SimpleNamespace(verdict="correct" if item.gold == "right" else "incorrect")
                for item in items
            ]
        )
        sampler = Sampler(cfg, Ranks(rank, size, shared), tokenizer, engines[rank], pool, [])
        answers = ["wrong"] * 3 + ["right"] if rank == 0 else ["right"] * 4
        prompts = [{"problem": str(10 * rank + i), "answer": a} for i, a in enumerate(answers)]
        outcomes[rank] = sampler.sample(prompts, 1.0, random.Random(rank), Stopwatch(), 12)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [len(group.samples) for group in outcomes[0]] == [12, 12, 12, 4]
    for group in outcomes[0]:
        assert {s.completion.token_ids[0] for s in group.samples} == {int(group.problem["problem"])}
    shares = [[requests for requests, _ in engine.calls] for engine in engines]
    assert shares == ([[16, 12, 12]] if size == 1 else [[16, 6, 6], [16, 6, 6]])
    seeds = [seed for engine in engines for _, seed in engine.calls]
    assert len(set(seeds)) == len(seeds)
