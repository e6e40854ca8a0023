"""Keep the run folder of a recipe: one process at a time, and complete or resumable."""

import dataclasses
import errno
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

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

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system without locks, such as Lustre without `-o flock` and some NFS."""
EARLY = (
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
"""Files and folders that a run writes before it has done any work worth keeping."""


class Ranks(Protocol):
    """Describe this process among all, as `training.distributed.World` does."""

    @property
    def rank(self) -> int:
        """Return the number of this process."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...

    def describe(self) -> str:
        """Return how many processes there are, and on what they compute."""
        ...


def holds_work(output_dir: Path) -> bool:
    """Tell whether a folder holds more than what a run writes early."""
    files = (p.relative_to(output_dir) for p in output_dir.rglob("*") if p.is_file())
    return any(f.parts[0] not in EARLY and not f.parts[0].startswith(".tmp-") for f in files)


def input_hashes(cfg: RunConfig) -> dict[str, str]:
    """Return {path: content hash} of what a run reads from this disk.

    Raises:
        UserError: When something that must be local is missing.
    """
    paths = {path for key, path in cfg.inputs().items() if key in cfg.LOCAL or Path(path).exists()}
    return {path: sha256_of(path) for path in sorted(paths)}


class RunFolder:
    """Open the folder of one run. Only rank 0 writes to it.

    Args:
        recipe: Name of the recipe.
        cfg: Config of the run. The contents of its inputs on this disk are hashed; a data set
            on the hub is named by the config alone.
        world: This process among all; None for a recipe of a single process.

    Attributes:
        path: The folder.
        inputs: {path: content hash} of what the run reads from this disk.
        already_complete: Whether the folder holds the complete results of the same run.

    Raises:
        UserError: When the folder holds a different run, or an input is missing.
    """

    def __init__(self, recipe: str, cfg: RunConfig, world: Ranks | None = None) -> None:
        self.recipe = recipe
        self.path = Path(cfg.output_dir)
        self.world = world
        self.rank = world.rank if world else 0
        self.config = dataclasses.asdict(cfg)
        self.inputs = input_hashes(cfg)
        earlier = None if cfg.resume == "never" else self._manifest_to_resume()
        self.already_complete = is_complete(self.path, earlier)
        if self.already_complete and self.rank == 0:
            print(f"{self.path}: already complete, nothing to do", flush=True)
        self._lock()
        self._barrier()  # rank 0 changes the folder only after every rank has read it
        self._start_time = time.time()
        if self.rank == 0 and not self.already_complete:
            if earlier is None:
                self._remove()
            self.path.mkdir(parents=True, exist_ok=True)
            self._earlier_seconds = (earlier or {}).get("wall_seconds", 0.0)
            self._manifest: dict[str, Any] = {
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
                "wall_seconds": self._earlier_seconds,
            }
            self._write()
        self._barrier()

    def _manifest_to_resume(self) -> dict[str, Any] | None:
        """Return the folder's manifest; None if there is nothing to resume.

        Raises:
            UserError: When the folder holds the work of another run.
        """
        manifest = read_manifest(self.path)
        if manifest is None:
            return None
        changed = what_changed(manifest, self.recipe, self.config, self.inputs)
        if changed and holds_work(self.path):
            more = ", ..." if len(changed) > 5 else ""
            raise UserError(
                f"{self.path} holds another run (differs in: {', '.join(changed[:5])}{more}); set "
                "resume=never to replace it, or another output_dir"
            )
        return None if changed else manifest

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
        except OSError as e:
            if e.errno not in NO_LOCKS:
                raise
            print(
                f"warning: the file system of {self.path} has no locks ({e.strerror}); see to it "
                "that no other process runs in that folder",
                file=sys.stderr,
                flush=True,
            )

    def _remove(self) -> None:
        """Remove the folder and what another run left in it.

        Raises:
            UserError: When it holds something and is not a run folder.
        """
        if not self.path.exists():
            return
        if read_manifest(self.path) is None and holds_work(self.path):
            if (self.path / "manifest.json").exists():
                raise UserError(
                    f"{self.path}/manifest.json cannot be read; delete the folder, or choose "
                    "another output_dir"
                )
            raise UserError(
                f"{self.path} exists and is not a run folder (no manifest.json); choose another "
                "output_dir"
            )
        # rename first: a folder that is only half removed would not be a run folder any more
        old = self.path.with_name(f".tmp-{self.path.name}-replaced")
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.path.rename(old))

    def _barrier(self) -> None:
        if self.world:
            self.world.barrier()

    def _write(self) -> None:
        seconds = self._earlier_seconds + time.time() - self._start_time
        self._manifest["wall_seconds"] = round(seconds, 2)
        write_json(self.path / "manifest.json", self._manifest)

    def touch(self) -> None:
        """Write down the time spent so far, so that a killed run does not lose it."""
        if self.rank == 0:
            self._write()

    def once(self, name: str, prepare: Callable[[], Any]) -> None:
        """Make `<path>/<name>` on rank 0 unless it exists. The other ranks wait, however long.

        Args:
            name: Name of a file or folder that `prepare` writes atomically.
            prepare: Function that makes it. The value it returns goes into the manifest under
                `prepared`.
        """
        if self.rank == 0 and not (self.path / name).exists():
            result = prepare()
            self._manifest.setdefault("prepared", {})[name] = result
            self._write()
            print(f"{name}: {result}", flush=True)
        while not (self.path / name).exists():  # a barrier has a time limit
            time.sleep(0.2)
        self._barrier()

    def finish(self, outputs: Iterable[str | Path], counts: dict[str, Any] | None = None) -> None:
        """Mark the run complete. This is the last thing a run writes.

        Args:
            outputs: Files and folders below the run folder that others will read.
            counts: Counts and yields to keep in the manifest.
        """
        if self.rank != 0:
            return
        sizes: dict[str, int | None] = {}
        for output in map(Path, outputs):
            for file in [output] if output.is_file() else sorted(output.rglob("*")):
                if file.is_file():  # a card is rewritten when there are results: its size changes
                    size = None if file.name == CARD else file.stat().st_size
                    sizes[str(file.relative_to(self.path))] = size
        self._manifest |= {"outputs": sizes, "counts": counts or {}, "status": "complete"}
        self._write()
