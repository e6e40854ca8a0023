"""Models that were trained, from GGUF files: start, logits, and greedy answers of both engines.

`REASONTUNE_WEIGHTS` names a folder of .gguf files; each is a model of a supported family.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from conftest import ROOT

from custom_components.models.hf import build_from_folder
from custom_components.models.start import gguf
from custom_components.tokenizer.chat import ChatTokenizer, load_tokenizer

FILES = sorted(Path(os.environ.get("REASONTUNE_WEIGHTS", "/nowhere")).glob("*.gguf"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="no folder of GGUF files (REASONTUNE_WEIGHTS)"),
    pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem),
]
NEW_TOKENS = 128
# Where the two most probable tokens are closer than this, rounding decides between them.
TIE = 1e-3


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Return a function that gives the model folder of a GGUF file."""
    folders = {}

    def start(file):
        if file not in folders:
            folders[file] = tmp_path_factory.mktemp(file.stem)
            gguf(folders[file], str(file))
        return folders[file]

    return start


@pytest.fixture
def prompts(data_dir, file, started):
    """The ids of 20 problems of GSM8K, asked by the model's template if it has one."""
    with open(data_dir / "gsm8k" / "test.jsonl") as lines:
        questions = [json.loads(next(lines))["question"] for _ in range(20)]
    plain = load_tokenizer(started(file))
    if not plain.chat_template:
        return [plain.encode(f"Question: {question}\nAnswer:") for question in questions]
    tokenizer = ChatTokenizer(started(file), instruction="Put your final answer within \\boxed{}.")
    return [tokenizer.encode_prompt(question) for question in questions]


def test_logits_equal_those_of_transformers(file, started, prompts, record_property):
    folder = started(file)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = build_from_folder(folder)
    ids = torch.tensor([sum(prompts[:4], [])])
    with torch.no_grad():
        expected = theirs(ids).logits
        gap = (ours(ids) - expected).abs().max().item()
    record_property("tokens", ids.shape[1])
    record_property("alone", gap)
    assert gap < 1e-4 < 1 < expected.std()


GREEDY = """
import json, sys
engine, folder, prompts, output, new_tokens = sys.argv[1:]

class Ids:
    pad_id, stop_ids = 0, []

from custom_components.engines.engine import Sampling
if engine == "vllm":
    from custom_components.engines.vllm_engine import VLLMEngine
    engine = VLLMEngine(folder, Ids(), max_model_len=1024, dtype="float32", enforce_eager=True,
                        cpu_kv_cache_gib=1, progress=False)
else:
    from custom_components.engines.torch_engine import TorchEngine
    engine = TorchEngine(folder, Ids(), progress=False)
sampling = Sampling(temperature=0, max_new_tokens=int(new_tokens))
replies = engine.generate(json.load(open(prompts)), 1, sampling)
json.dump([reply.token_ids for [reply] in replies], open(output, "w"))
"""


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_both_engines_answer_gsm8k_with_the_same_tokens(
    file, started, prompts, tmp_path, record_property
):
    folder = started(file)
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    answers = {}
    for engine in ("torch", "vllm"):
        output = tmp_path / f"{engine}.json"
        arguments = [engine, folder, tmp_path / "prompts.json", output, NEW_TOKENS]
        subprocess.run(
            [sys.executable, "-c", GREEDY, *map(str, arguments)], cwd=ROOT, check=True, timeout=3600
        )
        answers[engine] = json.loads(output.read_text())
    same = [a == b for a, b in zip(*answers.values(), strict=True)]
    record_property("same", f"{sum(same)} of {len(same)}")
    model = build_from_folder(folder)
    for prompt, ours, theirs in zip(prompts, *answers.values(), strict=True):
        if ours == theirs:
            continue
        first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ours[:first]]))[0, -1]
        best = logits.topk(2).values
        record_property("tie", (best[0] - best[1]).item())
        assert logits[ours[first]] - logits[theirs[first]] < TIE, (first, best)
