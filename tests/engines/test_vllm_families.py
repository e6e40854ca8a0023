"""vLLM computes what is trained, for every family: a process for each, with one start of vLLM."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT
from tiny_models import FAMILIES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

HAND_OVER = """
import sys
import torch
from custom_components.engines.engine import Sampling, check_rope
from custom_components.engines.vllm_engine import VLLMEngine
from custom_components.models.hf import HFCheckpointer, build_from_folder

class Ids:
    pad_id, stop_ids = 0, [2]

folder, other = sys.argv[1:]
engine = VLLMEngine(folder, Ids(), max_model_len=256, dtype="float32", enforce_eager=True,
                    cpu_kv_cache_gib=1, progress=False)
generator = torch.Generator().manual_seed(0)
prompts = [torch.randint(3, 88, (n,), generator=generator).tolist() for n in (5, 33, 70)]
for version, path in enumerate((folder, other)):
    trainer, checkpointer = build_from_folder(path), HFCheckpointer(path)
    check_rope(engine, trainer)
    if version:
        engine.load_weights(checkpointer.to_hf(trainer.state_dict()).items(), version)
    for prompt, completions in zip(prompts, engine.generate(prompts, 2, Sampling(0.8, 1.0, 40))):
        for c in completions:
            row = torch.tensor([prompt + c.token_ids])
            with torch.no_grad():
                again = trainer(row[:, :-1], targets=row[:, 1:], temperature=0.8)
            gap = (again[0, len(prompt) - 1:] - torch.tensor(c.logprobs)).abs().max().item()
            print("gap", gap)
            assert gap < 1e-4, (version, gap)
engine.close()
print("vllm agrees")
"""


def run(code, *arguments):
    """Run code in a process of its own, and return the largest gap of log-probs that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert "vllm agrees" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]
    return max(float(gap) for gap in re.findall(r"^gap (\S+)$", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_after_new_weights_are_the_trainers(tmp_path, name, record_property):
    for seed in (0, 1):
        FAMILIES[name].save_with_tokenizer(tmp_path / str(seed), seed=seed)
    record_property("vllm", run(HAND_OVER, tmp_path / "0", tmp_path / "1"))


ADAPTER = """
import os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from custom_components.models.hf import HFCheckpointer, from_folder
from custom_components.models.lora import is_adapter
from custom_components.models.peft_adapter import save_adapter

folder, adapter = sys.argv[1:]
model, checkpointer = from_folder(folder, lora_rank=4, lora_alpha=6.0), HFCheckpointer(folder)
model.load_state_dict(checkpointer.load_checkpoint()["model"], strict=False)
torch.manual_seed(0)
for name, parameter in model.named_parameters():
    if is_adapter(name):
        torch.nn.init.normal_(parameter, std=0.1)
save_adapter(model.state_dict(), model, checkpointer, adapter, folder)
llm = LLM(folder, enable_lora=True, max_lora_rank=16, max_model_len=256, dtype="float32",
          enforce_eager=True, skip_tokenizer_init=True)
params = SamplingParams(temperature=0, max_tokens=20, logprobs=0, stop_token_ids=[2],
                        detokenize=False)
prompt = torch.randint(3, 88, (40,), generator=torch.Generator().manual_seed(0)).tolist()
request = LoRARequest("adapter", 1, adapter)
[output] = llm.generate([{"prompt_token_ids": prompt}], params, lora_request=request)
[plain] = llm.generate([{"prompt_token_ids": prompt}], params)
ids = list(output.outputs[0].token_ids)
logprobs = torch.tensor([p[i].logprob for i, p in zip(ids, output.outputs[0].logprobs)])
row = torch.tensor([prompt + ids])
with torch.no_grad():
    again = model(row[:, :-1], targets=row[:, 1:])[0, len(prompt) - 1:]
print("gap", (again - logprobs).abs().max().item())
assert (again - logprobs).abs().max() < 1e-3
assert list(plain.outputs[0].token_ids) != ids
print("vllm agrees")
"""


@pytest.mark.parametrize("name", ["qwen2_5", "phi4_mini"])
def test_vllm_serves_the_adapters_of_a_run(tmp_path, name, record_property):
    FAMILIES[name].save_with_tokenizer(tmp_path / "model")
    gap = run(ADAPTER, tmp_path / "model", tmp_path / "adapter")
    record_property("vllm_adapter", gap)
