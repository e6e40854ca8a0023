"""Test in-process vLLM in a separate process: one start serves all checks."""

import json
import subprocess
import sys
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import ROOT

CHECK = """
import sys
import torch
from custom_components.config import UserError
from custom_components.models.attention import Documents
from custom_components.models.hf import build_from_folder
from custom_components.engines.engine import Sampling, check_rope
from custom_components.engines.torch_engine import TorchEngine
from custom_components.engines.vllm_engine import VLLMEngine
from custom_components.tokenizer.chat import ChatTokenizer

folder, other = sys.argv[1:]
tokenizer = ChatTokenizer(folder)
trainer = build_from_folder(folder, "long")
ours = TorchEngine(folder, tokenizer, progress=False)
# Beyond the original 4096, vLLM takes the long branch for short prompts, too.
theirs = VLLMEngine(folder, tokenizer, max_model_len=4608, dtype="float32", enforce_eager=True,
                    cpu_kv_cache_gib=1, progress=False)
check_rope(theirs, trainer)
try:
    check_rope(theirs, build_from_folder(folder, "short"))
except UserError as e:
    assert "another LongRoPE branch" in str(e)
else:
    raise AssertionError("a trainer on the short branch was not refused")
problems = ("1+2=?", "123+45678=?", "+".join(["12345"] * 720) + "=?")
prompts = [tokenizer.encode_prompt(p) for p in problems]
assert len(prompts[0]) < 32 and 4096 < len(prompts[-1]) < 4500
greedy = Sampling(temperature=0, max_new_tokens=24)

def agree():
    for (a,), (b,) in zip(ours.generate(prompts, 1, greedy), theirs.generate(prompts, 1, greedy)):
        assert a.token_ids == b.token_ids, (a, b)

agree()
# Log-probs are taken after temperature, in the trainer's packed forward as in both engines.
for engine in (ours, theirs):
    sampled = engine.generate(prompts, 2, Sampling(temperature=0.6, max_new_tokens=16))
    for prompt, completions in zip(prompts, sampled):
        for c in completions:
            row = torch.tensor([prompt + c.token_ids])
            documents = Documents((row.shape[1] - 1,))
            with torch.no_grad():
                again = trainer(row[:, :-1], mask=documents, input_pos=documents.positions(),
                                targets=row[:, 1:], temperature=0.6)[0, len(prompt) - 1:]
            assert (again - torch.tensor(c.logprobs)).abs().max() < 1e-3
# New weights reach vLLM without the disk.
new = TorchEngine(other, tokenizer, progress=False)
tensors = new.checkpointer.to_hf(new.model.state_dict())
for engine in (ours, theirs):
    engine.load_weights(tensors.items(), version=1)
agree()
# A seed repeats a call; another one does not. Responses come one prompt at a time.
drawn = [theirs.generate(prompts, 2, Sampling(max_new_tokens=16, seed=s)) for s in (5, 5, 6)]
assert drawn[0] == drawn[1] != drawn[2]
streamed = {}
theirs.stream(prompts, 2, Sampling(max_new_tokens=16, seed=5, logprobs=False), streamed.__setitem__)
assert sorted(streamed) == [0, 1, 2]
assert [[c.token_ids for c in streamed[i]] for i in range(3)] == [
    [c.token_ids for c in completions] for completions in drawn[0]]
assert all(c.logprobs == [] for completions in streamed.values() for c in completions)
theirs.close()
print("vllm agrees")
"""


def extend(folder):
    """Give a tiny start model the real one's original context of 4096, and 8192 in total."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 8192, "original_max_position_embeddings": 4096}
    config["rope_parameters"] |= {"original_max_position_embeddings": 4096, "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_agrees_with_the_torch_engine(tmp_path):
    from custom_components.models.start import random_tiny

    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        random_tiny(tmp_path / str(seed), seed=seed)
        extend(tmp_path / str(seed))
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path / "0"), str(tmp_path / "1")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    said = f"status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    assert "vllm agrees" in done.stdout, said


def test_an_engine_that_is_not_installed_is_one_clear_line(monkeypatch, tmp_path):
    from custom_components.config import UserError
    from custom_components.engines import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="engine vllm is not installed; pip install"):
        vllm_engine.VLLMEngine(str(tmp_path), None)


class LLM:
    """Stand in for vLLM: keep the order of the calls, and take weights as they come."""

    def __init__(self, resets=True):
        self.calls = []
        self.resets = resets
        self.alive = weakref.WeakSet()

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags):
        self.calls.append(f"wake {tags[0]}, {len(self.alive)} tensors alive")

    def collective_rpc(self, method, args=(), kwargs=None):
        if method != "reload_weights":
            return
        most = 0
        for _, tensor in kwargs["weights_iterator"]:
            self.alive.add(tensor)
            most = max(most, len(self.alive))
            del tensor, _
        self.calls.append(f"reload, {most} tensors alive at a time")

    def reset_prefix_cache(self):
        self.calls.append("reset")
        return self.resets


def stand_in(**options):
    from custom_components.engines.vllm_engine import VLLMEngine

    engine = object.__new__(VLLMEngine)
    engine.llm, engine.sleep_mode, engine.asleep = LLM(**options), True, False
    return engine


def test_sleep_mode_wakes_weights_before_the_cache_and_holds_none_of_the_trainers():
    """Check the order of calls on a stand-in, since sleeping needs a GPU."""
    engine = stand_in()
    engine.sleep()
    engine.sleep()  # the second call does nothing
    engine.load_weights(((str(i), torch.ones(8)) for i in range(9)), 3)
    assert engine.llm.calls == [
        "sleep 2",
        "wake weights, 0 tensors alive",
        "reload, 1 tensors alive at a time",
        "wake kv_cache, 0 tensors alive",
        "reset",
    ]
    assert not engine.asleep and engine.version == 3
    engine.llm.calls.clear()
    engine.load_weights([], 4)
    assert engine.llm.calls == ["reload, 0 tensors alive at a time", "reset"]


def test_a_prefix_cache_of_old_weights_is_an_error():
    engine = stand_in(resets=False)
    with pytest.raises(RuntimeError, match="kept the old weights' prefix cache"):
        engine.load_weights([], 1)


def test_a_seed_decides_what_is_drawn_and_leaves_the_process_alone():
    """Check the seed that reaches both samplers: torch's generator and numpy's."""
    from custom_components.engines.vllm_engine import _drawing_from

    class Worker:
        def collective_rpc(self, method, args):
            method(None, *args)

    def draw(seed):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        with _drawing_from(Worker(), seed):
            drawn = torch.rand(4).tolist(), np.random.randint(1 << 60)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()
        return drawn

    assert draw(1) == draw(1) != draw(2)
    assert draw(1 << 47) == draw(1 << 47)


def test_a_shutdown_leaves_the_trainers_process_group(monkeypatch):
    from custom_components.engines.vllm_engine import _process_group_kept

    destroyed = []
    monkeypatch.setattr(
        torch.distributed, "destroy_process_group", lambda g=None: destroyed.append(g)
    )
    with _process_group_kept():
        torch.distributed.destroy_process_group()
        torch.distributed.destroy_process_group("tensor parallel")
    torch.distributed.destroy_process_group()
    assert destroyed == ["tensor parallel", None]
