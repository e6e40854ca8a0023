"""Test in-process vLLM in a separate process: one start serves all checks."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
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
    assert "vllm agrees" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]


def test_an_engine_that_is_not_installed_is_one_clear_line(monkeypatch, tmp_path):
    from custom_components.config import UserError
    from custom_components.engines import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="engine vllm is not installed; pip install"):
        vllm_engine.VLLMEngine(str(tmp_path), None)


def test_sleep_mode_wakes_weights_before_the_cache():
    """Check the order of calls on a stand-in, since sleeping needs a GPU."""
    from custom_components.engines.vllm_engine import VLLMEngine

    calls = []

    class LLM:
        def __getattr__(self, name):
            return lambda *args, **kwargs: calls.append(
                (name, *(a for a in args if isinstance(a, str)), *kwargs.get("tags", ()))
            )

    engine = object.__new__(VLLMEngine)
    engine.llm, engine.sleep_mode, engine.asleep = LLM(), True, False
    engine.sleep()
    engine.sleep()  # the second call does nothing
    engine.load_weights([], 3)
    assert [c for c in calls if c[0] != "collective_rpc" or len(c) > 1] == [
        ("sleep",),
        ("wake_up", "weights"),
        ("collective_rpc", "reload_weights"),
        ("wake_up", "kv_cache"),
        ("reset_prefix_cache",),
    ]
    assert not engine.asleep and engine.version == 3
    calls.clear()
    engine.load_weights([], 4)
    assert not any(name in ("sleep", "wake_up") for name, *_ in calls)
