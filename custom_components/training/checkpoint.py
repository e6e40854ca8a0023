"""Step checkpoints: the complete training state, renamed into place when whole."""

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from custom_components.config import UserError
from custom_components.training.distributed import World

STEP = re.compile(r"step_(\d+)")
# frozen weights (LoRA's base) are those of the start model, and come from there
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class StepCheckpoints:
    """`<folder>/step_N/` with weights, optimizer, schedule, RNG and whatever the recipe adds.

    Sharded state goes through torch's DCP, so a run continues on another number of ranks.

    Args:
        folder: the run folder's `checkpoints`.
        world: this process among all.
        keep: how many of the latest to keep.
        background: copy the state and write it while training goes on.
    """

    def __init__(
        self, folder: str | Path, world: World, keep: int = 2, background: bool = False
    ) -> None:
        self.folder, self.world, self.keep = Path(folder), world, keep
        self.background, self._pending, self._best = background, None, None
        # the default group's collectives belong to training
        separate = background and world.size > 1
        self._group = torch.distributed.new_group(backend="gloo") if separate else None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = [STEP.fullmatch(p.name) for p in self.folder.glob("step_*")]
        return sorted(int(m.group(1)) for m in found if m)

    @property
    def latest(self) -> int:
        """Steps done at the latest complete checkpoint; 0 when there is none."""
        return max(self.steps(), default=0)

    def save(
        self,
        step: int,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        extra: dict[str, Any] | None = None,
        best: bool = False,
    ) -> None:
        """Write `step_N` on all ranks together.

        Args:
            step: steps done so far.
            model, optimizer, scheduler: their state is saved.
            extra: what else the recipe needs to continue; the same on every rank, and readable
                by `torch.load(weights_only=True)`.
            best: keep this one until another is the best.
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
            state = {
                "step": step,
                "scheduler": scheduler.state_dict(),
                "extra": extra or {},
                "best": self._best,
            }
            _save(state, temporary / "state.pt")
        weights, optim = get_state_dict(model, optimizer, options=TRAINED)
        held = {"model": weights, "optimizer": optim}
        # DCP fsyncs what it writes
        with quiet_single_process():
            if self.background:
                alone = self.world.size == 1
                self._pending = (
                    step,
                    dcp.async_save(
                        held, checkpoint_id=temporary, process_group=self._group, no_dist=alone
                    ),
                )
                return
            dcp.save(held, checkpoint_id=temporary)
        self._pending = step, None
        self.publish()

    def publish(self, wait: bool = True) -> None:
        """Give a written checkpoint its name, and remove those that are not kept.

        Args:
            wait: for one that is being written in the background.
        """
        if self._pending is not None:
            step, future = self._pending
            # done on rank 0, which writes the index of all parts, means done everywhere
            if not wait and not (self.world.rank == 0 and future.done()):
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
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any
    ) -> tuple[int, dict[str, Any]]:
        """Restore the latest checkpoint in place.

        Returns:
            (steps done, `extra` as saved); (0, {}) when there is none.

        Raises:
            UserError: when the latest checkpoint cannot be read.
        """
        steps = self.steps()
        return self.load(steps[-1], model, optimizer, scheduler) if steps else (0, {})

    def load(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any
    ) -> tuple[int, dict[str, Any]]:
        """Restore `step_N` in place; returns and raises as `load_latest`."""
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
            if rng_file.is_file():  # absent for ranks that the saving run did not have
                rng = torch.load(rng_file, weights_only=True)
                torch.set_rng_state(rng["cpu"])
                if "cuda" in rng and self.world.device.type == "cuda":
                    torch.cuda.set_rng_state(rng["cuda"], self.world.device)
        except (OSError, RuntimeError, dcp.CheckpointException) as e:
            raise UserError(
                f"checkpoint {folder} cannot be read ({str(e).splitlines()[0]}); remove that "
                "folder to continue from the one before"
            ) from e
        scheduler.load_state_dict(state["scheduler"])
        self._best = state["best"]
        return state["step"], state["extra"]


@contextmanager
def quiet_single_process() -> Iterator[None]:
    """DCP warns whenever there is no process group; a single process means just that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _save(value: Any, path: Path) -> None:
    with open(path, "wb") as f:
        torch.save(value, f)
        f.flush()
        os.fsync(f.fileno())
