"""Plan a chain: its steps in order, and whether each is skipped, continued or run."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from custom_components.chain.chain_config import ChainConfig
from custom_components.config import UserError, load, nearest, schema_of
from custom_components.io import sha256_of
from custom_components.runs.manifest import code_hash, is_complete, read_manifest, what_changed
from custom_components.runs.run_config import RunConfig
from eval.evaluate_config import EvaluateConfig


@dataclass(frozen=True)
class Step:
    """Hold one `tune run` of a chain: a stage, or the evaluation of its model.

    Attributes:
        name: Name of the stage, or `eval/<stage>`.
        recipe: Recipe file.
        config: YAML of the recipe.
        overrides: `key=value` arguments.
        nproc_per_node: Number of processes on a node.
        nnodes: Number of nodes.
    """

    name: str
    recipe: str
    config: str
    overrides: tuple[str, ...]
    nproc_per_node: int = 1
    nnodes: int = 1

    @property
    def stage(self) -> str:
        """Return the name of the stage that the step belongs to."""
        return self.name.removeprefix("eval/")

    @property
    def is_evaluation(self) -> bool:
        """Tell whether the step evaluates a stage's model."""
        return self.name != self.stage

    @property
    def recipe_name(self) -> str:
        """Return the name of the recipe, as its run folder's manifest has it."""
        return Path(self.recipe).stem

    @property
    def arguments(self) -> list[str]:
        """Return the recipe file and its arguments, as `tune run` takes them."""
        return [self.recipe, "--config", self.config, *self.overrides]

    @cached_property
    def cfg(self) -> RunConfig:
        """Load the config, as the recipe will see it.

        Raises:
            UserError: When there is no such recipe, or its config does not fit.
        """
        recipe = Path(self.recipe)
        if not recipe.is_file():
            raise UserError(f"stage {self.name}: no recipe {recipe}")
        if recipe.parent.name != "recipes":
            raise UserError(f"stage {self.name}: {recipe} is not in the folder recipes")
        return load(schema_of(recipe.stem), self.config, list(self.overrides))


class Action(NamedTuple):
    """Say what a chain does with a step, and why.

    Attributes:
        kind: skip; continue (from the last checkpoint); run; rerun (from the start).
        reason: Kind and reason as the plan prints them.
    """

    kind: Literal["skip", "continue", "run", "rerun"]
    reason: str


def all_steps(cfg: ChainConfig) -> list[Step]:
    """Return the stages of a chain and their evaluations in the order they run."""
    steps = []
    for stage in cfg.stages:
        overrides = (f"run_dir={cfg.run_dir}", f"seed={cfg.seed}", *stage.overrides)
        steps.append(
            Step(
                stage.name,
                stage.recipe,
                stage.config,
                overrides,
                stage.nproc_per_node,
                stage.nnodes,
            )
        )
        if stage.evaluate:
            steps.append(evaluation_step(cfg, stage.name))
    return steps


def evaluation_step(cfg: ChainConfig, stage: str) -> Step:
    """Return the evaluation of a stage's model. Its samples do not depend on the chain's seed."""
    overrides = (
        f"run_dir={cfg.run_dir}",
        f"only=[{stage}]",
        f"output_dir={cfg.run_dir}/eval/{stage}",
        f"models.{stage}={cfg.run_dir}/{stage}/model",
        *cfg.evaluation_overrides,
    )
    return Step(
        f"eval/{stage}",
        "recipes/evaluate.py",
        cfg.evaluation,
        overrides,
        cfg.evaluation_nproc_per_node,
    )


def chosen_steps(cfg: ChainConfig) -> list[Step]:
    """Return the steps of the stages that `only` and `start_at` choose.

    Raises:
        UserError: When they name a stage that the chain does not have.
    """
    names = [stage.name for stage in cfg.stages]
    start = [cfg.start_at] if cfg.start_at else []
    for key, stages in (("only", cfg.only or []), ("start_at", start)):
        for name in stages:
            if name not in names:
                raise UserError(f"{key}: no stage {name!r}{nearest(name, names)}")
    first = names.index(cfg.start_at) if cfg.start_at else 0
    chosen = [name for name in names[first:] if cfg.only is None or name in cfg.only]
    return [step for step in all_steps(cfg) if step.stage in chosen]


def check_chain(cfg: ChainConfig, steps: Sequence[Step]) -> None:
    """Load every step's config, and check that stages, folders, task and comparisons fit each other.

    Raises:
        UserError: When they do not.
    """
    names = [stage.name for stage in cfg.stages]
    for name in names:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"stage {name!r}: a name has letters, digits, _ and - only")
        if names.count(name) > 1:
            raise UserError(f"stages: there are two of the name {name!r}")
    for step in steps:
        folder = Path(cfg.run_dir) / step.name
        if Path(step.cfg.output_dir).resolve() != folder.resolve():
            raise UserError(
                f"stage {step.name}: its output_dir is {step.cfg.output_dir}, and the chain looks for "
                f"it in {folder}; add output_dir=${{run_dir}}/{step.name} to its overrides"
            )
        tasks = step.cfg.tasks if isinstance(step.cfg, EvaluateConfig) else []
        if step.is_evaluation and cfg.task not in tasks:
            near = nearest(cfg.task, tasks)
            raise UserError(f"task: {cfg.evaluation} does not evaluate {cfg.task!r}{near}")
    evaluated = [stage.name for stage in cfg.stages if stage.evaluate]
    for pair in cfg.compare:
        if len(pair) != 2:
            raise UserError(f"compare: {list(pair)} is not a pair of stages, such as [sft, grpo]")
        for name in pair:
            if name not in evaluated:
                raise UserError(f"compare: no evaluated stage {name!r}{nearest(name, evaluated)}")


def state(step: Step) -> Action:
    """Return what has to be done for a step, whatever happens to the steps before it."""
    manifest = read_manifest(step.cfg.output_dir)
    if manifest is None:
        return Action("run", "run")
    inputs = {path: sha256_of(path) for path in manifest["inputs"] if Path(path).exists()}
    changed = what_changed(manifest, step.recipe_name, asdict(step.cfg), inputs)
    if changed:
        return Action("rerun", f"run again: changed {', '.join(changed[:3])}")
    same_code = manifest.get("code_hash") == code_hash(step.recipe_name)
    if manifest["status"] != "complete":
        return Action("continue", "continue" if same_code else "continue: the code changed since")
    if not same_code:
        return Action("rerun", "run again: the code changed")
    if not is_complete(step.cfg.output_dir, manifest):
        return Action("rerun", "run again: outputs are missing")
    return Action("skip", "skip: complete")


def plan(steps: Sequence[Step]) -> list[Action]:
    """Return what has to be done for each step.

    A step that reads the output of an earlier one which runs is rerun, too.
    """
    actions, running = [], {}
    for step in steps:
        action = state(step)
        folder = Path(step.cfg.output_dir).resolve()
        if action.kind in ("skip", "continue"):
            manifest = read_manifest(folder) or {"inputs": {}}
            inputs = [Path(path).resolve() for path in manifest["inputs"]]
            sources = [
                name
                for output, name in running.items()
                if any(path.is_relative_to(output) for path in inputs)
            ]
            if sources:
                action = Action("rerun", f"run again: {', '.join(sources)} will run")
        if action.kind != "skip":
            running[folder] = step.name
        actions.append(action)
    return actions
