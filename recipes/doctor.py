"""Look for what would spoil a run, before it costs anything.

    tune run recipes/doctor.py --config configs/tiny/chain.yaml
    tune run recipes/doctor.py --config configs/phi4_mini/chain.yaml doctor.device=H100 doctor.ranks=8
    tune run recipes/doctor.py --config configs/phi4_mini/sft.yaml doctor.device=H100 doctor.ranks=8
    tune run recipes/doctor.py --config configs/tiny/grpo.yaml doctor.forecast_prompts=50

Takes the YAML of any stage or chain, and its overrides. Each finding says what was found, why it
matters and what to change; errors end the process with status 2. What an earlier stage has yet to
make is passed over: a chain calls the doctor again before each stage. For an RL stage whose start
model exists, a few prompts are sampled, to tell how many groups will teach anything.

With `doctor.device` a table says how much memory each training stage takes of that GPU, and how long
it trains. Memory is that of one rank at its highest point: the longest documents that the config
allows, all of their tokens scored. Time is tokens x FLOPs at a share of the GPUs' peak.
"""

from dataclasses import asdict, fields
from pathlib import Path

from custom_components.chain.chain_config import ChainConfig
from custom_components.chain.examine import ChainDoctor
from custom_components.chain.plan import check_chain, chosen_steps, plan
from custom_components.config import (
    UserError,
    command_line,
    errors_in_one_line,
    load,
    nearest,
    read_yaml,
    schema_of,
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
from custom_components.doctor.doctor_config import DoctorKeys
from custom_components.doctor.forecast import forecast
from custom_components.doctor.planning import show_estimates
from custom_components.io import write_json
from custom_components.rl.rl_config import RLConfig


def main() -> None:
    """Examine a stage or a chain."""
    config, overrides = command_line(__doc__)
    with errors_in_one_line():
        look_at = examine_chain if is_chain(config) else examine_stage
        options, findings = look_at(config, overrides)
        show(findings)
        if options.output:
            write_json(options.output, [asdict(finding) for finding in findings])
        refuse(findings, options.allow)
        print("no error found", flush=True)


def is_chain(config: str) -> bool:
    """Tell whether a YAML is a chain's."""
    return {"stages", "evaluation"} <= set(read_yaml(config))


def examine_chain(config: str, overrides: list[str]) -> tuple[DoctorConfig, list[Finding]]:
    """Examine the stages of a chain that will run; return the doctor's keys and the findings."""
    cfg = load(ChainConfig, config, overrides)
    steps = chosen_steps(cfg)
    check_chain(cfg, steps)
    doctor = ChainDoctor(cfg)
    stages = doctor.stages_to_run(steps, plan(steps))
    if cfg.doctor.device:
        show_estimates(stages, cfg.doctor)
    return cfg.doctor, doctor.examine(stages)


def examine_stage(config: str, overrides: list[str]) -> tuple[DoctorConfig, list[Finding]]:
    """Examine a single stage; return the doctor's keys and the findings."""
    doctor_keys = [key for key in overrides if key.startswith("doctor.")]
    options = load(DoctorKeys, None, doctor_keys).doctor
    recipe = options.recipe or recipe_of(config)
    cfg = load(schema_of(recipe), config, [key for key in overrides if key not in doctor_keys])
    name, ranks = options.stage or recipe, options.ranks or 1
    stage = Stage(name, recipe, cfg, ranks, options.trained_on, alone=True)
    if options.device:
        show_estimates([stage], options)
    evaluation = options.evaluation or str(Path(config).with_name("evaluate.yaml"))
    exists = Path(evaluation).is_file()
    problems = EvaluationProblems()
    if exists:
        problems = EvaluationProblems.of(evaluation, options.evaluation_overrides)
    findings = examine([stage], options, problems)
    if isinstance(cfg, RLConfig) and Path(cfg.engine.get("model", "")).is_dir():
        if options.forecast_prompts and not blocking(findings, options.allow):
            forecasts = forecast(cfg, ranks, options.forecast_prompts)
            findings += [finding.at(name) for finding in forecasts]
    return options, findings


def recipe_of(config: str) -> str:
    """Return the recipe that a stage's YAML belongs to.

    The name of the file decides (curate_limo.yaml), or else the keys that it holds.

    Raises:
        UserError: When neither decides.
    """
    recipes = sorted(
        p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("chain", "doctor")
    )
    stem, keys = Path(config).stem, set(read_yaml(config))
    if stem in recipes:
        return stem
    fitting = [name for name in recipes if name in stem.split("_")] or [
        name for name in recipes if keys <= {field.name for field in fields(schema_of(name))}
    ]
    if len(fitting) != 1:
        raise UserError(
            f"{config}: cannot tell its recipe{nearest(stem, recipes)}; set doctor.recipe=..."
        )
    return fitting[0]


if __name__ == "__main__":
    main()
