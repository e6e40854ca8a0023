"""All checks of a stage or of a chain."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from custom_components.config import UserError
from custom_components.data.data_config import CurateConfig
from custom_components.doctor import lengths, model, resources, template, training_data
from custom_components.doctor.findings import DoctorConfig, Finding, Stage
from eval.sets import SETS


@dataclass
class EvaluationProblems:
    """Problems of the evaluation in use, read once and only when a check needs them.

    Attributes:
        load: yields (task, whether its problems are a benchmark's, problem); a `UserError` in place
            of those of a task that cannot be loaded.
        own: file of those among them that are no public set's; empty where there is none.
        missing: why some could not be loaded; empty when all were.
    """

    load: Callable[[], Iterator[tuple[str, bool, str] | UserError]] = lambda: iter(())
    own: str = ""
    missing: str = ""
    _found: list[tuple[str, bool, str]] | None = field(default=None, repr=False)

    def get(self) -> list[tuple[str, bool, str]]:
        """All that can be loaded."""
        if self._found is None:
            self._found, failed = [], []
            try:
                for item in self.load():
                    (failed if isinstance(item, UserError) else self._found).append(item)
            except UserError as e:
                failed.append(e)
            self.missing = "; ".join(map(str, failed))
        return self._found


def examine(
    stages: list[Stage],
    options: DoctorConfig,
    evaluation: EvaluationProblems,
    chain: list[Stage] | None = None,
) -> list[Finding]:
    """What can be found now: what an earlier stage has still to make is looked at later.

    Args:
        stages: in order; of a chain, those that are still to run. What one of them reads an earlier
            one may make.
        options: the doctor's keys.
        evaluation: problems that may not be trained on.
        chain: all stages of the chain in order, those that are done or not chosen included.
    """
    stages = [
        replace(stage, made_before=tuple(earlier.cfg.output_dir for earlier in stages[:i]))
        for i, stage in enumerate(stages)
    ]
    names = {stage.name for stage in stages}
    branches = [f for f in lengths.check_branches(chain or stages) if f.stage in names]
    found = [*branches, *resources.check_disk(stages)]
    for stage in stages:
        mine = list(model.check_model(stage))
        if not mine:  # these look into the model
            mine += [
                *lengths.check_context(stage),
                *lengths.check_rope_branch(stage),
                *lengths.check_room(stage, options.rows),
                *resources.check_memory(stage, options),
            ]
        mine += [
            *template.check_template(stage),
            *training_data.check_inputs(stage),
            *training_data.check_files(stage),
            *training_data.check_problems(stage, options.rows),
            *training_data.check_training_rows(stage, options.rows),
            *check_decontamination(stage, evaluation),
        ]
        if stage.trains and not stage.missing(stage.problems_path):
            known = evaluation.get()
            exact = [(name, text) for name, _, text in known]
            real = [(name, text) for name, is_real, text in known if is_real]
            mine += training_data.check_contamination(stage, exact, real, options.rows)
        found += [finding.of(stage.name) for finding in mine]
    if evaluation.missing:
        unknown = Finding(
            "decontamination",
            "warning",
            f"not all evaluation problems are here: {evaluation.missing}",
            "copies of those that are missing were not looked for",
            "",
        )
        found.append(unknown.of("evaluation"))
    return found


def check_decontamination(stage: Stage, evaluation: EvaluationProblems) -> Iterator[Finding]:
    """Whether a curate stage takes out the problems of the evaluation in use."""
    if not isinstance(stage.cfg, CurateConfig):
        return
    options = stage.cfg.decontamination
    named = {Path(name).stem for name in options.sets}
    used = {name.removeprefix("reasoning_") for name, is_real, _ in evaluation.get() if is_real}
    missing = sorted(name for name in used - named if name in SETS)
    if "own" in used and evaluation.own:
        files = {Path(name).resolve() for name in options.sets}
        missing += [evaluation.own] * (Path(evaluation.own).resolve() not in files)
    if missing:
        yield Finding(
            "decontamination",
            "warning",
            f"decontamination.sets lacks {', '.join(missing)}, which the evaluation uses",
            "copies of their problems stay in the training data",
            f"decontamination.sets=[{','.join([*options.sets, *missing])}]",
        )
