import pytest
import torch
from transformers import AutoModelForCausalLM

from custom_components.config import UserError
from custom_components.engines.engine import Sampling
from custom_components.engines.torch_engine import TorchEngine, tempered_logprobs
from custom_components.models.start import random_tiny
from custom_components.tokenizer.chat import ChatTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    random_tiny(path, seed=1)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return TorchEngine(str(folder), ChatTokenizer(folder), batch_size=4, progress=False)


PROMPTS = ["1+2=?", "12345+67890=?", "12+34=?"]


def prompts(engine):
    return [engine.tokenizer.encode_prompt(p) for p in PROMPTS]


def test_greedy_equals_transformers(engine, folder):
    # Ours computes the long branch; transformers switches by length, so the lengths stay above it.
    long_prompt = engine.tokenizer.encode_prompt("1" * 300 + "+2=?")
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = theirs.generate(
        torch.tensor([long_prompt]),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=[0, 2],
        attention_mask=torch.ones(1, len(long_prompt), dtype=torch.long),
    )[0, len(long_prompt) :].tolist()
    [[ours]] = engine.generate([long_prompt], 1, Sampling(temperature=0, max_new_tokens=20))
    assert ours.token_ids == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0)])
def test_logprobs_are_those_of_the_tempered_full_forward(engine, temperature, top_p):
    ids = prompts(engine)
    sampling = Sampling(temperature, top_p, max_new_tokens=30, seed=5)
    results = engine.generate(ids, 3, sampling)
    assert [len(r) for r in results] == [3, 3, 3]
    for prompt, completions in zip(ids, results, strict=True):
        for c in completions:
            row = torch.tensor([prompt + c.token_ids])
            with torch.no_grad():
                again = engine.model(row[:, :-1], targets=row[:, 1:], temperature=temperature)
            again = again[0, len(prompt) - 1 :]
            assert (again - torch.tensor(c.logprobs)).abs().max() < 1e-4
            if temperature != 1:  # without the temperature they differ
                plain = engine.model(row[:, :-1], targets=row[:, 1:])[0, len(prompt) - 1 :]
                assert (plain - torch.tensor(c.logprobs)).abs().max() > 1e-2
            assert c.finish_reason == ("stop" if c.token_ids[-1] in (0, 2) else "length")


def test_a_seed_repeats_and_samples_differ(engine):
    ids = prompts(engine)
    first = engine.generate(ids, 2, Sampling(max_new_tokens=20, seed=1))
    assert first == engine.generate(ids, 2, Sampling(max_new_tokens=20, seed=1))
    assert first != engine.generate(ids, 2, Sampling(max_new_tokens=20, seed=2))
    assert first[0][0] != first[0][1]


def test_new_weights_take_effect(engine, folder, tmp_path):
    random_tiny(tmp_path, seed=2)
    other = TorchEngine(str(tmp_path), engine.tokenizer, progress=False)
    mine = TorchEngine(str(folder), engine.tokenizer, progress=False)
    greedy = Sampling(temperature=0, max_new_tokens=10)
    before = mine.generate(prompts(mine), 1, greedy)
    mine.load_weights(other.checkpointer.to_hf(other.model.state_dict()).items(), version=7)
    assert mine.version == 7
    ours, theirs = (e.generate(prompts(mine), 1, greedy) for e in (mine, other))
    assert [c.token_ids for (c,) in ours] == [c.token_ids for (c,) in theirs]
    assert [c.version for (c,) in ours] == [7] * len(ours)
    assert mine.generate(prompts(mine), 1, greedy) != before


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    kept = tempered_logprobs(logits, 1.0, 0.6).exp()
    assert kept[0].tolist() == pytest.approx([0.625, 0.375, 0.0])
    assert tempered_logprobs(logits, 1.0, 0.4).exp()[0].tolist() == pytest.approx([1, 0, 0])


def test_too_long_is_refused(engine):
    with pytest.raises(UserError, match="exceed the model's context of 1024"):
        engine.generate(prompts(engine), 1, Sampling(max_new_tokens=1020))
