"""In-process vLLM, in a process of its own: one start for all checks."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

CHECK = """
import sys
import torch
from custom_components.rollout.engine import Sampling
from custom_components.rollout.torch_engine import TorchEngine
from custom_components.rollout.vllm_engine import VLLMEngine
from custom_components.tokenizer.hf import ChatTokenizer

folder, other = sys.argv[1:]
tokenizer = ChatTokenizer(folder)
ours = TorchEngine(folder, tokenizer, progress=False)
theirs = VLLMEngine(folder, tokenizer, max_model_len=512, dtype="float32", enforce_eager=True,
                    cpu_kv_cache_gib=1, progress=False)
prompts = [tokenizer.encode_prompt(f"{a}+{b}=?") for a, b in ((1, 2), (123, 45678))]
greedy = Sampling(temperature=0, max_new_tokens=24)

def agree():
    for (a,), (b,) in zip(ours.generate(prompts, 1, greedy), theirs.generate(prompts, 1, greedy)):
        assert a.token_ids == b.token_ids, (a, b)

agree()
# log-probs are those after temperature
sampled = theirs.generate(prompts, 2, Sampling(temperature=0.6, max_new_tokens=16))
for prompt, completions in zip(prompts, sampled):
    for c in completions:
        row = torch.tensor([prompt + c.token_ids])
        with torch.no_grad():
            again = ours.model(row[:, :-1], targets=row[:, 1:], temperature=0.6)[0, len(prompt) - 1:]
        assert (again - torch.tensor(c.logprobs)).abs().max() < 1e-3
# new weights reach vLLM without the disk
new = TorchEngine(other, tokenizer, progress=False)
tensors = new.checkpointer.to_hf(new.model.state_dict())
for engine in (ours, theirs):
    engine.load_weights(tensors.items(), version=1)
agree()
theirs.close()
print("vllm agrees")
"""


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_agrees_with_the_torch_engine(tmp_path):
    from custom_components.models.start import random_tiny

    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        random_tiny(tmp_path / str(seed), seed=seed)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path / "0"), str(tmp_path / "1")],
        cwd=ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert "vllm agrees" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]


def test_an_engine_that_is_not_installed_is_one_clear_line(monkeypatch, tmp_path):
    from custom_components.config import UserError
    from custom_components.rollout import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="engine vllm is not installed; pip install"):
        vllm_engine.VLLMEngine(str(tmp_path), None)
