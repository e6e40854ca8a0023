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
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom_components.config import UserError, load, nearest, option, recipe_main, required
from custom_components.io import sha256_of
from custom_components.models.hub import check_token, upload_model
from custom_components.processes import die_with_parent, last_words
from custom_components.report.chain_report import make_report
from custom_components.report.table import print_ablation
from custom_components.training.interruption import Interruption
from custom_components.training.run_folder import (
    code_hash,
    is_complete,
    read_manifest,
    what_changed,
)


@dataclass
class StageConfig:
    """One stage of a chain."""

    name: str = required("name of the stage and of its run folder below run_dir")
    config: str = required("YAML of the stage")
    recipe: str = option("", "recipe file; recipes/<name>.py by default")
    label: str = option("", "name in the table; the stage's name by default")
    evaluate: bool = option(False, "evaluate the stage's model/ when it is done")
    overrides: list[str] = option(list, "key=value for this stage")
    nproc_per_node: int = option(1, "processes of this stage")
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
    push_private: bool = option(True, "new hub repositories are private")
    seed: int = option(0, "seed, passed to every stage")


@recipe_main(ChainConfig)
def main(cfg: Any) -> None:
    """Run the stages of a chain."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("the chain is one process; set nproc_per_node of a stage instead")
    run_dir = Path(cfg.run_dir)
    stages = stages_of(cfg)
    steps = chosen(plan(cfg, stages), cfg.only, cfg.start_at)
    pushed = [
        s for s in stages if s["push_to_hub"] and s["name"] in {step["name"] for step in steps}
    ]
    for step in steps:
        load_config(step)  # a mistake in any stage's config ends the chain before its first stage
    if cfg.dry_run:
        for step in steps:
            print(f"{step['name']:>16}  {state(step)[1]}")
        return
    if pushed:
        check_token(f"stages.{pushed[0]['name']}.push_to_hub")
    started = time.time()
    compare = [tuple(pair) for pair in cfg.compare]
    report, page = make_report(run_dir, cfg.task, stages, compare)
    for step in steps:
        try:
            run_step(step, run_dir)
        finally:  # it also shows what failed
            report, page = make_report(run_dir, cfg.task, stages, compare)
    if report["stages"]:
        print_ablation(report)
    for stage in pushed:
        key, model = f"stages.{stage['name']}.push_to_hub", run_dir / stage["name"] / "model"
        print(f"uploaded: {upload_model(model, stage['push_to_hub'], key, cfg.push_private)}")
    print(f"\n{time.time() - started:.0f} s. Report: {page}", flush=True)


def stages_of(cfg: Any) -> list[dict[str, Any]]:
    """The config's stages, with their labels and recipes."""
    return [asdict(s) | {"label": s.label or s.name, "recipe": s.recipe or f"recipes/{s.name}.py"}
            for s in cfg.stages]  # fmt: skip


def plan(cfg: Any, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages and evaluations in the order they run, each with its command's parts."""
    common = [f"run_dir={cfg.run_dir}", f"seed={cfg.seed}"]
    steps = []
    for stage in stages:
        steps.append(
            {key: stage[key] for key in ("name", "recipe", "config", "nproc_per_node")}
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
                    "overrides": [
                        # the problems' samples do not change with the chain's seed
                        common[0], f"only=[{name}]", f"output_dir={cfg.run_dir}/eval/{name}",
                        f"models.{name}={cfg.run_dir}/{name}/model",
                    ],
                }
            )  # fmt: skip
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
    """The step's config, as its recipe will see it."""
    recipe = Path(step["recipe"])
    if not recipe.is_file():
        raise UserError(f"stage {step['name']}: no recipe {recipe}")
    module = importlib.import_module(f"recipes.{recipe.stem}")
    return load(module.main.schema, step["config"], step["overrides"])


def state(step: dict[str, Any]) -> tuple[str, str]:
    """What has to be done for a step: (skip | continue | run | rerun, why)."""
    config = load_config(step)
    recipe = Path(step["recipe"]).stem
    manifest = read_manifest(config.output_dir)
    if manifest is None:
        return "run", "run"
    gone = [path for path in manifest["inputs"] if not Path(path).exists()]
    inputs = {} if gone else {path: sha256_of(path) for path in manifest["inputs"]}
    changed = what_changed(manifest, recipe, asdict(config), inputs)
    if changed:
        return "rerun", f"run again: changed {', '.join(changed[:3])}"
    if manifest["status"] != "complete":
        return "continue", "continue"
    if manifest["code_hash"] != code_hash(recipe):
        return "rerun", "run again: the code changed"
    if not is_complete(config.output_dir, manifest):
        return "rerun", "run again: outputs are missing"
    return "skip", "skip: complete"


def run_step(step: dict[str, Any], run_dir: Path) -> None:
    """Run one step as a `tune run` process, its output on the terminal and in a log.

    Raises:
        UserError: when it fails, naming its log and the line that matters.
    """
    what, why = state(step)
    print(f"== {step['name']}: {why}", flush=True)
    if what == "skip":
        return
    launch = ["--nproc_per_node", str(step["nproc_per_node"])] * (step["nproc_per_node"] > 1)
    command = [
        str(Path(sys.executable).with_name("tune")), "run", *launch, step["recipe"],
        "--config", step["config"], *step["overrides"], *(["resume=never"] * (what == "rerun")),
    ]  # fmt: skip
    log = run_dir / "logs" / f"{step['name'].replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
        # Ctrl-C reaches the stage by itself: it is in the terminal's foreground, too
        stop = Interruption(lambda number: number == signal.SIGTERM and process.terminate())
        with stop.watch():
            while chunk := process.stdout.read1(65536):
                file.write(chunk)
                file.flush()
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
            code = process.wait()
    if stop.signal:
        print("stopped; the same command continues", file=sys.stderr, flush=True)
        sys.exit(128 + stop.signal)
    if code:
        error, last = last_words(log)
        raise UserError(
            f"stage {step['name']} failed with status {code} (log: {log}): {error or last}"
        )


if __name__ == "__main__":
    main()
