"""Declare the keys of a chain."""

from dataclasses import dataclass

from custom_components.config import option, required
from custom_components.doctor import DoctorConfig


@dataclass
class StageConfig:
    """Configure one stage of a chain."""

    name: str = required("name of the stage and of its run folder below run_dir")
    config: str = required("YAML of the stage")
    recipe: str = option("", "recipe file; recipes/<name>.py by default")
    label: str = option("", "name in the table; the stage's name by default")
    evaluate: bool = option(False, "evaluate the stage's model/ when it is done")
    overrides: list[str] = option(list, "key=value for this stage")
    nproc_per_node: int = option(1, "processes of this stage on a node", least=1)
    nnodes: int = option(1, "nodes of this stage; several need a Slurm allocation", least=1)
    push_to_hub: str | None = option(None, "hub repository for the finished model/")

    def __post_init__(self) -> None:
        """Derive the recipe and the label from the name where they are not given."""
        self.recipe = self.recipe or f"recipes/{self.name}.py"
        self.label = self.label or self.name


@dataclass
class ChainConfig:
    """Configure recipes/chain.py."""

    stages: list[StageConfig] = required("stages in order")
    evaluation: str = required("YAML of recipes/evaluate.py")
    task: str = required("lm-eval task of the table")
    evaluation_nproc_per_node: int = option(
        1, "processes of each evaluation, each with an engine and a GPU of its own", least=1
    )
    evaluation_overrides: list[str] = option(list, "key=value for the evaluations")
    model: str | None = option(
        None, "model to train, for a chain whose stages name it with ${model}; see configs/any"
    )
    problems: str | None = option(
        None, "file of problems, for a chain whose stages name it with ${problems}"
    )
    run_dir: str = required("folder of the chain; each stage's run folder is below it")
    compare: list[list[str]] = option(list, "pairs of stages to compare besides neighbours")
    only: list[str] | None = option(None, "names of the stages to run; all by default")
    start_at: str | None = option(None, "name of the first stage to run")
    dry_run: bool = option(False, "print the plan and stop")
    doctor: DoctorConfig = option(DoctorConfig, "checks before the chain and before each stage")
    push_private: bool = option(True, "new hub repositories are private")
    seed: int = option(0, "seed, passed to every stage")
