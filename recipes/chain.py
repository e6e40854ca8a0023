"""Run a whole chain: every stage as a `tune run` process, an evaluation after each, a report.

    tune run recipes/chain.py --config configs/tiny/chain.yaml
    tune run recipes/chain.py --config configs/tiny/chain.yaml dry_run=true
    tune run recipes/chain.py --config configs/tiny/chain.yaml only=[sft,dpo]
    tune run recipes/chain.py --config configs/tiny/chain.yaml start_at=dpo
    tune run recipes/chain.py --config configs/tiny/chain.yaml seed=1 run_dir=runs/tiny-seed1

A stage whose manifest proves it complete, with the same config, inputs and code, is skipped. One
that was cut off continues from its last checkpoint; one that changed is run again from its start,
and so is what follows where its inputs changed. Kill the chain anywhere and start it again.
"""

import importlib
import os
import re
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from custom_components.config import UserError, load, nearest, option, recipe_main, required
from custom_components.doctor import DoctorConfig, Finding, Stage, examine, refuse, show
from custom_components.hub import check_token, upload_model
from custom_components.io import sha256_of
from custom_components.report.ablation_table import print_ablation
from custom_components.report.chain_report import make_report
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.manifest import code_hash, is_complete, read_manifest, what_changed
from custom_components.runs.processes import TUNE, failure, launch, shown_and_logged, stopped
from recipes.doctor import evaluation_of


@dataclass
class StageConfig:
    """One stage of a chain."""

    name: str = required("name of the stage and of its run folder below run_dir")
    config: str = required("YAML of the stage")
    recipe: str = option("", "recipe file; recipes/<name>.py by default")
    label: str = option("", "name in the table; the stage's name by default")
    evaluate: bool = option(False, "evaluate the stage's model/ when it is done")
    overrides: list[str] = option(list, "key=value for this stage")
    nproc_per_node: int = option(1, "processes of this stage on a node")
    nnodes: int = option(1, "nodes of this stage; several need a Slurm allocation")
    push_to_hub: str | None = option(None, "hub repository for the finished model/")


@dataclass
class ChainConfig:
    """Config of recipes/chain.py."""

    stages: list[StageConfig] = required("stages in order")
    evaluation: str = required("YAML of recipes/evaluate.py")
    task: str = required("lm-eval task of the table")
    run_dir: str = required("folder of the chain; each stage's run folder is below it")
    compare: list[list[str]] = option(list, "pairs of stages to compare besides neighbours")
    only: list[str] | None = option(None, "names of the stages to run; all by default")
    start_at: str | None = option(None, "name of the first stage to run")
    dry_run: bool = option(False, "print the plan and stop")
    doctor: DoctorConfig = option(DoctorConfig, "checks before the chain and before each stage")
    push_private: bool = option(True, "new hub repositories are private")
    seed: int = option(0, "seed, passed to every stage")


@recipe_main
def main(cfg: ChainConfig) -> None:
    """Run the stages of a chain."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("the chain is one process; set nproc_per_node of a stage instead")
    signal.signal(signal.SIGTERM, stopped)  # between stages; `shown_and_logged` waits for one
    run_dir, stages = Path(cfg.run_dir), stages_with_defaults(cfg)
    steps = steps_of(cfg)
    names = {step["name"] for step in steps}
    pushed = [s for s in stages if s["push_to_hub"] and s["name"] in names]
    check(cfg, steps)  # a mistake in any stage's config ends the chain before its first stage
    plans = planned(steps)
    for step, (_, why) in zip(steps, plans, strict=True):
        print(f"{step['name']:>16}  {why}", flush=True)
    if cfg.dry_run:
        return
    if pushed:
        check_token(f"stages.{pushed[0]['name']}.push_to_hub")
    started = time.time()
    compare = [tuple(pair) for pair in cfg.compare]
    doctor = Doctor(cfg, steps)
    doctor.before_all(plans)
    report, page = make_report(run_dir, cfg.task, stages, compare)
    for step in steps:
        try:
            run_step(step, run_dir, doctor)
        except BaseException:
            try:  # it shows what failed, and must not hide it
                make_report(run_dir, cfg.task, stages, compare)
            except Exception as e:
                print(f"warning: no report: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            raise
        report, page = make_report(run_dir, cfg.task, stages, compare)
    if report["stages"]:
        print_ablation(report)
    for stage in pushed:
        key, model = f"stages.{stage['name']}.push_to_hub", run_dir / stage["name"] / "model"
        print(f"uploaded: {upload_model(model, stage['push_to_hub'], key, cfg.push_private)}")
    print(f"\n{time.time() - started:.0f} s. Report: {page}", flush=True)


def stages_with_defaults(cfg: ChainConfig) -> list[dict[str, Any]]:
    """The stages of a chain, labels and recipes filled in."""
    return [
        asdict(s) | {"label": s.label or s.name, "recipe": s.recipe or f"recipes/{s.name}.py"}
        for s in cfg.stages
    ]


def steps_of(cfg: ChainConfig) -> list[dict[str, Any]]:
    """The chosen stages and evaluations of a chain, in order."""
    return chosen(plan(cfg, stages_with_defaults(cfg)), cfg.only, cfg.start_at)


def stages_of(steps: list[dict[str, Any]]) -> dict[str, Stage]:
    """The steps by name, as the doctor looks at them."""
    stages, learned_from = {}, None
    for step in steps:
        cfg, recipe, name = load_config(step), Path(step["recipe"]).stem, step["name"]
        ranks = step["nnodes"] * step["nproc_per_node"]
        stages[name] = Stage(name, recipe, cfg, ranks, learned_from)
        if recipe in ("midtrain", "sft"):
            learned_from = cfg.data
    return stages


def check(cfg: ChainConfig, steps: list[dict[str, Any]]) -> None:
    """Load every step's config, and check that stages, folders, task and comparisons fit each other.

    Raises:
        UserError: at what does not.
    """
    names = [stage.name for stage in cfg.stages]
    for stage in cfg.stages:
        if not re.fullmatch(r"[\w-]+", stage.name):
            raise UserError(f"stage {stage.name!r}: a name has letters, digits, _ and - only")
        if names.count(stage.name) > 1:
            raise UserError(f"stages: there are two of the name {stage.name!r}")
        if min(stage.nproc_per_node, stage.nnodes) < 1:
            raise UserError(f"stage {stage.name}: nproc_per_node and nnodes must be 1 or more")
    for step in steps:
        config, name = load_config(step), step["name"]
        folder = Path(cfg.run_dir) / name
        if Path(config.output_dir).resolve() != folder.resolve():
            raise UserError(
                f"stage {name}: its output_dir is {config.output_dir}, and the chain looks for it in "
                f"{folder}; add output_dir=${{run_dir}}/{name} to its overrides"
            )
        if name.startswith("eval/") and cfg.task not in config.tasks:
            raise UserError(
                f"task: {cfg.evaluation} does not evaluate {cfg.task!r}{nearest(cfg.task, config.tasks)}"
            )
    evaluated = [stage.name for stage in cfg.stages if stage.evaluate]
    for pair in cfg.compare:
        if len(pair) != 2:
            raise UserError(f"compare: {list(pair)} is no pair of stages, such as [sft, grpo]")
        for name in pair:
            if name not in evaluated:
                raise UserError(f"compare: no evaluated stage {name!r}{nearest(name, evaluated)}")


def plan(cfg: ChainConfig, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages and evaluations in the order they run, each with its command's parts."""
    common = [f"run_dir={cfg.run_dir}", f"seed={cfg.seed}"]
    steps = []
    for stage in stages:
        steps.append(
            {key: stage[key] for key in ("name", "recipe", "config", "nproc_per_node", "nnodes")}
            | {"overrides": [*common, *stage["overrides"]]}
        )
        if stage["evaluate"]:
            name = stage["name"]
            steps.append(
                {
                    "name": f"eval/{name}",
                    "recipe": "recipes/evaluate.py",
                    "config": cfg.evaluation,
                    "nproc_per_node": 1,
                    "nnodes": 1,
                    "overrides": [
                        # the problems' samples do not change with the chain's seed
                        common[0],
                        f"only=[{name}]",
                        f"output_dir={cfg.run_dir}/eval/{name}",
                        f"models.{name}={cfg.run_dir}/{name}/model",
                    ],
                }
            )
    return steps


def chosen(
    steps: list[dict[str, Any]], only: list[str] | None, start_at: str | None
) -> list[dict[str, Any]]:
    """The steps of some stages, each with its evaluation.

    Raises:
        UserError: when there is no such stage.
    """
    names = list(dict.fromkeys(step["name"].removeprefix("eval/") for step in steps))
    for key, asked in (("only", only or []), ("start_at", [start_at] if start_at else [])):
        for name in asked:
            if name not in names:
                raise UserError(f"{key}: no stage {name!r}{nearest(name, names)}")
    wanted = [n for n in names if only is None or n in only]
    if start_at:
        wanted = [n for n in wanted if names.index(n) >= names.index(start_at)]
    return [step for step in steps if step["name"].removeprefix("eval/") in wanted]


def load_config(step: dict[str, Any]) -> Any:
    """The step's config, as its recipe will see it; loaded once."""
    if "cfg" not in step:
        recipe = Path(step["recipe"])
        if not recipe.is_file():
            raise UserError(f"stage {step['name']}: no recipe {recipe}")
        if recipe.parent.name != "recipes":
            raise UserError(f"stage {step['name']}: {recipe} is not in the folder recipes")
        schema = importlib.import_module(f"recipes.{recipe.stem}").main.schema
        step["cfg"] = load(schema, step["config"], step["overrides"])
    return step["cfg"]


def state(step: dict[str, Any]) -> tuple[str, str]:
    """What has to be done for a step: (skip | continue | run | rerun, why)."""
    config = load_config(step)
    recipe = Path(step["recipe"]).stem
    manifest = read_manifest(config.output_dir)
    if manifest is None:
        return "run", "run"
    inputs = {path: sha256_of(path) for path in manifest["inputs"] if Path(path).exists()}
    changed = what_changed(manifest, recipe, asdict(config), inputs)
    if changed:
        return "rerun", f"run again: changed {', '.join(changed[:3])}"
    same_code = manifest.get("code_hash") == code_hash(recipe)
    if manifest["status"] != "complete":
        return "continue", "continue" if same_code else "continue: the code changed since"
    if not same_code:
        return "rerun", "run again: the code changed"
    if not is_complete(config.output_dir, manifest):
        return "rerun", "run again: outputs are missing"
    return "skip", "skip: complete"


def planned(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What has to be done for each step, as `state` says, and where what it reads is made anew."""
    plans, made_anew = [], {}
    for step in steps:
        what, why = state(step)
        folder = Path(load_config(step).output_dir).resolve()
        if what in ("skip", "continue"):
            inputs = [Path(path).resolve() for path in read_manifest(folder)["inputs"]]
            above = [
                name
                for made, name in made_anew.items()
                if any(path.is_relative_to(made) for path in inputs)
            ]
            if above:
                what, why = "rerun", f"run again: {', '.join(above)} is made anew"
        if what != "skip":
            made_anew[folder] = step["name"]
        plans.append((what, why))
    return plans


class Doctor:
    """The doctor's part in a chain: before it starts, and before each stage.

    Args:
        cfg: the chain's config.
        steps: its chosen steps.
    """

    def __init__(self, cfg: ChainConfig, steps: list[dict[str, Any]]) -> None:
        self.options, self.run_dir, self.evaluation = cfg.doctor, Path(cfg.run_dir), cfg.evaluation
        # all of the chain's: what a chosen stage starts from may come of one that is not
        self.steps, self.stages = steps, stages_of(plan(cfg, stages_with_defaults(cfg)))
        self.problems = evaluation_of(cfg.evaluation)
        self.shown: set[Finding] = set()

    def before_all(self, plans: list[tuple[str, str]]) -> None:
        """Everything that can be said already of the steps that are not skipped.

        Raises:
            UserError: on errors that are not allowed by name.
        """
        if self.options.enabled:
            steps = zip(self.steps, plans, strict=True)
            todo = [self.stages[step["name"]] for step, (what, _) in steps if what != "skip"]
            self._heed(examine(todo, self.options, self.problems, list(self.stages.values())))

    def before(self, step: dict[str, Any]) -> None:
        """What depends on what earlier stages have made. For an RL stage that is done by
        recipes/doctor.py, whose engine ends with its process.

        Raises:
            UserError: on errors that are not allowed by name.
        """
        stage = self.stages[step["name"]]
        if not self.options.enabled:
            return
        if not (isinstance(stage.cfg, RLConfig) and self.options.forecast_prompts):
            # anew: its model may have been made since
            self._heed(examine([replace(stage)], self.options, self.problems))
            return
        options = {
            "recipe": stage.recipe,
            "stage": stage.name,
            "ranks": stage.ranks,
            "trained_on": stage.trained_on,
            "evaluation": self.evaluation,
            "allow": f"[{','.join(self.options.allow)}]",
            **{
                k: getattr(self.options, k)
                for k in ("device", "memory_gib", "rows", "forecast_prompts")
            },
        }
        command = [
            TUNE,
            "run",
            "recipes/doctor.py",
            "--config",
            step["config"],
            *step["overrides"],
            *(f"doctor.{key}={value}" for key, value in options.items() if value is not None),
        ]
        log = self.run_dir / "logs" / f"doctor-{step['name']}.log"
        if code := shown_and_logged(command, log):
            raise UserError(failure(f"the doctor's look at stage {stage.name}", code, log))

    def _heed(self, found: list[Finding]) -> None:
        new = [f for f in found if f not in self.shown and f.level != "note"]
        self.shown |= set(new)
        show(new)
        refuse(found, self.options.allow)


def run_step(step: dict[str, Any], run_dir: Path, doctor: Doctor) -> None:
    """Run one step as a `tune run` process, its output on the terminal and in a log.

    Raises:
        UserError: when it fails, naming its log and the line that matters, or when the doctor finds
            an error.
    """
    what, why = state(step)
    print(f"== {step['name']}: {why}", flush=True)
    if what == "skip":
        return
    command = [
        *launch(step),
        step["recipe"],
        "--config",
        step["config"],
        *step["overrides"],
        *(["resume=never"] * (what == "rerun")),
    ]
    if what != "continue":
        doctor.before(step)
    log = run_dir / "logs" / f"{step['name'].replace('/', '-')}.log"
    if code := shown_and_logged(command, log):
        raise UserError(failure(f"stage {step['name']}", code, log))


if __name__ == "__main__":
    main()
