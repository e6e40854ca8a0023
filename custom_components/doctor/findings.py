"""What the doctor looks at, and what it finds."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.text import Text

from custom_components.config import Component, UserError, nearest, option
from custom_components.data.data_config import RolloutConfig
from custom_components.data.rows import table_files
from custom_components.models.decoder import Decoder
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.run_config import RunConfig
from custom_components.training.estimate import build_on_meta
from custom_components.training.training_config import SplitTrainingConfig, TrainingConfig
from eval.evaluate_config import EvaluateConfig

NAMES = {
    "tokenizer": "tokenizer and chat template can be used",
    "end_of_turn": "the template ends a turn with a special token, and it is trained",
    "prefilled_think": "the template does not open <think> for the model",
    "pad_is_end_of_turn": "padding does not hide the end of the turn",
    "data_unreadable": "what a stage reads is there, and every file of the data can be read",
    "data_columns": "rows have the columns that the config names",
    "answer_column": "answers are answers, not problems or solutions",
    "gold_unreadable": "the verifier can read the data's own answers",
    "contaminated": "no evaluation problem is trained on",
    "decontamination": "evaluation problems are taken out of the data",
    "too_long": "rows fit into max_seq_len",
    "context": "lengths fit into the model and the engine",
    "max_new_tokens": "responses have room to end",
    "rope_branch": "trainer and engine compute the same LongRoPE branch",
    "zero_variance": "groups hold responses with different rewards",
    "reward": "the reward functions run",
    "memory": "the stage fits the device",
    "disk": "checkpoints and models fit the disk",
    "time": "how long it takes",
}
"""Every finding by name, and what holds where there is none."""
LEVELS = ("error", "warning", "note")


@dataclass
class DoctorConfig:
    """Keys of the doctor, `doctor.*`, for a chain and for recipes/doctor.py."""

    enabled: bool = option(True, "check a chain before it starts, and each stage before it")
    allow: list[str] = option(list, "names of errors that do not stop a chain")
    device: str | None = option(None, "GPU to plan for, e.g. H100; this machine by default")
    memory_gib: float | None = option(None, "memory of the device; that of the machine by default")
    rows: int = option(500, "rows of each file to tokenise or to verify", least=1)
    forecast_prompts: int = option(
        20, "prompts of an RL stage to sample responses to beforehand; 0 for none", least=0
    )
    output: str | None = option(None, "JSON file for the findings")

    def __post_init__(self) -> None:
        """Raise UserError for the name of a finding that does not exist."""
        for name in self.allow:
            if name not in NAMES:
                raise UserError(f"doctor.allow: no finding {name!r}{nearest(name, list(NAMES))}")


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        name: key of `NAMES`.
        level: error, warning or note.
        what: what was found, with figures.
        why: why it matters.
        change: what to do.
        stage: where.
    """

    name: str
    level: str
    what: str
    why: str
    change: str
    stage: str = ""

    def of(self, stage: str) -> "Finding":
        return replace(self, stage=stage)


@dataclass(frozen=True)
class Stage:
    """A stage to look at.

    Attributes:
        name: of the stage.
        recipe: name of its recipe.
        cfg: its config.
        ranks: processes on a node.
        trained_on: split that the stage's start model learned from; None where it is not known.
        alone: looked at without the chain that makes what it reads.
        made_before: output folders of the stages that run before it.
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
        """Return the path that a training stage's problems come from; None where it is not one."""
        return self.data or self.cfg.inputs().get("problems.path")

    @property
    def engine(self) -> Component:
        """Return the node of the stage's engine; empty for a stage without one."""
        has_engine = isinstance(self.cfg, RLConfig | RolloutConfig | EvaluateConfig)
        return self.cfg.engine if has_engine else {}

    @cached_property
    def model(self) -> Decoder | None:
        """The model to train, without data; None where none is trained or it is not there yet."""
        if not isinstance(self.cfg, TrainingConfig) or self.missing(self.cfg.model.get("path")):
            return None
        return build_on_meta(self.cfg)

    def missing(self, path: str | None) -> bool:
        """Whether `path` is one of the chain's, no hub id, and is not there."""
        if not path or Path(path).exists():
            return False
        return any(is_below(path, folder) for folder in (self.cfg.run_dir, *self.made_before))

    def pending(self, path: str | None) -> bool:
        """Whether an earlier stage has still to make `path`."""
        return self.missing(path) and any(is_below(path, folder) for folder in self.made_before)


def is_below(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def duration(seconds: float) -> str:
    """`3.4 hours`, `12 minutes`, `a minute or less`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else "a minute or less"


def files_of(path: str) -> list[Path]:
    """The data files at a path: itself, or those of a folder (a rollout's run folder included)."""
    folder = Path(path)
    if folder.is_dir() and (folder / "rollouts").is_dir():
        folder = folder / "rollouts"
    return [Path(f) for f in table_files(str(folder)) if Path(f).is_file()]


def blocking(found: Iterable[Finding], allow: Iterable[str]) -> list[Finding]:
    """The errors that are not allowed by name."""
    return [f for f in found if f.level == "error" and f.name not in set(allow)]


def refuse(found: Iterable[Finding], allow: Iterable[str]) -> None:
    """End it on errors that are not allowed by name.

    Raises:
        UserError: naming them, and the way on.
    """
    allowed = set(allow)
    if names := {f.name for f in blocking(found, allowed)}:
        raise UserError(
            f"the doctor found {','.join(sorted(names))}; mend that, or go on with "
            f"doctor.allow=[{','.join(sorted(names | allowed))}]"
        )


def show(found: list[Finding]) -> None:
    """Print findings, errors first."""
    console = Console(soft_wrap=True, file=sys.stdout)
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for finding in sorted(found, key=lambda f: LEVELS.index(f.level)):
        head = Text(f"{finding.level:<8}", style=colours[finding.level])
        head.append(f"{finding.stage} · {finding.name}: ", style="bold")
        head.append(finding.what)
        console.print(head)
        for label, text in (("why", finding.why), ("do", finding.change)):
            if text:
                console.print(Text(f"{'':<8}{label}: {text}", style="dim"))
