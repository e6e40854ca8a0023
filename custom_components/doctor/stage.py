"""Hold a stage as the doctor examines it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from custom_components.config import Component
from custom_components.data.data_config import RolloutConfig
from custom_components.data.rows import table_files
from custom_components.models.decoder import Decoder
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.run_config import RunConfig
from custom_components.training.estimate import build_on_meta
from custom_components.training.training_config import SplitTrainingConfig, TrainingConfig
from eval.evaluate_config import EvaluateConfig


@dataclass(frozen=True)
class Stage:
    """Hold a stage to examine.

    Attributes:
        name: Name of the stage.
        recipe: Name of its recipe.
        cfg: Its config.
        ranks: Number of its processes.
        trained_on: Split that the stage's start model learned from; None if it is not known.
        alone: Whether the stage is examined without the chain that makes what it reads.
        made_before: Output folders of the stages that run before it.
    """

    name: str
    recipe: str
    cfg: RunConfig
    ranks: int = 1
    trained_on: str | None = None
    alone: bool = False
    made_before: tuple[str, ...] = ()

    @property
    def data(self) -> str | None:
        """Return the split that the stage trains on; None for a stage without one."""
        return self.cfg.data if isinstance(self.cfg, SplitTrainingConfig) else None

    @property
    def trains(self) -> bool:
        """Tell whether the stage learns from problems."""
        return isinstance(self.cfg, SplitTrainingConfig | RLConfig)

    @property
    def problems_path(self) -> str | None:
        """Return the path that the stage's problems come from; None if they do not come from one."""
        return self.data or self.cfg.inputs().get("problems.path")

    @property
    def engine(self) -> Component:
        """Return the node of the stage's engine; empty for a stage without one."""
        cfg = self.cfg
        return cfg.engine if isinstance(cfg, RLConfig | RolloutConfig | EvaluateConfig) else {}

    @property
    def runs_vllm(self) -> bool:
        """Tell whether the stage's engine is vLLM in its own process."""
        return self.engine.get("_component_", "").endswith("VLLMEngine")

    @cached_property
    def model(self) -> Decoder | None:
        """Build the model to train, without data; None if none is trained or it does not exist yet."""
        if not isinstance(self.cfg, TrainingConfig) or self.missing(self.cfg.model.get("path")):
            return None
        return build_on_meta(self.cfg)

    def missing(self, path: str | None) -> bool:
        """Tell whether `path` is the chain's, rather than a hub id, and does not exist."""
        if not path or Path(path).exists():
            return False
        return any(is_below(path, folder) for folder in (self.cfg.run_dir, *self.made_before))

    def pending(self, path: str | None) -> bool:
        """Tell whether an earlier stage has yet to make `path`."""
        if path is None or not self.missing(path):
            return False
        return any(is_below(path, folder) for folder in self.made_before)


def is_below(path: str, folder: str) -> bool:
    """Tell whether a path is in a folder, however both are spelled."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def files_of(path: str) -> list[Path]:
    """Return the data files at a path: the file, or those of the folder or run folder of a rollout."""
    folder = Path(path)
    if folder.is_dir() and (folder / "rollouts").is_dir():
        folder = folder / "rollouts"
    return [Path(f) for f in table_files(str(folder)) if Path(f).is_file()]
