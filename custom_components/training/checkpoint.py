"""Write step checkpoints: the complete training state, renamed into place when whole."""

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from custom_components.config import UserError
from custom_components.training.distributed import World

STEP = re.compile(r"step_(\d+)")
# Frozen weights (LoRA's base) are left out: they are loaded from the start model.
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class StepCheckpoints:
    """Keep `<folder>/step_N/` with weights, optimizer, RNG and the recipe's own state.

    torch's DCP stores the sharded state, so a run can resume on another number of ranks.

    Args:
        folder: run folder's `checkpoints`.
        world: this process among all.
        keep: number of latest checkpoints to keep.
        background: copy the state, and write the copy while training continues.
    """

    def __init__(
        self, folder: str | Path, world: World, keep: int = 2, background: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.world = world
        self.keep = keep
        self.background = background
        self._pending: tuple[int, Future[Any] | None] | None = None
        self._best: int | None = None
        # A background save needs its own process group: training uses the default one meanwhile.
        separate = background and world.size > 1
        self._group: Any = torch.distributed.new_group(backend="gloo") if separate else None

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        matches = [STEP.fullmatch(p.name) for p in self.folder.glob("step_*")]
        return sorted(int(m.group(1)) for m in matches if m)

    @property
    def latest(self) -> int:
        """Return the step of the latest complete checkpoint, or 0 without one."""
        return max(self.steps(), default=0)

    def save(
        self,
        step: int,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        extra: dict[str, Any] | None = None,
        best: bool = False,
    ) -> None:
        """Write `step_N` on all ranks together.

        Args:
            step: steps done so far.
            model, optimizer: objects whose state is saved.
            extra: other state that the recipe needs to resume; the same on every rank, and
                readable by `torch.load(weights_only=True)`.
            best: keep this checkpoint until another one is the best.
        """
        self.publish()
        temporary = self.folder / f".tmp-step_{step}"
        if self.world.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.world.barrier()
        if best:
            self._best = step
        rng = {"cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.world.device)
        _save(rng, temporary / f"rng_{self.world.rank}.pt")
        if self.world.rank == 0:
            state = {"step": step, "extra": extra or {}, "best": self._best}
            _save(state, temporary / "state.pt")
        weights, optim = get_state_dict(model, optimizer, options=TRAINED)
        held = {"model": weights, "optimizer": optim}
        # DCP calls fsync on the files it writes.
        with quiet_single_process():
            if self.background:
                alone = self.world.size == 1
                future = dcp.async_save(
                    held, checkpoint_id=temporary, process_group=self._group, no_dist=alone
                )
                self._pending = step, cast(Future, future)
                return
            dcp.save(held, checkpoint_id=temporary)
        self._pending = step, None
        self.publish()

    def publish(self, wait: bool = True) -> None:
        """Rename a written checkpoint into place, and remove those that are not kept.

        Args:
            wait: wait for a checkpoint that is being written in the background.
        """
        if self._pending is not None:
            step, future = self._pending
            # Rank 0 writes the global index last, so when it is done every rank is.
            if not wait and not (self.world.rank == 0 and future is not None and future.done()):
                return
            if future is not None:
                future.result()
            else:
                self.world.barrier()
            self._pending = None
            if self.world.rank == 0:
                (self.folder / f".tmp-step_{step}").rename(self.folder / f"step_{step}")
                for old in self.steps()[: -self.keep]:
                    if old != self._best:
                        shutil.rmtree(self.folder / f"step_{old}")
        if wait:
            self.world.barrier()

    def load_latest(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, dict[str, Any]]:
        """Restore the latest checkpoint in place.

        Returns:
            (steps done, `extra` as saved); (0, {}) without a checkpoint.

        Raises:
            UserError: if the latest checkpoint cannot be read.
        """
        steps = self.steps()
        return self.load(steps[-1], model, optimizer) if steps else (0, {})

    def load(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, dict[str, Any]]:
        """Restore `step_N` in place. It returns and raises what `load_latest` does."""
        folder = self.folder / f"step_{step}"
        try:
            weights, optim = get_state_dict(model, optimizer, options=TRAINED)
            holder = {"model": weights, "optimizer": optim}
            with quiet_single_process():
                dcp.load(holder, checkpoint_id=folder)
            set_state_dict(
                model,
                optimizer,
                model_state_dict=holder["model"],
                optim_state_dict=holder["optimizer"],
                options=TRAINED,
            )
            state = torch.load(folder / "state.pt", weights_only=True)
            rng_file = folder / f"rng_{self.world.rank}.pt"
            if rng_file.is_file():  # ranks that the saving run did not have find none
                rng = torch.load(rng_file, weights_only=True)
                torch.set_rng_state(rng["cpu"])
                if "cuda" in rng and self.world.device.type == "cuda":
                    torch.cuda.set_rng_state(rng["cuda"], self.world.device)
        except (OSError, RuntimeError, dcp.CheckpointException) as e:
            raise UserError(
                f"checkpoint {folder} cannot be read ({str(e).splitlines()[0]}); remove that "
                "folder to continue from the one before"
            ) from e
        self._best = state["best"]
        return state["step"], state["extra"]


@contextmanager
def quiet_single_process() -> Iterator[None]:
    """Silence DCP's warning about a missing process group: a single process needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _save(value: Any, path: Path) -> None:
    with open(path, "wb") as f:
        torch.save(value, f)
        f.flush()
        os.fsync(f.fileno())
