"""Look for what would spoil a run, before it costs anything.

    tune run recipes/doctor.py --config configs/tiny/chain.yaml
    tune run recipes/doctor.py --config configs/phi4_mini/sft.yaml doctor.device=H100 doctor.ranks=8
    tune run recipes/doctor.py --config configs/tiny/grpo.yaml doctor.forecast_prompts=50

Takes the YAML of any stage or chain, and its overrides. Each finding says what, why it matters and
what to change; errors end with status 2. What an earlier stage has still to make is looked at when it
is there: a chain calls the doctor again before each stage. For an RL stage whose start model is there,
a few prompts are sampled, to tell how many groups will teach anything.
"""

import importlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from custom_components.config import (
    UserError,
    command_line,
    errors_in_one_line,
    load,
    nearest,
    option,
    read_yaml,
)
from custom_components.doctor import (
    DoctorConfig,
    EvaluationProblems,
    Finding,
    Stage,
    blocking,
    examine,
    refuse,
    show,
)
from custom_components.doctor.forecast import forecast
from custom_components.io import write_json
from custom_components.rl.rl_config import RLConfig
from eval.evaluate_config import EvaluateConfig
from recipes.evaluate import problems_of_evaluation


@dataclass
class StageDoctorConfig(DoctorConfig):
    """What only a stage of its own needs."""

    recipe: str | None = option(None, "recipe of the YAML; by default its file's name says")
    stage: str | None = option(None, "name of the stage; the recipe's by default")
    ranks: int = option(1, "processes of the stage on a node", least=1)
    evaluation: str | None = option(
        None,
        "YAML of recipes/evaluate.py whose problems may not be trained on; by default "
        "evaluate.yaml beside the stage's",
    )
    trained_on: str | None = option(None, "split that the start model of RL learned from")


@dataclass
class DoctorKeys:
    """Hold the doctor's keys beside a stage's own."""

    doctor: StageDoctorConfig = option(StageDoctorConfig, "checks of one stage")


def main() -> None:
    """Check a stage or a chain."""
    config, overrides = command_line(__doc__)
    with errors_in_one_line():
        if is_chain(config):
            options, found = check_chain(config, overrides)
        else:
            options, found = check_one(config, overrides)
        show(found)
        if options.output:
            write_json(options.output, [asdict(finding) for finding in found])
        refuse(found, options.allow)
        print("no error found", flush=True)


def is_chain(config: str) -> bool:
    """Whether a YAML is a chain's."""
    return {"stages", "evaluation"} <= set(read_yaml(config))


main.schema = StageDoctorConfig  # its keys; they begin with `doctor.` beside the stage's own


def check_chain(config: str, overrides: list[str]) -> tuple[DoctorConfig, list[Finding]]:
    """Findings on the stages of a chain that are still to run."""
    from recipes import chain

    cfg = load(chain.ChainConfig, config, overrides)
    steps = chain.steps_of(cfg)
    chain.check(cfg, steps)
    # all of the chain's: what a chosen stage starts from may come of one that is not
    stages = chain.stages_of(chain.plan(cfg, chain.stages_with_defaults(cfg)))
    plans = zip(steps, chain.planned(steps), strict=True)
    todo = [stages[step["name"]] for step, (what, _) in plans if what != "skip"]
    problems = evaluation_of(cfg.evaluation)
    return cfg.doctor, examine(todo, cfg.doctor, problems, list(stages.values()))


def check_one(config: str, overrides: list[str]) -> tuple[StageDoctorConfig, list[Finding]]:
    """Findings on one stage."""
    own = [override for override in overrides if override.startswith("doctor.")]
    options = load(DoctorKeys, None, own).doctor
    recipe = options.recipe or recipe_of(config)
    schema = importlib.import_module(f"recipes.{recipe}").main.schema
    cfg = load(schema, config, [o for o in overrides if not o.startswith("doctor.")])
    stage = Stage(
        options.stage or recipe, recipe, cfg, options.ranks, options.trained_on, alone=True
    )
    beside = options.evaluation or str(Path(config).with_name("evaluate.yaml"))
    problems = evaluation_of(beside) if Path(beside).is_file() else EvaluationProblems()
    found = examine([stage], options, problems)
    ready = isinstance(cfg, RLConfig) and Path(cfg.engine.get("model", "")).is_dir()
    if ready and options.forecast_prompts and not blocking(found, options.allow):
        found += [f.of(stage.name) for f in forecast(stage, options.forecast_prompts)]
    return options, found


def evaluation_of(config: str) -> EvaluationProblems:
    """The problems of an evaluation's YAML."""
    try:
        own = load(EvaluateConfig, config, ["models={}"]).problems or {}
    except UserError:  # loading its problems says so
        own = {}
    path, column = str(own.get("path") or ""), own.get("problem", "problem")
    as_set = Path(path).is_file() and column in ("problem", "question")  # what curate can read
    return EvaluationProblems(partial(problems_of_evaluation, config), path if as_set else "")


def recipe_of(config: str) -> str:
    """The recipe that a stage's YAML belongs to: by its name (curate_limo.yaml), or else the one
    whose keys it holds.

    Raises:
        UserError: when neither tells.
    """
    folder = Path(__file__).parent
    known = sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("chain", "doctor"))
    stem, keys = Path(config).stem, set(read_yaml(config))
    if stem in known:
        return stem
    fits = [name for name in known if name in stem.split("_")] or [
        name
        for name in known
        if keys <= set(importlib.import_module(f"recipes.{name}").main.schema.__dataclass_fields__)
    ]
    if len(fits) != 1:
        raise UserError(
            f"{config}: cannot tell its recipe{nearest(stem, known)}; set doctor.recipe=..."
        )
    return fits[0]


if __name__ == "__main__":
    main()
