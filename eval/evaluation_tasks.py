"""Load the tasks, and the problems, that the config of an evaluation names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from custom_components.config import UserError, instantiate, load, nearest
from custom_components.runs.manifest import ROOT
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.prompt_form import trained_form, warn
from eval.evaluate_config import EvaluateConfig
from eval.repeats import repeated
from eval.sets import SETS, evaluation_problems


class EvaluationProblem(NamedTuple):
    """Hold a problem that an evaluation asks.

    Attributes:
        task: Name of its lm-eval task.
        is_benchmark: Whether the task is a benchmark, of which altered copies count too. Generated
            problems that differ in a digit (the tiny track's) are not.
        text: The problem.
    """

    task: str
    is_benchmark: bool
    text: str


def load_tasks(cfg: EvaluateConfig, instruction: str = "") -> tuple[Any, list[dict[str, Any]]]:
    """Return lm-eval's task manager, and the configs of the tasks with their repeats.

    Args:
        cfg: config of the evaluation.
        instruction: text after each of the user's own problems; the other tasks have their own.

    Raises:
        UserError: When there is no such task, or our verifier does not score it.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    include = Path(cfg.include_path)
    folder = str(include if include.is_dir() else ROOT / include)
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(cfg.tasks) <= set(manager.all_tasks):  # indexing lm-eval's own takes seconds
        manager = TaskManager(include_path=folder)

    def config_of(task: str) -> dict[str, Any]:
        return load_yaml(cast(Path, manager.task_index[task].yaml_path), resolve_func=True)

    tasks = []
    for name in cfg.tasks:
        if name not in manager.all_tasks:
            ours = [t for t in manager.all_tasks if t.startswith("reasoning_")]
            raise UserError(f"tasks: no lm-eval task {name!r}{nearest(name, ours)}")
        config = config_of(name)
        members = config["task"]  # of a group: the names of its tasks
        for task in [config] if isinstance(members, str) else map(config_of, members):
            if "samples" not in {m["metric"] for m in task.get("metric_list", [])}:
                raise UserError(
                    f"tasks: {task['task']} is not scored by this project's verifier; take one of "
                    "ours (reasoning_...), or run it by lm_eval itself"
                )
            if task["task"] == "reasoning_own" and cfg.problems:
                task = with_own_problems(task, cfg, instruction)
            tasks.append(repeated(task, cfg.repeats or task.get("repeats", 1)))
    return manager, tasks


def with_own_problems(
    task: dict[str, Any], cfg: EvaluateConfig, instruction: str
) -> dict[str, Any]:
    """Return a task's config with the problems of `cfg`, followed by the instruction."""
    from eval.tasks.functions import whole

    data = whole(instantiate(cfg.problems, "problems"))
    suffix = f"\n{{% raw %}}{instruction}{{% endraw %}}" if instruction else ""
    return task | {"custom_dataset": lambda **_: data, "doc_to_text": "{{problem}}" + suffix}


def warn_of_other_instructions(tokenizer: ChatTokenizer, tasks: list[dict[str, Any]]) -> None:
    """Print a warning for each task that asks with another instruction than the model's training.

    The user's own problems are asked with the tokenizer's instruction, which warns by itself, and
    the instruction of a multiple-choice task has to name the letters.

    Args:
        tokenizer: tokenizer of the model.
        tasks: configs of `load_tasks`.
    """
    trained = trained_form(tokenizer.path)
    for task in tasks:
        own_form = (task.get("metadata") or {}).get("multiple_choice")
        if trained is None or own_form or task["task"] == "reasoning_own":
            continue
        instruction = str(task["doc_to_text"]).partition("{{problem}}")[2].strip()
        if instruction != trained.instruction:
            warn(
                f"{tokenizer.path} was trained with instruction {trained.instruction!r}, and "
                f"{task['task']} asks with {instruction!r}; its score may be lower for that"
            )


def problems_of_evaluation(
    config: str, overrides: Sequence[str] = ()
) -> Iterator[EvaluationProblem | UserError]:
    """Yield the problems that the YAML of an evaluation asks, with `key=value` overrides.

    A public set that cannot be loaded yields its UserError instead, so that the others are used.

    Raises:
        UserError: When a task is unknown, or the problems of another task cannot be loaded.
    """
    cfg = load(EvaluateConfig, config, [*overrides, "models={}"])
    names = {task: task.removeprefix("reasoning_") for task in cfg.tasks}
    for task, name in names.items():  # without lm-eval, which takes seconds to import
        if name in SETS:
            try:
                for _, text in evaluation_problems([name]):
                    yield EvaluationProblem(task, name != "tiny_addition", text)
            except UserError as e:
                yield e
    if "reasoning_own" in names and cfg.problems:
        from eval.tasks.functions import whole

        for text in whole(instantiate(cfg.problems, "problems"))["test"]["problem"]:
            yield EvaluationProblem("reasoning_own", True, text)
        names.pop("reasoning_own")
    cfg.tasks = [task for task, name in names.items() if name not in SETS]
    for task in load_tasks(cfg)[1] if cfg.tasks else []:
        for row in task["custom_dataset"]()["test"]:
            yield EvaluationProblem(task["task"], True, row["problem"])
