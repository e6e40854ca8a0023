"""Print what the tests measured for each family of models, as the table of docs/MODELS.md.

    python benchmarks/families.py                    # runs the tests first: an hour on two cores
    python benchmarks/families.py --results FOLDER   # keeps their XML files there, runs what is missing

The tests are in tests/models, tests/engines, tests/training and tests/recipes; each model is tiny, with
random weights, and written by transformers (tests/tiny_models.py).
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "models": ["tests/models/test_families.py"],
    "ranks": ["tests/training/test_ranks.py", "-k", "family"],
    "vllm": ["tests/engines/test_vllm_families.py"],
    "recipes": ["tests/recipes/test_every_family.py"],
}
"""pytest's arguments for each file of results."""

STANDS_FOR = {
    "smollm2": "SmolLM2: Llama, tied",
    "tinyllama": "TinyLlama: every head its own keys",
    "llama3_1": "Llama 3.1 8B, R1-Distill-Llama: untied, llama3 scaling",
    "llama3_2": "Llama 3.2: tied, llama3 scaling",
    "llama_linear": "Llama, linear scaling",
    "llama_biased": "Llama, biases on q, k, v and o",
    "mistral": "Mistral 7B v0.3",
    "mistral_window": "Mistral 7B v0.1: window in all layers",
    "qwen2_5": "Qwen2.5 0.5B to 3B: biases, tied",
    "r1_distill_qwen": "Qwen2.5 7B, R1-Distill-Qwen: biases, untied",
    "qwen2_5_yarn": "Qwen2.5, yarn scaling",
    "qwen3": "Qwen3 0.6B to 4B: norms of q and k, tied",
    "qwen3_8b": "Qwen3 8B: untied",
    "smollm3": "SmolLM3: layers without rotation",
    "phi4": "Phi-4: untied",
    "phi3_5": "Phi-3.5-mini: LongRoPE, untied",
    "phi4_mini": "Phi-4-mini: LongRoPE on part of a head, tied",
    "gemma3": "Gemma 3: windows, two rotary embeddings, four norms",
}
"""What each model of tests/tiny_models.py stands for."""

COLUMNS = (
    "logits",
    "packed",
    "export",
    "greedy",
    "vLLM",
    "midtrain",
    "SFT",
    "LoRA",
    "DPO",
    "GRPO",
    "PPO",
    "right",
    "2 ranks",
)
RECIPES = {"SFT": "sft", "LoRA": "lora", "DPO": "dpo", "GRPO": "grpo", "PPO": "ppo"}


def measured(files: list[Path]) -> dict[str, dict[str, str]]:
    """Return {family: {figure or test: its value, `yes`, or `failed`}} of pytest's XML files."""
    figures: dict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            parts = re.fullmatch(r"(\w+)\[(\w+)\]", case.get("name", ""))
            if parts is None or case.find("skipped") is not None:
                continue
            if "torchtune" in parts[1]:  # whose models have the names of families
                continue
            failed = case.find("failure") is not None or case.find("error") is not None
            figures[parts[2]][parts[1]] = "failed" if failed else "yes"
            for figure in case.iter("property"):
                figures[parts[2]][figure.get("name", "")] = figure.get("value", "")
    return figures


def cell(figures: dict[str, str], column: str) -> str:
    """Return a family's cell: a difference in the form 5e-07, a share, yes, failed, or nothing."""
    if column in ("export", "greedy"):
        test = {
            "export": "test_export_and_reload_are_bit_identical",
            "greedy": "test_the_torch_engine_decodes_greedily_as_transformers_does",
        }
        return figures.get(test[column], "")
    if column == "right":
        return f"{float(figures['grpo_accuracy']):.2f}" if "grpo_accuracy" in figures else ""
    if column == "2 ranks":
        gaps = [float(figures[name]) for name in ("midtrain_ranks", "dpo_ranks") if name in figures]
        return short(max(gaps)) if gaps else ""
    name = {"logits": "alone", "vLLM": "vllm"}.get(column) or RECIPES.get(column, column)
    if name in figures:
        return short(float(figures[name]))
    test = {
        "vLLM": "test_logprobs_after_new_weights_are_the_trainers",
        "logits": "test_logits_equal_those_of_transformers_alone_and_packed",
        "packed": "test_logits_equal_those_of_transformers_alone_and_packed",
    }
    return figures.get(test.get(column, "test_two_steps_of_each_recipe"), "")


def short(value: float) -> str:
    """Return a difference as 5e-07, and 0 as 0."""
    return f"{value:.0e}" if value else "0"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="folder of the tests' XML files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.results or Path(temporary)
        for name, arguments in RUNS.items():
            if any(folder.glob(f"{name}*.xml")):
                continue
            file = f"--junitxml={folder / f'{name}.xml'}"
            command = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", file]
            subprocess.run([*command, *arguments], cwd=ROOT, stdout=sys.stderr)
        figures = measured(sorted(folder.glob("*.xml")))
    print(f"| model | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    for family, title in STANDS_FOR.items():
        cells = [cell(figures[family], column) for column in COLUMNS]
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
