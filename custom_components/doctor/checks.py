"""Run all checks on a stage or a chain."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from custom_components.data.data_config import CurateConfig
from custom_components.doctor import lengths, model, resources, template, training_data
from custom_components.doctor.doctor_config import DoctorConfig
from custom_components.doctor.evaluation import EvaluationProblems
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage
from eval.sets import SETS


def examine(
    stages: list[Stage],
    options: DoctorConfig,
    evaluation: EvaluationProblems,
    chain: list[Stage] | None = None,
) -> list[Finding]:
    """Find what can be found now. What an earlier stage has yet to make is examined later.

    Args:
        stages: Stages to examine, in order; of a chain, those that will run. One may read what an
            earlier one makes.
        options: Keys of the doctor.
        evaluation: Problems that may not be trained on.
        chain: All stages of the chain in order, with those that are complete or not chosen.
    """
    stages = [
        replace(stage, made_before=tuple(earlier.cfg.output_dir for earlier in stages[:i]))
        for i, stage in enumerate(stages)
    ]
    names = {stage.name for stage in stages}
    findings = [f for f in lengths.check_branches(chain or stages) if f.stage in names]
    findings += resources.check_disk(stages)
    for stage in stages:
        findings += [f.at(stage.name) for f in examine_stage(stage, options, evaluation)]
    if evaluation.failures:
        findings.append(
            Finding(
                "decontamination",
                "warning",
                f"not all evaluation problems are here: {'; '.join(evaluation.failures)}",
                "copies of the missing ones were not looked for",
                "",
                "evaluation",
            )
        )
    return findings


def examine_stage(
    stage: Stage, options: DoctorConfig, evaluation: EvaluationProblems
) -> Iterator[Finding]:
    """Yield the findings on one stage, without its name."""
    findings = list(model.check_model(stage))
    yield from findings
    if not findings:  # These checks look into the model.
        yield from lengths.check_context(stage)
        yield from lengths.check_rope_branch(stage)
        yield from lengths.check_room(stage, options.rows)
        yield from resources.check_memory(stage, options)
    yield from template.check_template(stage)
    yield from training_data.check_inputs(stage)
    yield from training_data.check_files(stage)
    yield from training_data.check_problems(stage, options.rows)
    yield from training_data.check_training_rows(stage, options.rows)
    yield from check_decontamination(stage, evaluation)
    if stage.trains and not stage.missing(stage.problems_path):
        yield from training_data.check_contamination(stage, evaluation.problems, options.rows)


def check_decontamination(stage: Stage, evaluation: EvaluationProblems) -> Iterator[Finding]:
    """Check that a curate stage removes the problems of the evaluation."""
    if not isinstance(stage.cfg, CurateConfig):
        return
    sets = stage.cfg.decontamination.sets
    removed = {Path(name).stem for name in sets}
    used = {p.task.removeprefix("reasoning_") for p in evaluation.problems if p.is_benchmark}
    missing = sorted(name for name in used - removed if name in SETS)
    if "own" in used and evaluation.own_file:
        files = {Path(name).resolve() for name in sets}
        if Path(evaluation.own_file).resolve() not in files:
            missing.append(evaluation.own_file)
    if missing:
        names = [f'"{name}"' if "[" in name else name for name in [*sets, *missing]]
        yield Finding(
            "decontamination",
            "warning",
            f"decontamination.sets lacks {', '.join(missing)}, which the evaluation uses",
            "copies of their problems stay in the training data",
            f"decontamination.sets=[{','.join(names)}]",
        )
