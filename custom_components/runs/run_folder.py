"""The run folder of every recipe: one process at a time, complete or resumable."""

import dataclasses
import fcntl
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import CARD, sha256_of, write_json
from custom_components.runs.manifest import (
    code_hash,
    git_commit,
    is_complete,
    package_versions,
    read_manifest,
    what_changed,
)
from custom_components.runs.run_config import RunConfig


def holds_work(output_dir: Path) -> bool:
    """Whether a folder holds more than what a run writes before it has made anything."""
    early = (
        "manifest.json",
        "metrics.jsonl",
        "rejects.jsonl",
        "packs",
        "examples",
        "reference.npy",
        "prompts.parquet",
        "samples.jsonl",
        "alarms.jsonl",
    )
    files = (p.relative_to(output_dir) for p in output_dir.rglob("*") if p.is_file())
    return any(f.parts[0] not in early and not f.parts[0].startswith(".tmp-") for f in files)


def input_hashes(cfg: RunConfig) -> dict[str, str]:
    """Return {path: content hash} of what a run reads from this disk.

    Raises:
        UserError: When something that must be local is missing.
    """
    paths = {path for key, path in cfg.inputs().items() if key in cfg.LOCAL or Path(path).exists()}
    return {path: sha256_of(path) for path in sorted(paths)}


class RunFolder:
    """The folder of one run. On ranks other than 0 it writes nothing.

    Args:
        recipe: name of the recipe.
        cfg: Config of the run. The contents of its inputs on this disk are hashed; a data set
            on the hub is named by the config alone.
        world: this process among all (`custom_components.training.distributed.World`); None
            for recipes of a single process.

    Raises:
        UserError: when the folder holds a different run, or an input is missing.
    """

    def __init__(self, recipe: str, cfg: RunConfig, world: Any = None) -> None:
        self.recipe, self.path, self.world = recipe, Path(cfg.output_dir), world
        self.rank = world.rank if world else 0
        self.config = dataclasses.asdict(cfg)
        self.inputs = input_hashes(cfg)
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
                "seed": cfg.seed,
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

    def finish(self, outputs: Sequence[str | Path], counts: dict[str, Any] | None = None) -> None:
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
