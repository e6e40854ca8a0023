"""Declare the keys of the doctor."""

from dataclasses import dataclass

from custom_components.config import UserError, nearest, option
from custom_components.doctor.findings import NAMES


@dataclass
class DoctorConfig:
    """Configure the doctor, `doctor.*`, of a chain and of recipes/doctor.py."""

    enabled: bool = option(True, "check a chain before it starts, and each stage before it")
    allow: list[str] = option(list, "names of errors that do not stop a chain")
    device: str | None = option(
        None,
        "GPU to plan for, e.g. H100, with a table of memory and time; by default the one of this "
        "machine",
    )
    ranks: int | None = option(
        None, "processes to plan for; by default those of the stage in its chain, or 1", least=1
    )
    memory_gib: float | None = option(None, "memory of the device; that of the machine by default")
    mfu: float = option(
        0.35, "share of the GPU's peak that training reaches, to plan its time", least=0.01
    )
    mean_document: float = option(
        0.5, "mean length of a document, as a share of max_seq_len, to plan the time"
    )
    million_tokens: dict[str, float] = option(
        dict, "stage: millions of tokens that it trains on; by default from its max_steps"
    )
    rows: int = option(500, "rows of each file to tokenise or to verify", least=1)
    forecast_prompts: int = option(
        20, "prompts of an RL stage to sample responses to beforehand; 0 for none", least=0
    )
    output: str | None = option(None, "JSON file for the findings")

    def __post_init__(self) -> None:
        """Raise UserError for the name of a finding that does not exist."""
        for name in self.allow:
            if name not in NAMES:
                raise UserError(f"doctor.allow: no finding {name!r}{nearest(name, NAMES)}")


@dataclass
class StageDoctorConfig(DoctorConfig):
    """Configure the doctor of a single stage, outside a chain."""

    recipe: str | None = option(None, "recipe of the YAML; by default the file's name decides")
    stage: str | None = option(None, "name of the stage; the recipe's by default")
    evaluation: str | None = option(
        None,
        "YAML of recipes/evaluate.py whose problems may not be trained on; by default "
        "evaluate.yaml beside the stage's",
    )
    evaluation_overrides: list[str] = option(list, "key=value for that YAML")
    trained_on: str | None = option(None, "split that the start model of RL learned from")


@dataclass
class DoctorKeys:
    """Hold the doctor's keys, which stand beside a stage's own."""

    doctor: StageDoctorConfig = option(StageDoctorConfig, "checks of one stage")
